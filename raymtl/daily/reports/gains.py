"""What a day's version gained over older versions: on the same held-out rows, and on average over the days.

The metrics of two days cannot be compared, because their rows differ. Two versions on the same rows can, and the mean over many
days tells a small gain from chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raymtl.config.metrics import Metric
from raymtl.daily.record import Record
from raymtl.daily.reports.series import by_date, metrics_in, score_of
from raymtl.daily.reports.served import was_published
from raymtl.intervals import MeanInterval, mean_interval
from raymtl.reports.page import Cell, Grid, Section
from raymtl.reports.tables import show

PREVIOUS, FIRST = "previous", "first"


@dataclass(frozen=True)
class Gain:
    """One task of a day's version and of an older one."""

    over: str
    """The comparison: `previous`, `7 days ago`, `first`."""
    version: str
    """The older version."""
    task: str
    metric: Metric
    before: float
    after: float

    @property
    def value(self) -> float:
        """Above 0: the day's version is better."""
        return self.before - self.after if self.metric.better == "lower" else self.after - self.before

    def text(self, value: float | None = None) -> str:
        """The gain, or another on its scale, with its sign."""
        found = self.value if value is None else value
        return f"{'−' if found < 0 else '+'}{show(self.metric, abs(found))}"


def gains_of(record: Record) -> list[Gain]:
    """Over every version that was measured on the held-out rows, newest first, by task."""
    if record.gate is None:
        return []
    older = [(c.name, c.version, c.metrics) for c in sorted(record.comparisons, key=lambda c: c.name == FIRST)]
    if record.gate.base is not None:
        older.insert(0, (PREVIOUS, record.parent or "", record.gate.base))
    after = metrics_in(record.gate.candidate)["tasks"]
    found = []
    for name, version, metrics in older:
        for task, report in metrics_in(metrics)["tasks"].items():
            (metric, old), (same, new) = score_of(report), score_of(after.get(task, {}))
            if metric is same and old is not None and new is not None:
                found.append(Gain(name, version, task, metric, old, new))
    return found


def gains_shown(record: Record) -> dict[str, Gain]:
    """By task, the gain to show beside a day's metrics: over the version of some days ago, else over the first."""
    found = [gain for gain in gains_of(record) if gain.over != PREVIOUS]
    return {gain.task: gain for gain in reversed(found)}


def mean_gains(records: Sequence[Record]) -> dict[tuple[str, str], MeanInterval]:
    """The mean gain of the published days, by comparison and task; over the first version only where it is the newest day's."""
    values: dict[tuple[str, str], list[float]] = {}
    first = ""
    for record in reversed(by_date(r for r in records if was_published(r))):
        for gain in gains_of(record):
            if gain.over == FIRST and gain.version != (first := first or gain.version):
                continue
            values.setdefault((gain.over, gain.task), []).append(gain.value)
    return {key: mean_interval(found) for key, found in values.items()}


def gains_section(record: Record, earlier: Sequence[Record], colours: Mapping[str, str], days: int) -> Section | None:
    """A day's gains beside the mean over the last `days` days, which `earlier` holds."""
    gains = gains_of(record)
    if not gains:
        return None
    means = mean_gains([*earlier, record])

    def cells(gain: Gain) -> list[Cell]:
        values = [Cell(show(gain.metric, gain.before)), Cell(show(gain.metric, gain.after))]
        mean = _mean_cells(gain, means.get((gain.over, gain.task)))
        return [Cell(gain.over, "part"), Cell(gain.text()), Cell(gain.version, "faint"), *values, *mean]

    columns = ["task", "metric", "over", "gain", "version", "its value", "this version", "mean gain", "±", "days", ""]
    text = (
        "This day's version and older ones, all measured on the same held-out rows. A gain above 0 is an improvement. "
        + _means_text(days)
    )
    return Section("Gain over older versions", text, [_by_task(columns, gains, colours, cells)])


def mean_gains_section(records: Sequence[Record], colours: Mapping[str, str], days: int) -> Section:
    """The mean gains over the last `days` days."""
    title, means = "Gain over older versions", mean_gains(records)
    newest: dict[tuple[str, str], Gain] = {}
    for record in by_date(r for r in records if was_published(r)):
        newest |= {(gain.over, gain.task): gain for gain in gains_of(record)}
    if not means:
        return Section(title, "No version has been compared with an older one yet.")
    text = (
        "Every published day's version against older ones, both measured on that day's held-out rows. A gain above 0 is an "
        "improvement. " + _means_text(days)
    )

    def cells(gain: Gain) -> list[Cell]:
        mean = _mean_cells(gain, means[gain.over, gain.task])
        return [Cell(gain.over, "part"), *mean, Cell(gain.text(), "faint")]

    columns = ["task", "metric", "over", "mean gain", "±", "days", "", "newest day"]
    return Section(title, text, [_by_task(columns, [newest[key] for key in means], colours, cells)])


def _by_task(
    columns: Sequence[str], gains: Sequence[Gain], colours: Mapping[str, str], cells: Callable[[Gain], list[Cell]]
) -> Grid:
    """A row per gain, those of a task together, in the order of the tasks' colours."""
    tasks = [*colours, *dict.fromkeys(gain.task for gain in gains if gain.task not in colours)]
    rows: list[list[Cell]] = []
    heads = set()
    for task in tasks:
        for n, gain in enumerate(gain for gain in gains if gain.task == task):
            heads |= {len(rows)} if n == 0 else set()
            name = [Cell(task, "name", colours.get(task, "gray")), Cell(gain.metric.label, "part")]
            rows.append([*(name if n == 0 else [Cell("", "name"), Cell("", "part")]), *cells(gain)])
    return Grid(columns, rows, frozenset(heads), narrow=True)


def _means_text(days: int) -> str:
    return (
        f"The mean is over the published ones of the last {days} days, ± half its 95 % interval (Student's t over the days): "
        f"within it, a gain cannot be told from chance."
    )


def _mean_cells(gain: Gain, mean: MeanInterval | None) -> list[Cell]:
    """Mean, half the interval, days, and the verdict."""
    if mean is None:  # the day was not published
        return [Cell("–"), Cell("–"), Cell("–"), Cell("")]
    half = Cell("–" if mean.half is None else show(gain.metric, mean.half))
    verdict = Cell("one day says little" if mean.half is None else "within chance", "faint")
    if mean.beyond_chance:
        verdict = Cell("better", "good") if mean.mean > 0 else Cell("worse", "look")
    return [Cell(gain.text(mean.mean)), half, Cell(str(mean.count)), verdict]
