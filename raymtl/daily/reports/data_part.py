"""The data of a day beside that of the days before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from raymtl.daily.record import Figures, Record
from raymtl.daily.reports.series import by_date
from raymtl.reports.days import against_usual
from raymtl.reports.page import Cell, Drawing, Folded, Grid, Part, Words
from raymtl.reports.style import count, percent, significant

_HISTORY_DAYS = 14
_LEAST_DAYS = 3
_FOLD_ROWS = 12
_DRAWN = 24


@dataclass(frozen=True)
class Figure:
    """One number of a day's data, and what it was before."""

    what: str
    of: str
    value: float
    before: list[float]
    show: Callable[[Any], str]

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.what}, {self.of}" if self.of else self.what

    @property
    def middle(self) -> float | None:
        """The median of the days before."""
        return median(self.before) if self.before else None

    @property
    def unusual(self) -> bool:
        """Further from the median than three standard deviations, as the median absolute deviation gives them, and a tenth."""
        if self.middle is None or len(self.before) < _LEAST_DAYS:
            return False
        deviation = 1.4826 * median(abs(v - self.middle) for v in self.before)
        return abs(self.value - self.middle) > max(3 * deviation, 0.1 * abs(self.middle), 1e-4)


def data_parts(figures: Figures, earlier: Sequence[Record], colours: dict[str, str]) -> list[Part]:
    """A plot against what was usual, and the numbers."""
    published = [r.figures for r in by_date(earlier) if r.status == "published" and r.figures is not None]
    history = published[-_HISTORY_DAYS:]
    found = _figures(figures, history)
    nulls = _nulls(figures, history)
    parts: list[Part] = [Words(_said(history))]
    drawing = _drawing(found, colours) if len(history) >= _LEAST_DAYS else None
    if drawing:
        parts.append(Drawing(drawing))
    parts.append(_grid(found))
    if nulls:
        grid = _grid(nulls)
        parts.append(Folded(f"Nulls of {len(nulls)} features", [grid]) if len(nulls) > _FOLD_ROWS else grid)
    without = len(figures.nulls) - len(nulls)
    if without:
        parts.append(Words(f"{without} feature{'s have' if without > 1 else ' has'} no nulls, today as before."))
    parts += [Words(sentence) for sentence in _types(figures, history)]
    return parts


def _said(history: list[Figures]) -> str:
    if not history:
        return "There is no published day before this one to compare with."
    days = "the published day" if len(history) == 1 else f"the {len(history)} published days"
    said = f"Compared with {days} before."
    if len(history) < _LEAST_DAYS:
        return said
    return (
        f"{said} Amber: more than three standard deviations (by the median absolute deviation) and more than a tenth away from "
        f"their median. The grey bars reach from the least to the greatest of them."
    )


def _figures(figures: Figures, history: list[Figures]) -> list[Figure]:
    found = [Figure("rows", "", figures.rows, [float(f.rows) for f in history], count)]
    found += _named("mean label", figures, history, lambda f: f.labels, significant)
    found += _named("labels observed", figures, history, lambda f: f.observed, percent)
    found += _named("share of scenario", figures, history, lambda f: f.scenarios, percent)
    found += _named("new IDs", figures, history, lambda f: f.new_ids, percent)
    found += _named("distinct IDs", figures, history, lambda f: f.distinct, count)
    return found


def _nulls(figures: Figures, history: list[Figures]) -> list[Figure]:
    """Features that have nulls now or had some, the greatest change first."""
    found = [f for f in _named("nulls", figures, history, lambda f: f.nulls, percent) if any([f.value, *f.before])]
    return sorted(found, key=lambda f: -abs(f.value - (f.middle or 0.0)))


def _named(
    what: str,
    figures: Figures,
    history: list[Figures],
    read: Callable[[Figures], dict[str, Any]],
    show: Callable[[Any], str],
) -> list[Figure]:
    found = []
    for name, value in read(figures).items():
        if value is None:
            continue
        before = [v for f in history if (v := read(f).get(name)) is not None]
        found.append(Figure(what, name, value, before, show))
    return found


def _grid(found: list[Figure]) -> Grid:
    """With nothing to compare with, the numbers alone."""
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
            against = Cell(_against(f), "look" if f.unusual else "faint")
            rows[-1] += [Cell(f.show(f.middle)), Cell(f.show(low)), Cell(f.show(high)), against]
    heads = frozenset(i for i, row in enumerate(rows) if row[0].text)
    columns = ["figure", "of", "this day"]
    if compared:
        columns += ["median before", "least", "greatest", "against median"]
    return Grid(columns, rows, heads, narrow=not compared)


def _against(f: Figure) -> str:
    if not f.middle:
        return "–"
    return f"{100 * (f.value / f.middle - 1):+.1f} %".replace("-", "−")


def _drawing(found: list[Figure], colours: dict[str, str]) -> str | None:
    drawn: list[Figure] = []
    rows = []
    for f in found:
        if f.middle and f.what != "labels observed" and len(drawn) < _DRAWN:
            low, high = min(f.before) / f.middle, max(f.before) / f.middle
            drawn.append(f)
            rows.append((f.name, f.value / f.middle, low, high, f.unusual))
    by_name = {f.name: colours[f.of] for f in drawn if f.what == "mean label" and f.of in colours}
    return against_usual(rows, by_name, "Figures of the day as a multiple of the median of the days before")


def _types(figures: Figures, history: list[Figures]) -> list[str]:
    """What changed in the columns since the last published day."""
    if not history or not history[-1].columns:
        return []
    old, new = history[-1].columns, figures.columns
    said = [f"Column `{n}` is now {new[n]}, it was {old[n]}." for n in new if n in old and new[n] != old[n]]
    said += [f"Column `{n}` ({new[n]}) is read for the first time." for n in new if n not in old]
    return said + [f"Column `{n}` is read no more." for n in old if n not in new]
