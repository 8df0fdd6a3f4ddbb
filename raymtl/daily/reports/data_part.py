"""The data of a day compared with that of earlier days."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from raymtl.daily.record import DayStatistics, Record
from raymtl.daily.reports.series import by_date
from raymtl.daily.reports.served import was_published
from raymtl.reports.days import ratio_to_median
from raymtl.reports.page import Cell, Collapsible, Drawing, Grid, Paragraph, Part
from raymtl.reports.style import count, percent, significant
from raymtl.reports.tables import OTHER
from raymtl.words import visible

_HISTORY_DAYS = 14
_LEAST_DAYS = 3
_REACH = (19.21, 9.22, 6.62, 5.51, 4.90, 4.53, 4.28, 4.09, 3.96, 3.85, 3.76, 3.69)
"""What three standard deviations are with 3 to 14 days: the 99.865 % quantile of Student's distribution, degrees: days - 1."""
_FOLD_ROWS = 12
_DRAWN = 24


@dataclass(frozen=True)
class Statistic:
    """One number of a day's data, and its earlier values."""

    what: str
    of: str
    value: float
    before: list[float]
    show: Callable[[Any], str]
    rows: int = 0
    """Rows of the day that it is a share of; 0: it is no share."""

    @property
    def name(self) -> str:
        """Its name in the report."""
        return f"{self.what}, {self.of}" if self.of else self.what

    @property
    def median_before(self) -> float | None:
        """The median of the earlier days."""
        return median(self.before) if self.before else None

    @property
    def unusual(self) -> bool:
        """Further from the median than a tenth, and than chance allows: see `_comparison`.

        The standard deviation is 1.4826 times the median absolute deviation, and for a share at least that of the binomial
        distribution. Few days estimate it badly, so it counts `_REACH` · √(1 + 1/n) times for n days.
        """
        if self.median_before is None or len(self.before) < _LEAST_DAYS:
            return False
        deviation = 1.4826 * median(abs(v - self.median_before) for v in self.before)
        if self.rows and 0 <= self.median_before <= 1:
            rate = max(self.median_before, 1 / self.rows)
            deviation = max(deviation, math.sqrt(rate * (1 - rate) / self.rows))
        days = len(self.before)
        reach = _REACH[days - _LEAST_DAYS] * math.sqrt(1 + 1 / days) * deviation
        return abs(self.value - self.median_before) > max(reach, 0.1 * abs(self.median_before), 1e-4)


def data_parts(stats: DayStatistics, earlier: Sequence[Record], colours: dict[str, str]) -> list[Part]:
    """A plot of the ratios to the median, and the numbers."""
    published = [r.stats for r in by_date(earlier) if was_published(r) and r.stats is not None]
    history = published[-_HISTORY_DAYS:]
    found = _statistics(stats, history)
    nulls = _nulls(stats, history)
    parts: list[Part] = [Paragraph(_comparison(history))]
    drawing = _drawing(found, colours) if len(history) >= _LEAST_DAYS else None
    if drawing:
        parts.append(Drawing(drawing))
    parts.append(_grid(found))
    if nulls:
        grid = _grid(nulls)
        parts.append(Collapsible(f"Nulls of {len(nulls)} features", [grid]) if len(nulls) > _FOLD_ROWS else grid)
    without = len(stats.nulls) - len(nulls)
    if without:
        parts.append(Paragraph(f"{without} feature{'s have' if without > 1 else ' has'} no nulls, as before."))
    parts += [Paragraph(sentence) for sentence in _types(stats, history)]
    return parts


def _comparison(history: list[DayStatistics]) -> str:
    if not history:
        return "There is no published day before this one to compare with."
    days = "the published day" if len(history) == 1 else f"the {len(history)} published days"
    said = f"Compared with {days} before."
    if len(history) < _LEAST_DAYS:
        return said
    return (
        f"{said} Amber: more than a tenth away from their median, and by more than chance allows (three standard deviations "
        f"of the days, more with fewer days). Grey bars show their minimum and maximum."
    )


