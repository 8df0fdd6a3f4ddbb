"""Which snapshot of a table a configuration reads, and the files of its days."""

import datetime as dt
from collections.abc import Sequence

import pyarrow.fs as pafs

from raymtl.config.data import Data, DayRange
from raymtl.config.root import Config
from raymtl.data.foreign import DELTA, ICEBERG, table_format
from raymtl.data.found import File, FoundFiles, absent_days
from raymtl.data.lakehouse import delta, iceberg
from raymtl.data.lakehouse.snapshot import SETTING, PartitionValue, Snapshot, TableFile
from raymtl.data.listing import Entry
from raymtl.data.partitions import SCORED, Layout, format_of
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from raymtl.words import count_of


def with_snapshots(config: Config) -> Config:
    """The configuration with the latest snapshots of its tables, unless it names others."""
    data, update = config.data, {}
    for part, field_name in (("train", "snapshot"), ("eval", "eval_snapshot")):
        roots = data.roots_of(part)
        if data.snapshot_of(part) is None and (part == "train" or data.eval_path) and len(roots) == 1:
            update[field_name] = _latest_snapshot(Folder.open(roots[0]))
    return config.model_copy(update={"data": data.model_copy(update=update)})


def of_latest_snapshot(config: Config) -> Config:
    """The configuration without the snapshot of its training data, so that it reads the latest one."""
    return config.model_copy(update={"data": config.data.model_copy(update={"snapshot": None})})


def keep_snapshots(config: Config, previous: Data | None) -> Config:
    """The configuration with the snapshots of what it continues (None: nothing), unless it names others."""
    data = config.data
    if previous is None:
        return config
    kept = {"snapshot": previous.snapshot if data.snapshot is None else data.snapshot}
    if data.eval_path and data.eval_snapshot is None:
        kept["eval_snapshot"] = previous.eval_snapshot
    return config.model_copy(update={"data": data.model_copy(update=kept)})


def _latest_snapshot(folder: Folder) -> int | None:
    """None: the folder is no table."""
    if folder.kind(delta.LOG) == pafs.FileType.Directory:
        return delta.latest_version(folder)
    return iceberg.latest_snapshot(folder) if iceberg.is_table(folder) else None


def snapshot_at(folder: Folder, layout: Layout, entries: Sequence[Entry]) -> Snapshot | None:
    """The snapshot that the layout names, of the table in a folder; None: plain parquet files."""
    path = folder.path
    managed = table_format(folder, [e.name for e in entries if e.kind == pafs.FileType.Directory])
    if managed is None:
        if layout.snapshot is not None:
            raise DataError(
                f"data.snapshot is {layout.snapshot}, but `{path}` is no table of {DELTA} or {ICEBERG}; "
                f"remove {SETTING}, or set data.path to the folder of a table"
            )
        return None
    tool, root = managed
    if tool not in (DELTA, ICEBERG):
        raise DataError(of_another_tool(path, tool))
    if root != folder.root:
        raise DataError(
            f"`{path}` is a part of the table of {tool} in `{root}`; set data.path to the folder of the table"
        )
    read = delta.read_snapshot if tool == DELTA else iceberg.read_snapshot
    return read(folder, layout.snapshot)


def partition_texts(folder: Folder, entries: Sequence[Entry]) -> dict[str, list[str]] | None:
    """The values of each partition column of the table in a folder, as text, without null; None: plain parquet files."""
    if (snapshot := snapshot_at(folder, Layout(), entries)) is None:
        return None
    return {key: [str(value) for value in _values(snapshot, key) if value is not None] for key in snapshot.keys}


def files_of_snapshot(folder: Folder, snapshot: Snapshot, days: DayRange | None, layout: Layout) -> FoundFiles:
    """The files of a snapshot on the given days (None: on every day), by the partition column that names the day."""
    key, found = layout.key, FoundFiles(snapshot=snapshot.number)
    if key not in snapshot.keys:
        raise DataError(
            f"the table `{folder.path}` is not partitioned by a column `{key}` with the day"
            + (f", but by {', '.join(snapshot.keys)}" if snapshot.keys else "")
            + f"; set data.partition.key to the column with the day {SCORED}, or write the table with such a partition column"
        )
    files = sorted(snapshot.files, key=lambda f: f.path)
    days_of = [_day(snapshot, file, layout) for file in files]
    there = sorted({day for day in days_of if day is not None})
    if not there:
        raise DataError(f"{snapshot.words} has no rows on any day; write rows, or choose another {SETTING}")
    wanted = set(there if days is None else days.days())
    found.absent += absent_days(snapshot.words, sorted(wanted), there, layout)
    faulty: dict[str, list[str]] = {}
    for day, file in zip(days_of, files, strict=True):
        if day in wanted and file.fault is not None:
            faulty.setdefault(file.fault, []).append(file.path)
        elif day in wanted:
            texts = ((k, v if v is None else str(v)) for k, v in file.partition.items() if k != key)
            values = layout.typed(texts)
            found.files.append(
                File(
                    file.path,
                    day,
                    file.size,
                    values,
                    layout.impressions,
                    None,
                    snapshot.words,
                    file.columns,
                    layout.optional(day),
                )
            )
    found.files.sort(key=lambda f: f.day)
    for fault, paths in faulty.items():
        more = f" (as {count_of(len(paths) - 1, 'more file')})" if len(paths) > 1 else ""
        found.faults.append(f"{snapshot.words}: {paths[0]}{more} {fault}")
    if undated := days_of.count(None):
        found.notes.append(
            f"{snapshot.words}: {count_of(undated, 'file')} of the partition {key}=null belong to no day and are not read"
        )
    return found


def _values(snapshot: Snapshot, key: str) -> set[PartitionValue]:
    return {file.partition[key] for file in snapshot.files if key in file.partition}


def _day(snapshot: Snapshot, file: TableFile, layout: Layout) -> dt.date | None:
    """The day of a file; None: its partition has none."""
    key = layout.key
    if key not in file.partition:
        raise DataError(
            f"{snapshot.words}: the file {file.path} was written before the table was partitioned by `{key}`; rewrite the "
            "table's data files"
        )
    value = file.partition[key]
    if not isinstance(value, str):
        return value
    if (day := layout.day(value)) is None:
        form = format_of(sorted(str(v) for v in _values(snapshot, key) if v is not None))
        remedy = f'set data.partition.format to "{form}"' if form else "set data.partition to the column of the day"
        raise DataError(
            f"{snapshot.words} has the partition {key}={value}, which is not {layout.pattern}; {remedy} {SCORED}"
        )
    return day


def of_another_tool(path: str, tool: str) -> str:
    """The error for a table whose files another tool manages."""
    return (
        f"`{path}` is a table of {tool}, which also has files that were removed from the table; raymtl reads plain parquet files "
        "only: write the table's rows to another folder"
    )
