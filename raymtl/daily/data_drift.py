"""Data drift: compares a day with bounds computed from the statistics of the published days before it.

A statistic is expected within

    median ± max(spread · σ, slack · median, noise, floor)

of its values on the last `daily.bounds.history_days` published days:

* σ is 1.4826 · MAD (the median distance to the median), which a single outlier does not move. On fewer than 14 days MAD may be
  near zero by chance, or cover no weekend; half the range of the values replaces it if that is larger.
* slack · median; for shares of rows (nulls, scenarios) of the smaller share, min(p, 1 − p), so that 99 % has bounds as
  close as 1 % has.
* noise: `spread` standard errors of a count, a share or a mean of n rows: √rows, √(p(1 − p)/n), s/√n with s the deviation of the
  labels (the median of the days'). One row in n if the days have none, so that a first occurrence does not raise an alarm.
* floor: 0.01 for shares of rows, 0.05 for new IDs.

Weekdays differ: with two or more days of the same weekday, the bounds also include their values, with a margin of
max(slack · median, noise, floor). A statistic that fewer than `min_days` days have is not judged. One earlier day is enough for
the columns, and for the minimum of rows: `min_rows_share` of the median of the earlier days, or of the same weekday's minimum.

| statistic | too low | too high |
|---|---|---|
| rows | incomplete | broken |
| observed share of a task | incomplete | – |
| mean label, null share, share of a scenario | broken | broken |
| share of new IDs | – | broken |
| type of a column | broken if it changed or is missing | |
"""

import datetime as dt
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from raymtl.config.daily import Bounds
from raymtl.daily.record import DayStatistics
from raymtl.data.contract import MISSING, NO_VALUES
from raymtl.words import count_of

_MAD_TO_STD = 1.4826  # of a normal distribution
_TWO_WEEKS = 14
_SHARE_FLOOR, _NEW_IDS_FLOOR = 0.01, 0.05

_ACCEPT = "if the data is right, accept the day once with --ignore-bounds, or widen daily.bounds"
_FIX = f"fix the logs and rerun the same command; {_ACCEPT}"
_WAIT = f"rerun the same command when the data is complete; {_ACCEPT}"


@dataclass(frozen=True)
class Findings:
    """What is unexpected about a day, one message each.

    If anything is `incomplete`, the day is probably incomplete, which may also be why something looks `broken`: wait first.
    """

    incomplete: list[str] = field(default_factory=list)
    """Data that has probably not arrived yet."""
    broken: list[str] = field(default_factory=list)
    """Faults that waiting does not fix."""

    def without_advice(self) -> list[str]:
        """The messages without their advice, for a day that --ignore-bounds accepts."""
        said = [sentence.replace(_WAIT, "").replace(_FIX, "") for sentence in (*self.broken, *self.incomplete)]
        return [sentence.rstrip("; ") for sentence in said]


def find_data_drift(
    stats: DayStatistics, day: dt.date, earlier: Mapping[dt.date, DayStatistics], bounds: Bounds
) -> Findings:
    """Compare a day with the published days before it; `earlier` may hold any days, and those from `day` on are ignored."""
    days = sorted(d for d in earlier if d < day)[-bounds.history_days :]
    drift = _DriftEvaluator(stats, day, {d: earlier[d] for d in days}, bounds, Findings())
    drift.columns()
    drift.rows()
    drift.labels()
    drift.shares()
    return drift.findings


