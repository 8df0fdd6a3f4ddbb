"""Whether a day looks like the days before it: bounds learned from the figures of the published days.

A figure is usual within

    median ± max(spread · σ, slack · usual, noise, floor)

of its values on the last `daily.bounds.history_days` published days:

* σ is 1.4826 · MAD (the median distance to the median), which one odd day does not move. On fewer than 14 days MAD may be near
  zero by chance, or see no weekend; half the range of the values is taken where that is more.
* slack · usual: of the median; for shares of a whole (nulls, scenarios) of the rarer side, min(p, 1 − p), so that 99 % has
  bounds as close as 1 % has.
* noise: `spread` standard errors of a count, a share or a mean of n rows: √rows, √(p(1 − p)/n), s/√n with s the deviation of the
  labels (the median of the days'). One row in n where the days have none, so that the first one is no alarm.
* floor: 0.01 for shares of a whole, 0.05 for new IDs.

Weekdays differ: with two or more days of the same weekday, the bounds reach as far as those do, and max(slack · usual, noise,
floor) beyond. A figure that fewer than `min_days` days have is not judged. One earlier day is enough for the columns, and for
the fewest rows: `min_rows_share` of the median of the days before, or of the same weekday's day that had fewest.

| figure | too low | too high |
|---|---|---|
| rows | late | broken |
| observed share of a task | late | – |
| mean label, null share, share of a scenario | broken | broken |
| share of new IDs | – | broken |
| type of a column | broken where it changed or is gone | |
"""

import datetime as dt
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from raymtl.config.daily import Bounds
from raymtl.daily.record import Figures
from raymtl.data.contract import MISSING, NO_VALUES
from raymtl.words import count_of

_MAD_TO_STD = 1.4826  # of a normal distribution
_TWO_WEEKS = 14
_SHARE_FLOOR, _NEW_IDS_FLOOR = 0.01, 0.05

_ACCEPT = "accept the day once with --ignore-bounds, or set daily.bounds"
_FIX = f"fix the logs and run the day again, {_ACCEPT}"
_WAIT = f"run the same command again when the rest is there, {_ACCEPT}"


@dataclass(frozen=True)
class Findings:
    """What is unusual about a day, one sentence each.

    Where anything is `late`, the day is probably incomplete, and that may well be why it looks `broken`: wait first.
    """

    late: list[str] = field(default_factory=list)
    """What is probably still to come."""
    broken: list[str] = field(default_factory=list)
    """What waiting does not fix."""

    def without_advice(self) -> list[str]:
        """The sentences without what to do: of a day that a human has let through."""
        said = [sentence.replace(_WAIT, "").replace(_FIX, "") for sentence in (*self.broken, *self.late)]
        return [sentence.rstrip("; ") for sentence in said]


def find_data_drift(figures: Figures, day: dt.date, earlier: Mapping[dt.date, Figures], bounds: Bounds) -> Findings:
    """Compare a day with the published days before it; `earlier` may hold any days, and those from `day` on are left out."""
    days = sorted(d for d in earlier if d < day)[-bounds.history_days :]
    judge = _DriftEvaluator(figures, day, {d: earlier[d] for d in days}, bounds, Findings())
    judge.columns()
    judge.rows()
    judge.labels()
    judge.shares()
    return judge.findings


