"""Whether a day's logs are there and keep the contract, and the figures to judge them by."""

import datetime as dt

import pyarrow.fs as pafs

from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.daily.record import Figures
from raymtl.data.source import find_files, partitioned_days
from raymtl.data.units import find_footers
from raymtl.data.validation.report import ColumnReport, PartReport, ScenarioReport
from raymtl.errors import ConfigError, DataError
from raymtl.storage.folder import Folder
from raymtl.words import count_of


def find_not_ready(config: Config, logs: Folder, day: dt.date) -> str | None:
    """Why the logs of a day are not there yet, in one sentence, or None where they are.

    Reads file names and footers only. Raises DataError where there is no data set at all, and where a file of a day that
    has its marker is damaged: that will not get better by waiting. Raises StorageError when the storage keeps failing.
    """
    assert config.daily is not None
    ready, partition = config.daily.ready, logs.child(f"ds={day}")
    # Before the files are listed: what is listed after the marker was there is whole.
    marked = ready.marker is not None and partition.kind(ready.marker) == pafs.FileType.File
    files, absent = find_files(logs, _only(day))
    if not files and partition.kind() != pafs.FileType.Directory:
        return absent[0]
    if ready.marker is not None and not marked:
        return f"`{partition.root}` has no `{ready.marker}` yet, the file that marks a day as complete (daily.ready.marker)"
    if not files:
        return f"`{partition.root}` has no parquet file yet"
    footers, broken = find_footers(logs.filesystem, files)
    if broken:
        found = broken[0] + (f" (and {count_of(len(broken) - 1, 'more file')})" if len(broken) > 1 else "")
        if marked:
            raise DataError(f"ds={day} is marked as complete (`{ready.marker}`), but {found}")
        return found
    rows = sum(sum(f.row_group_rows) for f in footers)
    if rows < ready.min_rows:
        return (
            f"ds={day} of `{logs.path}` has {count_of(rows, 'row')} in {count_of(len(files), 'file')}, fewer than the "
            f"{ready.min_rows:,} of daily.ready.min_rows"
        )
    return None


def not_ready(config: Config, day: dt.date, *, first: bool) -> list[str]:
    """Why the logs of `day` are not there yet, one sentence each; of the very `first` version, those of all its days.

    Raises ConfigError where the logs begin too late for `daily.bootstrap_days`: waiting would not help.
    """
    assert config.daily is not None
    days, logs = [day], Folder.open(config.data.path)
    if first:
        window = DayRange(start=day - dt.timedelta(days=config.daily.bootstrap_days - 1), end=day)
        days = [d for d in window.days() if d not in config.daily.skip]
        there = partitioned_days(logs)
        if days and there and there[-1] < days[0]:
            return [
                f"the logs `{config.data.path}` end with {there[-1]}, and the first version would be trained on {days[0]} to "
                f"{day}; where they are old ones, name the day to begin with: --date, or --from and --to"
            ]
        begin = next(iter(there), day)
        if days and days[0] < begin <= day:
            raise ConfigError(
                f"daily.bootstrap_days is {config.daily.bootstrap_days}, so the first version is trained on the days from "
                f"{days[0]} to {day}, but the logs begin on {begin}; set daily.bootstrap_days to {(day - begin).days + 1}, or "
                f"begin on a later day"
            )
    return [reason for d in days if (reason := find_not_ready(config, logs, d))]


def check_day(config: Config, day: dt.date, read_tasks: int) -> tuple[Figures, list[str]]:
    """Read every row of a day once, on `read_tasks` CPUs of the connected Ray cluster: its figures, and what breaks the contract.

    Labels that are not final may be missing. Raises DataError where there is no data set.
    """
    from raymtl.data.validation.run import (
        check_data,  # Ray takes seconds to import, and waiting for a day does not need it
    )

    data = config.data.model_copy(update={"train": _only(day), "eval": None})
    config = config.model_copy(update={"data": data})
    report = check_data(config, "train", read_tasks, not_final=not_final(config))
    part = report.parts["train"]
    return figures_of(part, config), part.problems + report.across.problems


def figures_of(report: PartReport, config: Config) -> Figures:
    """The figures of a day out of its check; tasks whose labels are not final on that day are left out."""
    tasks = {name: task.all for name, task in report.tasks.items() if name not in not_final(config)}
    return Figures(
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
    """A list without any ID is as good as null, and what a broken join leaves behind."""
    return (column.nulls if column.empty is None else column.empty) / column.rows


def _scenario_shares(scenario: ScenarioReport) -> dict[str, float]:
    counts = {**scenario.listed, "other": sum(scenario.unlisted.values()) + scenario.nulls}
    rows = max(1, sum(counts.values()))
    return {value: count / rows for value, count in counts.items()}


def _only(day: dt.date) -> DayRange:
    return DayRange(start=day, end=day)
