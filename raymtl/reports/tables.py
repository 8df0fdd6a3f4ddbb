"""The tables of metrics, shared by the HTML report and the terminal: one for binary tasks, one for values, one for classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymtl.config.losses import TaskLossTerms
from raymtl.config.metrics import METRICS, Metric, metrics_of_kind
from raymtl.config.task_kinds import KINDS, Binary, Classes, TaskKind, Values, find_kind
from raymtl.reports.chance import interval_of, is_above_constant, is_odd
from raymtl.reports.style import count, number, significant
from raymtl.words import visible

ALL = "all"
OTHER = "other"
"""The scenario of the rows whose value is not in `data.scenario.values`."""
Report = dict[str, Any]
"""The metrics of one task."""
Place = tuple[str, str, Report]
"""A row to be: the task, its scenario or the run that it is about, and the metrics."""

_AUC_ERROR = 1e-3
"""Bound of the error of a binned AUC from which a note says so."""


@dataclass(frozen=True)
class TableCell:
    """One place in a table of metrics."""

    text: str
    short: str = ""
    """The text on a terminal; empty: the same."""
    odd: bool = False
    """Needs attention, as `chance.LEGEND` says."""


@dataclass(frozen=True)
class Column:
    """One column of a table of metrics, by the name at its head."""

    name: str
    cell: Callable[[Report], TableCell]
    short: str = ""
    """The head on a terminal; empty: the name."""
    wide_only: bool = False
    """Left out on a terminal."""
    optional: bool = False
    """Left out where every row has a dash: it needs a `truth`, a group or requests, which most runs do without."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a task in one scenario, or in one run."""

    task: str
    scenario: str
    cells: dict[str, TableCell]
    """By the name of their column."""
    note: str
    """Why a cell is a dash; empty if none is."""


@dataclass(frozen=True)
class MetricTable:
    """All tasks of one family of kinds."""

    family: type[TaskKind]
    rows: list[Row]

    @property
    def all_columns(self) -> Sequence[Column]:
        """The columns of the family."""
        return _COLUMNS[self.family]

    @property
    def columns(self) -> list[Column]:
        """The columns to show: all but the optional ones in which every row has a dash."""
        return [
            column
            for column in self.all_columns
            if not column.optional or any(row.cells[column.name].text not in ("–", "") for row in self.rows)
        ]