@dataclass(frozen=True)
class _DriftEvaluator:
    figures: Figures
    day: dt.date
    earlier: dict[dt.date, Figures]
    """In order."""
    bounds: Bounds
    findings: Findings

    def columns(self) -> None:
        newest_first = sorted(self.earlier, reverse=True)
        for name, now in self.figures.columns.items():
            before = [(d, self.earlier[d].columns[name]) for d in newest_first if name in self.earlier[d].columns]
            known = [(d, kind) for d, kind in before if kind not in (MISSING, NO_VALUES)]
            if not known or now == NO_VALUES:  # the null shares tell of a column without any value
                continue
            last, kind = known[0]
            if now == MISSING and before[0][1] != MISSING:
                self.findings.broken.append(f"column `{name}` is gone; it held {kind} until {last}; {_FIX}")
            elif now not in (MISSING, kind):
                self.findings.broken.append(f"column `{name}` holds {now}; it held {kind} until {last}; {_FIX}")

    def rows(self) -> None:
        now, before = self.figures.rows, {d: f.rows for d, f in self.earlier.items()}
        usual = self._usual(
            before, lambda centre: max(self.bounds.slack * centre, self.bounds.spread * math.sqrt(centre))
        )
        has = f"the day has {count_of(now, 'row')}"
        if usual is None or now >= usual.low:
            self._far_too_few(now, before, has)
        if usual is None:
            return
        sentence = f"{has}, usual are {usual.low:,.0f} to {usual.high:,.0f} {usual.days}"
        if now < usual.low:
            self.findings.late.append(f"{sentence}; {_WAIT}")
        elif now > usual.high:
            self.findings.broken.append(f"{sentence}; are some written twice? {_FIX}")

    def _far_too_few(self, now: int, before: Mapping[dt.date, int], has: str) -> None:
        """A day that is next to nothing beside the others, also where they are too few to learn bounds from."""
        if not before:
            return
        alike = [rows for day, rows in before.items() if day.weekday() == self.day.weekday()]
        usual = min(statistics.median(before.values()), *alike) if alike else statistics.median(before.values())
        if now < self.bounds.min_rows_share * usual:
            self.findings.late.append(
                f"{has}, fewer than {_percent(self.bounds.min_rows_share)} of the {usual:,.0f} that are usual (of "
                f"{count_of(len(before), 'day')}; daily.bounds.min_rows_share); {_WAIT}"
            )

    def labels(self) -> None:
        for name, share in self.figures.observed.items():
            values = _by_day(self.earlier, "observed", name)
            usual = self._usual(
                values, lambda p: max(self.bounds.slack * p, self._share_noise(p, self.figures.rows), _SHARE_FLOOR)
            )
            if usual is not None and share < usual.low:
                self.findings.late.append(
                    f"tasks.{name}: {_percent(share)} of the labels are observed, usual are {usual.shares()}; {_WAIT}"
                )
        for name, mean in self.figures.labels.items():
            if mean is None:
                continue  # no label is observed, which is said above
            usual = self._usual(_by_day(self.earlier, "labels", name), self._mean_room(self._mean_noise(name)))
            if usual is not None and not usual.low <= mean <= usual.high:
                self.findings.broken.append(
                    f"tasks.{name}: the mean label is {mean:.4g}, usual are {usual.numbers()}; {_FIX}"
                )

    def shares(self) -> None:
        for what, key, words in (
            ("nulls", "features.{}", "of the rows are null"),
            ("scenarios", "data.scenario `{}`", "of the rows have that value"),
        ):
            for name, share in getattr(self.figures, what).items():
                usual = self._usual(_by_day(self.earlier, what, name), self._part_of_whole)
                if usual is not None and not usual.low <= share <= usual.high:
                    self.findings.broken.append(
                        f"{key.format(name)}: {_percent(share)} {words}, usual are {usual.shares()}; {_FIX}"
                    )
        for name, share in self.figures.new_ids.items():
            usual = self._usual(
                _by_day(self.earlier, "new_ids", name),
                lambda p: max(self.bounds.slack * p, self._share_noise(p, self.figures.rows), _NEW_IDS_FLOOR),
            )
            if usual is not None and share > usual.high:
                self.findings.broken.append(
                    f"tables.{name}: {_percent(share)} of the lookups are of new IDs, usual are {usual.shares()}; are the IDs "
                    f"written in another form? {_FIX}"
                )

    def _part_of_whole(self, p: float) -> float:
        return max(self.bounds.slack * min(p, 1 - p), self._share_noise(p, self.figures.rows), _SHARE_FLOOR)

    def _mean_room(self, noise: float) -> Callable[[float], float]:
        return lambda mean: max(self.bounds.slack * abs(mean), noise)

    def _share_noise(self, p: float, rows: int) -> float:
        rows = max(1, rows)
        return self.bounds.spread * math.sqrt(max(p * (1 - p), 1 / rows) / rows)

    def _mean_noise(self, task: str) -> float:
        labels = max(1.0, self.figures.rows * self.figures.observed[task])
        deviations = _by_day(self.earlier, "deviations", task)
        deviation = statistics.median(deviations.values()) if deviations else 0.0
        return self.bounds.spread * (deviation or 1 / math.sqrt(labels)) / math.sqrt(labels)

    def _usual(self, values: Mapping[dt.date, float], least: Callable[[float], float]) -> "_Usual | None":
        """The bounds that the values of earlier days give; `least` is the least half width around a usual value."""
        if len(values) < self.bounds.min_days:
            return None
        centre, found = statistics.median(values.values()), sorted(values.values())
        sigma = _MAD_TO_STD * statistics.median(abs(v - centre) for v in found)
        if len(found) < _TWO_WEEKS:
            sigma = max(sigma, (found[-1] - found[0]) / 2)
        width = max(self.bounds.spread * sigma, least(centre))
        low, high = centre - width, centre + width
        alike = [v for d, v in values.items() if d.weekday() == self.day.weekday()]
        if len(alike) >= 2:
            room = least(statistics.median(alike))
            low, high = min(low, min(alike) - room), max(high, max(alike) + room)
        if found[0] >= 0:
            low = max(low, 0.0)  # what never was negative cannot be
        return _Usual(low, high, len(found))


@dataclass(frozen=True)
class _Usual:
    low: float
    high: float
    count: int

    @property
    def days(self) -> str:
        return f"(of {count_of(self.count, 'day')})"

    def shares(self) -> str:
        return f"{_percent(self.low)} to {_percent(min(1.0, self.high))} {self.days}"

    def numbers(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g} {self.days}"


def _by_day(earlier: Mapping[dt.date, Figures], what: str, name: str) -> dict[dt.date, float]:
    """One figure by day, of the days that have it."""

    def found() -> Iterator[tuple[dt.date, float]]:
        for day, figures in earlier.items():
            value = getattr(figures, what).get(name)
            if value is not None:
                yield day, value

    return dict(found())


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