@dataclass(frozen=True)
class _DriftEvaluator:
    stats: DayStatistics
    day: dt.date
    earlier: dict[dt.date, DayStatistics]
    """In order."""
    bounds: Bounds
    findings: Findings

    def columns(self) -> None:
        newest_first = sorted(self.earlier, reverse=True)
        for name, now in self.stats.columns.items():
            before = [(d, self.earlier[d].columns[name]) for d in newest_first if name in self.earlier[d].columns]
            known = [(d, kind) for d, kind in before if kind not in (MISSING, NO_VALUES)]
            if not known or now == NO_VALUES:  # the null shares cover a column without any value
                continue
            last, kind = known[0]
            if now == MISSING and before[0][1] != MISSING:
                self.findings.broken.append(f"column `{name}` is missing; it held {kind} until {last}; {_FIX}")
            elif now not in (MISSING, kind):
                self.findings.broken.append(f"column `{name}` holds {now}; it held {kind} until {last}; {_FIX}")

    def rows(self) -> None:
        now, before = self.stats.rows, {d: f.rows for d, f in self.earlier.items()}
        expected = self._expected(
            before, lambda centre: max(self.bounds.slack * centre, self.bounds.spread * math.sqrt(centre))
        )
        has = f"the day has {count_of(now, 'row')}"
        if expected is None or now >= expected.low:
            self._far_too_few(now, before, has)
        if expected is None:
            return
        sentence = f"{has}, expected {expected.low:,.0f} to {expected.high:,.0f} {expected.days}"
        if now < expected.low:
            self.findings.incomplete.append(f"{sentence}; {_WAIT}")
        elif now > expected.high:
            self.findings.broken.append(f"{sentence}; are some written twice? {_FIX}")

    def _far_too_few(self, now: int, before: Mapping[dt.date, int], has: str) -> None:
        """Report a day with far fewer rows than the others, even if they are too few to compute bounds from."""
        if not before:
            return
        same_weekday = [rows for day, rows in before.items() if day.weekday() == self.day.weekday()]
        usual = (
            min(statistics.median(before.values()), *same_weekday)
            if same_weekday
            else statistics.median(before.values())
        )
        if now < self.bounds.min_rows_share * usual:
            self.findings.incomplete.append(
                f"{has}, fewer than {_percent(self.bounds.min_rows_share)} of the expected {usual:,.0f} (from "
                f"{count_of(len(before), 'earlier day')}; daily.bounds.min_rows_share); {_WAIT}"
            )

    def labels(self) -> None:
        for name, share in self.stats.observed.items():
            values = _by_day(self.earlier, "observed", name)
            expected = self._expected(
                values, lambda p: max(self.bounds.slack * p, self._share_noise(p, self.stats.rows), _SHARE_FLOOR)
            )
            if expected is not None and share < expected.low:
                self.findings.incomplete.append(
                    f"tasks.{name}: {_percent(share)} of the labels are observed, expected {expected.shares()}; {_WAIT}"
                )
        for name, mean in self.stats.labels.items():
            if mean is None:
                continue  # no label is observed, which is reported above
            expected = self._expected(_by_day(self.earlier, "labels", name), self._mean_width(self._mean_noise(name)))
            if expected is not None and not expected.low <= mean <= expected.high:
                self.findings.broken.append(
                    f"tasks.{name}: the mean label is {mean:.4g}, expected {expected.numbers()}; {_FIX}"
                )

    def shares(self) -> None:
        for kind, key, text in (
            ("nulls", "features.{}", "of the rows are null"),
            ("scenarios", "data.scenario `{}`", "of the rows have that value"),
        ):
            for name, share in getattr(self.stats, kind).items():
                expected = self._expected(_by_day(self.earlier, kind, name), self._share_width)
                if expected is not None and not expected.low <= share <= expected.high:
                    self.findings.broken.append(
                        f"{key.format(name)}: {_percent(share)} {text}, expected {expected.shares()}; {_FIX}"
                    )
        for name, share in self.stats.new_ids.items():
            expected = self._expected(
                _by_day(self.earlier, "new_ids", name),
                lambda p: max(self.bounds.slack * p, self._share_noise(p, self.stats.rows), _NEW_IDS_FLOOR),
            )
            if expected is not None and share > expected.high:
                self.findings.broken.append(
                    f"tables.{name}: {_percent(share)} of the lookups are of new IDs, expected {expected.shares()}; are the IDs "
                    f"written in another form? {_FIX}"
                )

    def _share_width(self, p: float) -> float:
        return max(self.bounds.slack * min(p, 1 - p), self._share_noise(p, self.stats.rows), _SHARE_FLOOR)

    def _mean_width(self, noise: float) -> Callable[[float], float]:
        return lambda mean: max(self.bounds.slack * abs(mean), noise)

    def _share_noise(self, p: float, rows: int) -> float:
        rows = max(1, rows)
        return self.bounds.spread * math.sqrt(max(p * (1 - p), 1 / rows) / rows)

    def _mean_noise(self, task: str) -> float:
        labels = max(1.0, self.stats.rows * self.stats.observed[task])
        deviations = _by_day(self.earlier, "deviations", task)
        deviation = statistics.median(deviations.values()) if deviations else 0.0
        return self.bounds.spread * (deviation or 1 / math.sqrt(labels)) / math.sqrt(labels)

    def _expected(self, values: Mapping[dt.date, float], least: Callable[[float], float]) -> "_Expected | None":
        """The bounds from the values of earlier days; `least` gives the smallest half width around a median."""
        if len(values) < self.bounds.min_days:
            return None
        centre, found = statistics.median(values.values()), sorted(values.values())
        sigma = _MAD_TO_STD * statistics.median(abs(v - centre) for v in found)
        if len(found) < _TWO_WEEKS:
            sigma = max(sigma, (found[-1] - found[0]) / 2)
        width = max(self.bounds.spread * sigma, least(centre))
        low, high = centre - width, centre + width
        same_weekday = [v for d, v in values.items() if d.weekday() == self.day.weekday()]
        if len(same_weekday) >= 2:
            margin = least(statistics.median(same_weekday))
            low, high = min(low, min(same_weekday) - margin), max(high, max(same_weekday) + margin)
        if found[0] >= 0:
            low = max(low, 0.0)  # a statistic that never was negative has no negative bound
        return _Expected(low, high, len(found))


@dataclass(frozen=True)
class _Expected:
    low: float
    high: float
    count: int

    @property
    def days(self) -> str:
        return f"(from {count_of(self.count, 'earlier day')})"

    def shares(self) -> str:
        return f"{_percent(self.low)} to {_percent(min(1.0, self.high))} {self.days}"

    def numbers(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g} {self.days}"


def _by_day(earlier: Mapping[dt.date, DayStatistics], what: str, name: str) -> dict[dt.date, float]:
    """One statistic by day, for the days that have it."""

    def found() -> Iterator[tuple[dt.date, float]]:
        for day, stats in earlier.items():
            value = getattr(stats, what).get(name)
            if value is not None:
                yield day, value

    return dict(found())


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
