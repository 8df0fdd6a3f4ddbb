"""Whether a day's logs are complete and keep the data contract, and their statistics."""

import datetime as dt
from collections.abc import Iterator

import pyarrow.fs as pafs

from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.daily.record import DayStatistics
from raymtl.data.partitions import Layout
from raymtl.data.roots import Roots
from raymtl.data.source import find_files, partitioned_days
from raymtl.data.units import find_footers
from raymtl.data.validation.report import ColumnReport, PartReport, ScenarioReport
from raymtl.errors import ConfigError, DataError
from raymtl.model_store.commit_log import utc_now
from raymtl.storage.folder import Folder
from raymtl.words import count_of


def find_not_ready(config: Config, logs: Roots, day: dt.date) -> str | None:
    """Why the logs of a day are not complete yet, in one sentence, or None.

    Every one of several roots must have the day, except one that begins later. Reads file names and footers only. Raises
    DataError if there is no data set, or if a file of a day with its marker is damaged: waiting does not help. Raises
    StorageError if the storage keeps failing.
    """
    assert config.daily is not None
    layout, several = Layout.of(config), len(logs.folders) > 1
    rows = files = 0
    expected = [f for f in logs.folders if not several or partitioned_days(f, layout)[0] <= day]
    if not expected:
        return f"none of the roots ({logs.words}) has {layout.name(day)} or an earlier day yet"
    for folder in expected:
        count = _count_ready(config, folder, day, layout)
        if isinstance(count, str):
            ended = "; a root that gets no more days must leave data.path" if several else ""
            return f"{count}{ended}"
        rows, files = rows + count[0], files + count[1]
    if rows < config.daily.ready.min_rows:
        return (
            f"{layout.name(day)} of {logs.words} has {count_of(rows, 'row')} in {count_of(files, 'file')}, fewer than the "
            f"{config.daily.ready.min_rows:,} of daily.ready.min_rows"
        )
    return None


def _count_ready(config: Config, logs: Folder, day: dt.date, layout: Layout) -> str | tuple[int, int]:
    """Rows and files of a day in one root, or why it is not complete yet."""
    assert config.daily is not None
    ready = config.daily.ready
    name = layout.name(day)
    partition = logs.child(name)
    # Before the files are listed: a listing made after the marker appeared is complete.
    marked = ready.marker is not None and partition.kind(ready.marker) == pafs.FileType.File
    found = find_files(logs, _only(day), layout)
    files = found.files
    is_table = found.snapshot is not None  # its commits are complete
    if is_table and found.absent:
        return found.absent[0]
    if not files and not found.faults and partition.kind() != pafs.FileType.Directory:
        return found.absent[0]
    if ready.marker is not None and not marked and not is_table:
        return f"`{partition.root}` has no `{ready.marker}` yet (daily.ready.marker)"
    if not files and not found.faults:
        return f"`{partition.root}` has no parquet file yet"
    footers, unreadable = find_footers(logs.filesystem, files)
    if broken := found.faults + unreadable:
        first = broken[0] + (f" (and {count_of(len(broken) - 1, 'more file')})" if len(broken) > 1 else "")
        if marked:
            raise DataError(f"{name} is marked as complete (`{ready.marker}`), but {first}")
        return first
    return sum(footer.rows for footer in footers), len(files)


