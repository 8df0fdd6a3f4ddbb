"""Find the files of a data set in Hive-style partitions `ds=YYYY-MM-DD[/hour=HH]`."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.fs as pafs

from raymtl.config.data import DayRange
from raymtl.errors import DataError
from raymtl.storage.filesystem import list_folder
from raymtl.storage.folder import Folder
from raymtl.storage.retry import retry, to_user_error
from raymtl.words import count_of

_LISTING_THREADS = 8


@dataclass(frozen=True)
class File:
    """One parquet file of the data set."""

    path: str
    """Path on its file system, without the scheme."""
    day: dt.date
    """The day of its `ds=` partition."""
    size: int
    """Bytes."""


def list_files(folder: Folder, days: DayRange | None) -> list[File]:
    """The parquet files of the given days (None: of every day), ordered by path.

    Raises DataError, with the days that exist, if the root, a day or the files of a day are missing.
    """
    files, problems = find_files(folder, days)
    if problems:
        raise DataError(problems[0])
    return files


def find_files(folder: Folder, days: DayRange | None) -> tuple[list[File], list[str]]:
    """Like `list_files`, but returns the existing files and the faults of the others, one sentence each.

    Raises DataError if there is no data set at all, and StorageError if the storage keeps failing.
    """
    partitions = _partitions(folder)
    wanted = sorted(partitions) if days is None else days.days()
    problems = []
    if missing := [d for d in wanted if d not in partitions]:
        problems.append(
            f"`{folder.path}` has no partition ds={missing[0]}"
            + (f" (and {len(missing) - 1} more of {days})" if len(missing) > 1 else "")
            + f"; it has ds={min(partitions)} to ds={max(partitions)}, {count_of(len(partitions), 'day')}; "
            "write the missing days, or choose days that exist"
        )
    present = [d for d in wanted if d in partitions]
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        listings = pool.map(lambda day: _listed(folder, partitions[day], recursive=True), present)
        files: list[File] = []
        for day, entries in zip(present, listings, strict=True):
            partition = partitions[day]
            found = [
                File(entry.path, day, entry.size)
                for entry in entries
                if entry.type == pafs.FileType.File and _is_data(entry.path[len(partition) :])
            ]
            if not found:
                problems.append(f"the partition `{partition}` has no parquet file; write the day again or leave it out")
            files += found
    return sorted(files, key=lambda f: f.path), problems


def partitioned_days(folder: Folder) -> list[dt.date]:
    """The days of the data set's partitions, in order."""
    return sorted(_partitions(folder))


def _partitions(folder: Folder) -> dict[dt.date, str]:
    """Folder of each day, directly below the root."""
    path, kind = folder.path, folder.kind()
    if kind == pafs.FileType.NotFound:
        raise DataError(
            f"the data set `{path}` does not exist; set data.path (`raymtl score`: --data) to an existing one"
        )
    if kind != pafs.FileType.Directory:
        raise DataError(
            f"`{path}` is a file; set data.path (`raymtl score`: --data) to the folder above the `ds=` partitions"
        )
    partitions: dict[dt.date, str] = {}
    for entry in _listed(folder, folder.root, recursive=False):
        name = entry.path.rstrip("/").rsplit("/", 1)[-1]
        if entry.type != pafs.FileType.Directory or not name.startswith("ds="):
            continue
        try:
            day = dt.date.fromisoformat(name.removeprefix("ds="))
        except ValueError:
            day = None
        if day is None or name != f"ds={day}":  # fromisoformat also reads 20260131 and 2026-W05-6
            raise DataError(f"the partition `{entry.path}` of `{path}` is not ds=YYYY-MM-DD; rename or remove it")
        partitions[day] = entry.path.rstrip("/")
    if not partitions:
        raise DataError(
            f"`{path}` has no `ds=YYYY-MM-DD` partition; set data.path (`raymtl score`: --data) to the "
            "folder that contains partitions, with files such as ds=2026-01-31/part-0.parquet"
        )
    return partitions


def _listed(folder: Folder, path: str, recursive: bool) -> list[pafs.FileInfo]:
    """The entries of a folder at a path on the file system."""
    try:
        return retry(lambda: list_folder(folder.filesystem, path, recursive=recursive))
    except OSError as error:
        raise to_user_error(f"list `{path}` of `{folder.path}`", error) from error


def _is_data(below: str) -> bool:
    """Parquet files only; a leading `_` or `.` in the name of a file or folder marks metadata or an unfinished file."""
    names = below.strip("/").split("/")
    return names[-1].endswith((".parquet", ".pq")) and not any(n.startswith(("_", ".")) for n in names)