def _statistics(stats: DayStatistics, history: list[DayStatistics]) -> list[Statistic]:
    found = [Statistic("rows", "", stats.rows, [float(f.rows) for f in history], count)]
    found += _named("mean label", stats, history, lambda f: f.labels, significant)
    found += _named("labels observed", stats, history, lambda f: f.observed, percent)
    found += _named("share of scenario", stats, history, lambda f: f.scenarios, percent)
    found += _named("new IDs", stats, history, lambda f: f.new_ids, percent)
    found += _named("distinct IDs", stats, history, lambda f: f.distinct, count)
    return found


def _nulls(stats: DayStatistics, history: list[DayStatistics]) -> list[Statistic]:
    """Features that have nulls now or had some, largest change first."""
    found = [f for f in _named("nulls", stats, history, lambda f: f.nulls, percent) if any([f.value, *f.before])]
    return sorted(found, key=lambda f: -abs(f.value - (f.median_before or 0.0)))


def _named(
    what: str,
    stats: DayStatistics,
    history: list[DayStatistics],
    read: Callable[[DayStatistics], dict[str, Any]],
    show: Callable[[Any], str],
) -> list[Statistic]:
    found = []
    for name, value in read(stats).items():
        if value is None:
            continue
        before = [v for f in history if (v := read(f).get(name)) is not None]
        if what == "share of scenario" and name == OTHER and not any([value, *before]):
            continue
        is_share = all(0 <= v <= 1 for v in [value, *before])
        found.append(Statistic(what, visible(name), value, before, show, stats.rows if is_share else 0))
    return found


def _grid(found: list[Statistic]) -> Grid:
    """Only the numbers if there are no earlier days."""
    compared = any(f.before for f in found)
    rows = []
    for i, f in enumerate(found):
        first = i == 0 or found[i - 1].what != f.what
        rows.append(
            [
                Cell(f.what if first else "", "name"),
                Cell(f.of, "part"),
                Cell(f.show(f.value), "look" if f.unusual else ""),
            ]
        )
        if compared:
            low, high = (min(f.before), max(f.before)) if f.before else (None, None)
            ratio = Cell(_vs_median(f), "look" if f.unusual else "faint")
            rows[-1] += [Cell(f.show(f.median_before)), Cell(f.show(low)), Cell(f.show(high)), ratio]
    heads = frozenset(i for i, row in enumerate(rows) if row[0].text)
    columns = ["statistic", "of", "this day"]
    if compared:
        columns += ["median before", "minimum", "maximum", "vs median"]
    return Grid(columns, rows, heads, narrow=not compared)


def _vs_median(f: Statistic) -> str:
    if not f.median_before:
        return "–"
    return f"{100 * (f.value / f.median_before - 1):+.1f} %".replace("-", "−")


def _drawing(found: list[Statistic], colours: dict[str, str]) -> str | None:
    drawn: list[Statistic] = []
    rows = []
    for f in found:
        if f.median_before and f.what != "labels observed" and len(drawn) < _DRAWN:
            low, high = min(f.before) / f.median_before, max(f.before) / f.median_before
            drawn.append(f)
            rows.append((f.name, f.value / f.median_before, low, high, f.unusual))
    by_name = {f.name: colours[f.of] for f in drawn if f.what == "mean label" and f.of in colours}
    return ratio_to_median(rows, by_name, "DayStatistics of the day as a multiple of the median of the days before")


def _types(stats: DayStatistics, history: list[DayStatistics]) -> list[str]:
    """What changed in the columns since the last published day."""
    if not history or not history[-1].columns:
        return []
    old, new = history[-1].columns, stats.columns
    said = [f"Column `{n}` is now {new[n]}, it was {old[n]}." for n in new if n in old and new[n] != old[n]]
    said += [f"Column `{n}` ({new[n]}) is read for the first time." for n in new if n not in old]
    return said + [f"Column `{n}` is no longer read." for n in old if n not in new]