def not_ready(config: Config, day: dt.date, *, first: bool) -> list[str]:
    """Why the logs of `day` are not complete yet, one sentence each; for the `first` version, all of its days.

    Raises ConfigError if the logs start too late for `daily.bootstrap_days`: waiting does not help.
    """
    assert config.daily is not None
    days, logs = [day], Roots.open(config.data.roots_of("train"))
    if first:
        window = DayRange(start=day - dt.timedelta(days=config.daily.bootstrap_days - 1), end=day)
        days = [d for d in window.days() if d not in config.daily.skip]
        there = logs.days(Layout.of(config))
        if days and there and there[-1] < days[0]:
            return [
                f"the logs {logs.words} end with {there[-1]}, and the first version would be trained on {days[0]} to "
                f"{day}; to train on old logs, name their days with --from and --to"
            ]
        begin = next(iter(there), day)
        if days and days[0] < begin <= day:
            raise ConfigError(
                f"daily.bootstrap_days is {config.daily.bootstrap_days}, so the first version is trained on the days from "
                f"{days[0]} to {day}, but the logs start on {begin}; set daily.bootstrap_days to {(day - begin).days + 1}, or "
                f"start on a later day"
            )
    reasons = [reason for d in days if (reason := find_not_ready(config, logs, d))]
    return reasons if first else [*reasons, *_before_cutoff(config, day)]


def _before_cutoff(config: Config, day: dt.date) -> Iterator[str]:
    """The tasks whose early labels still arrive: those that did not would later be taken for labels that had."""
    midnight = dt.datetime.combine(day, dt.time(), dt.UTC)
    for name, early in config.early_tasks().items():
        cutoff = midnight + dt.timedelta(hours=early.cutoff_hours)
        if utc_now() < cutoff:
            yield f"labels of `{name}` arrive until {cutoff:%Y-%m-%d %H:%M} UTC (tasks.{name}.early_labels.cutoff_hours)"


def check_day(config: Config, day: dt.date, read_tasks: int) -> tuple[DayStatistics, list[str]]:
    """Read every row of a day once, on `read_tasks` CPUs of the connected Ray cluster: its stats, and what breaks the contract.

    Labels that are not final may be missing. Raises DataError if there is no data set.
    """
    from raymtl.data.validation.run import (
        check_data,  # Ray takes seconds to import, and waiting for a day does not need it
    )

    data = config.data.model_copy(update={"train": _only(day), "eval": None})
    config = config.model_copy(update={"data": data})
    report = check_data(config, "train", read_tasks, not_final=not_final(config))
    part = report.parts["train"]
    problems = part.problems + report.across.problems + [*_without_zeros(part, config)]
    return day_statistics(part, config), problems


def _without_zeros(report: PartReport, config: Config) -> Iterator[str]:
    """The tasks with early labels that would learn nothing but ones: what has not arrived is null."""
    for name in config.early_tasks():
        labels = report.tasks[name].all
        if labels.observed and not labels.zeros:
            yield (
                f"tasks.{name}: every label is 1, and {count_of(labels.rows - labels.observed, 'row')} have none; with "
                "early_labels write 0, not null, where it has not arrived"
            )


def day_statistics(report: PartReport, config: Config) -> DayStatistics:
    """The statistics from the check of a day, without tasks whose labels are not final on that day."""
    tasks = {name: task.all for name, task in report.tasks.items() if name not in not_final(config)}
    return DayStatistics(
        rows=report.rows,
        files=report.files,
        columns=report.types,
        nulls={name: _null_share(column) for name, column in report.features.items() if column.rows},
        observed={name: labels.observed_share for name, labels in tasks.items()},
        labels={name: labels.mean for name, labels in tasks.items()},
        deviations={name: labels.std for name, labels in tasks.items() if labels.std is not None},
        scenarios=_scenario_shares(report.scenario) if report.scenario else {},
        distinct={name: table.distinct for name, table in report.tables.items()},
    )


def not_final(config: Config) -> set[str]:
    """The tasks whose labels are not final on their own day."""
    return {name for name, days in config.label_delays().items() if days}


def _null_share(column: ColumnReport) -> float:
    """An empty list counts as null: a broken join produces empty lists."""
    return (column.nulls if column.empty is None else column.empty) / column.rows


def _scenario_shares(scenario: ScenarioReport) -> dict[str, float]:
    counts = {**scenario.listed, "other": sum(scenario.unlisted.values()) + scenario.nulls}
    rows = max(1, sum(counts.values()))
    return {value: count / rows for value, count in counts.items()}


def _only(day: dt.date) -> DayRange:
    return DayRange(start=day, end=day)
