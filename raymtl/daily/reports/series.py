"""Reads numbers out of the records of many days; a day without a number is skipped."""

import datetime as dt
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from raymtl.config.metrics import Metric
from raymtl.daily.record import DayStatistics, NextDay, Record
from raymtl.intervals import Estimate
from raymtl.reports.chance import interval_of
from raymtl.reports.tables import headline, metrics_of, with_interval

Report = dict[str, Any]
"""The metrics of one task."""
Series = dict[str, dict[dt.date, float]]
"""By name, then by day."""
T = TypeVar("T")


def by_date(records: Iterable[Record]) -> list[Record]:
    """The records in the order of their days."""
    return sorted(records, key=lambda record: record.date)


def metrics_in(section: dict[str, Any]) -> dict[str, Any]:
    """`tasks` and `scenarios` of a record's metrics, without the entries that are empty."""
    found = metrics_of({"metrics": section})
    scenarios = {name: _reports(tasks) for name, tasks in (found["scenarios"] or {}).items()}
    return {**found, "tasks": _reports(found["tasks"]), "scenarios": scenarios}


def _reports(tasks: Any) -> dict[str, Report]:
    return {name: report for name, report in (tasks or {}).items() if isinstance(report, dict)}


def final_in(entry: NextDay) -> dict[str, Any]:
    """The metrics of the tasks whose labels counted: the others were scored on no label."""
    found = metrics_in(entry.metrics)
    tasks = {task: report for task, report in found["tasks"].items() if report.get("count") != 0}
    scenarios = {
        name: {task: report for task, report in reports.items() if task in tasks}
        for name, reports in found["scenarios"].items()
    }
    return {**found, "tasks": tasks, "scenarios": scenarios}


def scored(record: Record) -> dict[str, tuple[NextDay, Report]]:
    """The next-day metrics that a record has, by task, each with what it is about."""
    found = {}
    for entry in sorted(record.next_day, key=lambda entry: entry.day):
        found.update({task: (entry, report) for task, report in final_in(entry)["tasks"].items()})
    return found


def task_names(records: Sequence[Record]) -> list[str]:
    """All tasks, the newest day's first and in its order: a task's colour depends on its place.

    The gate knows every task in the order of the configuration; the statistics of the data lack those with delayed labels.
    """
    newest = list(reversed(by_date(records)))
    names: dict[str, None] = {}
    for record in newest:
        names.update(dict.fromkeys(metrics_in(record.gate.candidate)["tasks"] if record.gate else ()))
    for record in newest:
        names.update(dict.fromkeys([*(record.stats.labels if record.stats else ()), *scored(record)]))
    return list(names)


def score_of(report: Report) -> tuple[Metric, float | None]:
    """The metric that stands for a task, and its value."""
    metric = headline(report)
    return metric, number_in(report, metric.name)


def number_in(report: Report, key: str) -> float | None:
    """A finite number, or None."""
    value = report.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def estimate_in(report: Report, metric: Metric) -> Estimate | None:
    """A metric of a task with its interval; None if it is not a finite number."""
    value = number_in(report, metric.name)
    return None if value is None else Estimate(value, interval_of(report, metric.name), with_interval(metric, report))


def ranked(record: Record) -> dict[str, Report]:
    """The next-day metrics of each task that has an AUC."""
    return {task: report for task, (_, report) in scored(record).items() if number_in(report, "auc") is not None}


def next_day(records: Sequence[Record], read: Callable[[Report], T | None]) -> dict[str, dict[dt.date, T]]:
    """A next-day metric of every task, by the day of the rows that it is about."""
    found: dict[str, dict[dt.date, T]] = {task: {} for task in task_names(records)}
    for record in by_date(records):
        for task, (entry, report) in scored(record).items():
            value = read(report)
            if value is not None:
                found[task][entry.day] = value
    return found


def by_name(records: Sequence[Record], read: Callable[[Record], dict[str, Any]]) -> Series:
    """Whatever a record has by name (a task, a table, a scenario, a state), by day."""
    found: Series = {}
    for record in by_date(records):
        for name, value in read(record).items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, {})[record.date] = float(value)
    return found


def in_stats(read: Callable[[DayStatistics], dict[str, Any]]) -> Callable[[Record], dict[str, Any]]:
    """Reads the statistics of a record, if it has them."""
    return lambda record: {} if record.stats is None else read(record.stats)


def ids(what: str) -> Callable[[Record], dict[str, Any]]:
    """Reads from the admission of every table how many IDs were `admitted`, `evicted` and so on, or its `unknown_share`."""

    def read(record: Record) -> dict[str, Any]:
        tables = record.trained.ids if record.trained is not None else {}
        return {table: ids_of(entry, what) for table, entry in tables.items()}

    return read


def ids_of(entry: dict[str, Any], what: str) -> Any:
    """One number of a table's admission; None if it is not recorded."""
    value = entry.get(what)
    return value.get("ids") if isinstance(value, dict) else value


def within(series: dict[str, dict[dt.date, T]], first: dt.date, last: dt.date) -> dict[str, dict[dt.date, T]]:
    """The days from the first to the last."""
    return {name: {day: v for day, v in values.items() if first <= day <= last} for name, values in series.items()}


def only(series: Series, names: Sequence[str]) -> Series:
    """The series of these names, in their order."""
    return {name: series[name] for name in names if name in series}