def metrics_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `EvalMetrics.compute` returned, out of a run's result: `tasks` and `scenarios`, both empty before an evaluation.

    A result has the tasks under `metrics.eval` and the rest next to it; a line of `metrics.jsonl`, and the return value of
    `compute`, have both together.
    """
    section = result.get("metrics") or ({} if "status" in result else result)
    inner = section.get("eval") or {}
    if isinstance(inner.get("tasks"), dict) and "kind" not in inner["tasks"]:
        section, inner = inner, {}
    rest = {key: value for key, value in section.items() if key != "eval"}
    found = (rest.pop("scenarios", None) or {}).items()
    scenarios = {visible(name): tasks for name, tasks in found if _has_rows(name, tasks)}
    return {"tasks": inner, **rest, "scenarios": scenarios}


def _has_rows(scenario: str, tasks: Any) -> bool:
    """Whether to show a scenario: `other` has rows only if a value is not in `data.scenario.values`."""
    reports = tasks.values() if isinstance(tasks, dict) else ()
    return scenario != OTHER or any(report.get("count") for report in reports if isinstance(report, dict))


def metric_tables(metrics: dict[str, Any], scenarios: bool = True) -> list[MetricTable]:
    """A table per family of kinds, each with one row per task, followed by its scenarios; some may have no rows."""
    return tables_of(_places(metrics, scenarios))


def tables_of(places: Sequence[Place]) -> list[MetricTable]:
    """A table per family of kinds, with a row per place; some may have no rows."""
    return [
        MetricTable(
            family,
            [
                Row(task, scenario, {column.name: column.cell(report) for column in columns}, _note(report))
                for task, scenario, report in places
                if issubclass(kind_of(report), family)
            ],
        )
        for family, columns in _COLUMNS.items()
    ]


def kind_of(report: Report) -> type[TaskKind]:
    """The kind of the task that a report is about."""
    return find_kind(report.get("kind"))


def training_loss_of(task: dict[str, Any]) -> tuple[str, str | None]:
    """The label of a task's training loss, and the metric that measures the same on evaluation rows, from its section of the
    configuration."""
    kind = kind_of(task)
    return (
        (kind.loss_label, kind.loss_metric)
        if TaskLossTerms.is_own_alone(task.get("losses"))
        else ("sum of losses", None)
    )


def headline(report: Report) -> Metric:
    """The metric that stands for the task that a report is about."""
    return METRICS[kind_of(report).headline]


def show(metric: Metric, value: Any) -> str:
    """A value of a metric as text."""
    return significant(value) if metric.decimals is None else number(value, metric.decimals)


def with_interval(metric: Metric, report: Report, short: bool = False, key: str | None = None) -> str:
    """A metric of a task as text, with its 95 % interval where there is one: 0.8123 ± 0.0041, or both ends if it is lopsided.

    `short`, for a terminal: 0.8123±.0041, or 14.57 (3.06–69.4). `key`: where the report has it; None: at its name.
    """
    key = key or metric.name
    value, interval = report.get(key), interval_of(report, key)
    text = show(metric, value)
    if value is None or not interval:
        return text
    below, above = value - interval[0], interval[1] - value
    if max(below, above) > 1.25 * min(below, above):
        if not short:
            return f"{text} ({show(metric, interval[0])} to {show(metric, interval[1])})"
        ends = (significant(end, 3) if metric.decimals is None else show(metric, end) for end in interval)
        return f"{text} ({'–'.join(map(_short, ends))})"
    half = (below + above) / 2
    width = significant(half, 2) if metric.decimals is None else number(half, metric.decimals)
    return f"{text}±{_short(width)}" if short else f"{text} ± {width}"


def _short(text: str) -> str:
    """A number without the 0 before its point."""
    return text.removeprefix("0") if text.startswith("0.") else text


def _places(metrics: dict[str, Any], scenarios: bool) -> list[Place]:
    found = []
    for task, report in metrics["tasks"].items():
        found.append((task, ALL, report))
        if scenarios:
            parts = metrics.get("scenarios") or {}
            found += [(task, name, by_task[task]) for name, by_task in parts.items() if task in by_task]
    return found


def _columns_of(family: type[TaskKind]) -> list[Column]:
    """What stands for the task, on how many rows, and its calibration; then the other metrics, those of little use last."""
    kinds = [kind for kind in KINDS if issubclass(kind, family)]
    headlines = list(dict.fromkeys(kind.headline for kind in kinds))
    if family is Binary:
        main = METRICS[headlines[0]]
        columns = [_metric_column(main), Column("best", _best, optional=True), Column("gap", _gap, optional=True)]
    else:
        columns = [Column("error", _named_headline), Column("constant", _constant, optional=True)]
        columns.append(Column("best", _best, optional=True))
    columns.append(Column("rows", lambda report: TableCell(count(report.get("count")))))
    if family is Binary:
        columns.append(Column("positives", lambda report: TableCell(count(report.get("positives"))), short="pos."))
    known = [m for m in METRICS.values() if any(m in metrics_of_kind(kind) for kind in kinds)]
    others = [metric for metric in known if metric.name not in headlines]
    others.sort(key=lambda metric: (metric.target is None, metric.wide_only))  # stable
    columns += [_metric_column(metric, all(metric in metrics_of_kind(kind) for kind in kinds)) for metric in others]
    columns.append(Column("groups", lambda report: TableCell(count(report.get("groups"))), optional=True))
    columns.append(
        Column(
            "requests", lambda report: TableCell(count(report.get("requests_ranked"))), wide_only=True, optional=True
        )
    )
    return columns


def _metric_column(metric: Metric, of_all: bool = True) -> Column:
    """The column of a metric that all kinds of the table have, or only some."""

    def cell(report: Report) -> TableCell:
        return TableCell(
            with_interval(metric, report), with_interval(metric, report, short=True), is_odd(metric, report)
        )

    return Column(metric.label, cell, metric.short, metric.wide_only, optional=metric.needs is not None or not of_all)


def _named_headline(report: Report) -> TableCell:
    metric = headline(report)
    value = report.get(metric.name)
    if value is None:
        return TableCell(show(metric, value))
    text, short = (f"{metric.label} {with_interval(metric, report, s)}" for s in (False, True))
    return TableCell(text, short, is_above_constant(metric, report))


def _constant(report: Report) -> TableCell:
    """What the best constant prediction, the mean label, would have."""
    metric = headline(report)
    return TableCell(show(metric, report.get(f"constant_{metric.name}")))


def _best(report: Report) -> TableCell:
    metric = headline(report)
    return TableCell(show(metric, report.get(f"truth_{metric.name}")))


def _gap(report: Report) -> TableCell:
    """Difference to the best reachable value."""
    name = headline(report).name
    value, best = report.get(name), report.get(f"truth_{name}")
    return TableCell("–" if value is None or best is None else f"{best - value:.4f}".replace("-", "−"))


def _note(report: Report) -> str:
    """The reason for the dashes, and how much of the rows the metrics of groups and requests have seen where that is not all."""
    why = report.get("null_reason")
    notes = [why] if why else []
    if (error := report.get("auc_error")) and error > _AUC_ERROR:
        notes.append(f"AUC is exact to {error:.4f} only: many scores are nearly equal")
    for name, prefix, absent in (
        ("GAUC", "gauc", "no group column"), ("NDCG", "requests", "no requests"), ("order", "order", "none")
    ):  # fmt: skip
        own_why, share = report.get(f"{prefix}_null_reason"), report.get(f"{prefix}_sampled_share")
        if own_why and own_why != why and not own_why.startswith(absent):
            notes.append(f"{name}: {own_why}")
        if own_why is None and share is not None and share < 0.9995:
            notes.append(f"{name} from {100 * share:.0f} % of the rows")
    if no_interval := report.get("interval_null_reason"):
        notes.append(f"no interval: {no_interval}")
    return "; ".join(notes)


_COLUMNS: dict[type[TaskKind], Sequence[Column]] = {family: _columns_of(family) for family in (Binary, Values, Classes)}
"""The columns of every table."""
