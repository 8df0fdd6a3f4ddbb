"""Find the files of a data set in Hive-style partitions, `ds=YYYY-MM-DD[/hour=HH]` unless the configuration names others."""

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from raymtl.config.data import DayRange
from raymtl.data.foreign import (
    HUDI,
    HUDI_PARTITION,
    is_skipped,
    is_skipped_beside,
    may_hold_rows,
    transaction_folder,
)
from raymtl.data.found import File, FoundFiles, absent_days
from raymtl.data.lakehouse.tables import files_of_snapshot, of_another_tool, snapshot_at
from raymtl.data.listing import Entry, Listing, list_below, list_names
from raymtl.data.partitions import SCORED, Layout, format_of, split_name
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from raymtl.words import count_of

_LISTING_THREADS = 8
_LOOKED_INTO = 8
"""Folders that an error looks into, for days."""
_PARTS_OF_A_DAY = {"year", "yyyy", "y", "month", "mm", "m", "day", "dd", "d"}
"""Keys of folders that only together name a day."""
_HOUR = re.compile(r"\D?([01]\d|2[0-3])")
"""An hour after a day."""


def find_files(folder: Folder, days: DayRange | None, layout: Layout = Layout()) -> FoundFiles:
    """The files of the given days (None: of every day), with the faults of those that cannot be read.

    A file counts whatever its name, unless the name says that it is no data; that it is parquet, its footer must say.

    Raises DataError if there is no data set at all, and StorageError if the storage keeps failing.
    """
    entries = _entries(folder, layout)
    if (snapshot := snapshot_at(folder, layout, entries)) is not None:
        return files_of_snapshot(folder, snapshot, days, layout)
    partitions, found = _partitions(folder, layout, entries)
    wanted = sorted(partitions) if days is None else days.days()
    found.absent += absent_days(f"`{folder.path}`", wanted, sorted(partitions), layout)
    present = [d for d in wanted if d in partitions]
    skipped: list[str] = []
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        listings = pool.map(lambda day: list_below(folder, partitions[day]), present)
        for day, listing in zip(present, listings, strict=True):
            if any(entry.name.startswith(HUDI_PARTITION) for entry in listing.entries):
                raise DataError(of_another_tool(folder.path, HUDI))
            _add_files_of_day(found, skipped, day, folder, partitions[day], listing, layout)
    found.faults += two_names_of_one_file(found.files, found.files, "its rows would be read twice")
    if skipped:
        found.notes.append(
            f"`{folder.path}`: {count_of(len(skipped), 'file')} below the days {'is' if len(skipped) == 1 else 'are'} not read, "
            f"since the name says that it is no data, such as {skipped[0].removeprefix(folder.root).lstrip('/')}"
        )
    found.files.sort(key=lambda f: f.path)
    return found


def find_flat_files(folder: Folder) -> FoundFiles:
    """The files below a folder without days, by the rules of those of a day; their folders `key=value` are columns."""
    found = FoundFiles()
    _add_files_of_day(found, [], dt.date.min, folder, folder.root, list_below(folder, folder.root), Layout())
    found.faults += two_names_of_one_file(found.files, found.files, "its rows would be read twice")
    found.files.sort(key=lambda f: f.path)
    return found


def partitioned_days(folder: Folder, layout: Layout = Layout()) -> list[dt.date]:
    """The days of the data set's partitions, in order."""
    entries = _entries(folder, layout)
    if (snapshot := snapshot_at(folder, layout, entries)) is not None:
        return sorted({f.day for f in files_of_snapshot(folder, snapshot, None, layout).files})
    return sorted(_partitions(folder, layout, entries)[0])


def evaluated_training_files(train: Sequence[File], evaluation: Sequence[File]) -> list[str]:
    """At most one sentence: the first file of the evaluation that is another name of a training file."""
    return two_names_of_one_file(train, evaluation, "the model would be evaluated on rows that it was trained on")


def two_names_of_one_file(first: Sequence[File], second: Sequence[File], result: str) -> list[str]:
    """At most one sentence: the first file of `second` that has another name in `first`, and how many there are."""
    names = {file.identity: file.path for file in reversed(first) if file.identity is not None}
    twice = [(names[f.identity], f.path) for f in second if f.identity in names and names[f.identity] != f.path]
    if not twice:
        return []
    more = f" (and {len(twice) - 1} more such pairs)" if len(twice) > 1 else ""
    return [
        f"`{twice[0][0]}` and `{twice[0][1]}`{more} are two names of one file, a link and its target, so {result}; remove one "
        "of the names"
    ]


def _add_files_of_day(
    found: FoundFiles,
    skipped: list[str],
    day: dt.date,
    folder: Folder,
    partition: str,
    listing: Listing,
    layout: Layout,
) -> None:
    """Add the files of a day to `found`, and the names of those that are skipped to `skipped`."""
    before = len(found.files)
    own = layout.of_root(folder.root)
    transactions: Counter[str] = Counter()
    for entry in listing.entries:
        below = entry.path[len(partition) :].strip("/")
        if is_skipped(below, entry.size, layout.marker):
            if may_hold_rows(below, entry.size, layout.marker):
                skipped.append(entry.path)
        elif (transaction := transaction_folder(below)) is not None:
            transactions[transaction] += 1
        elif entry.kind != pafs.FileType.File:
            found.faults.append(f"`{entry.path}` is not a regular file; remove it")
        else:
            found.files.append(
                File(
                    entry.path,
                    day,
                    entry.size,
                    (*own, *layout.values(below)),
                    layout.impressions,
                    entry.identity,
                    optional=layout.optional(day),
                )
            )
    found.faults += listing.problems
    if transactions:
        found.faults.append(
            f"the partition `{partition}` has the folder `{min(transactions)}` of a transactional Hive table, whose files "
            "raymtl does not read; write the rows as plain parquet files"
        )
    elif len(found.files) == before and not listing.problems:
        found.absent.append(f"the partition `{partition}` has no parquet file; write the day again or leave it out")


def _entries(folder: Folder, layout: Layout) -> list[Entry]:
    """What is directly below the root. Raises DataError if it is no folder."""
    path, kind = folder.path, folder.kind()
    if kind == pafs.FileType.NotFound:
        raise DataError(
            f"the data set `{path}` does not exist; set data.path (`raymtl score`: --data) to an existing one"
        )
    if kind != pafs.FileType.Directory:
        raise DataError(
            f"`{path}` is a file; set data.path (`raymtl score`: --data) to the folder above the `{layout.key}=` partitions"
        )
    return sorted(list_names(folder), key=lambda e: e.path)


def _partitions(folder: Folder, layout: Layout, entries: Sequence[Entry]) -> tuple[dict[dt.date, str], FoundFiles]:
    """Folder of each day, directly below the root, and what else there is."""
    path = folder.path
    partitions: dict[dt.date, str] = {}
    found, others, undated = FoundFiles(), [], []
    for entry in entries:
        pair = None if entry.kind == pafs.FileType.File else split_name(entry.name)
        if pair is None or pair[0] != layout.key:
            if not is_skipped_beside(entry.name, entry.size if entry.kind == pafs.FileType.File else None):
                others.append(entry)
            continue
        if pair[1] is None:
            undated.append(entry)
            continue
        day = layout.day(pair[1])
        if day is None:
            raise DataError(_odd_name(entry, pair[1], path, layout, entries))
        if day in partitions:
            raise DataError(f"`{partitions[day]}` and `{entry.path}` are both the day {day}; merge the two folders")
        partitions[day] = entry.path
    if not partitions:
        raise DataError(_no_partitions(folder, layout, entries))
    if others:
        found.notes.append(
            f"`{path}`: {others[0].name} {f'and {len(others) - 1} more ' if len(others) > 1 else ''}next to the `{layout.key}=` "
            f"partitions {'are' if len(others) > 1 else 'is'} not read"
        )
    for entry in undated:
        count = sum(
            not is_skipped(e.path[len(entry.path) :].strip("/"), e.size, layout.marker)
            for e in list_below(folder, entry.path).entries
        )
        found.notes.append(
            f"`{path}`: {entry.name} belongs to no day; its {count_of(count, 'file')} {'is' if count == 1 else 'are'} not read"
        )
    return partitions, found


def _odd_name(entry: Entry, text: str, path: str, layout: Layout, entries: Sequence[Entry]) -> str:
    """The error for a partition of the right key whose value is no day."""
    dates = _dates(entries, layout.key)
    if _are_parts_of_days(layout.key, dates):
        return _one_level_each(path, entry.name)
    width = len(dt.date.max.strftime(layout.format))
    if (form := format_of(dates)) is not None:
        remedy = f'set data.partition.format to "{form}" {SCORED}'
    elif (day := layout.day(text[:width])) is not None and (hour := _HOUR.fullmatch(text[width:])) is not None:
        remedy = f"a partition is one day: move its files to {layout.name(day)}/hour={hour[1]}"
    elif not any(layout.day(date) for date in dates):
        remedy = f"rename the partitions, or set data.partition.format to the format of their days {SCORED}"
    else:
        remedy = "rename or remove it"
    return f"the partition `{entry.path}` of `{path}` is not {layout.pattern}; {remedy}"


def _no_partitions(folder: Folder, layout: Layout, entries: Sequence[Entry]) -> str:
    """The error for a data set without any day of this layout."""
    path = folder.path
    keys = dict.fromkeys(pair[0] for e in entries if (pair := split_name(e.name)) is not None)
    for key in keys:
        first = next(e.name for e in entries if (split_name(e.name) or ("",))[0] == key)
        if (form := format_of(_dates(entries, key))) is not None:
            return (
                f"`{path}` has no `{layout.pattern}` partition, but partitions such as {first}; set data.partition to "
                f'{{key: {key}, format: "{form}"}} {SCORED}'
            )
        if _are_parts_of_days(key, _dates(entries, key)):
            return _one_level_each(path, first)
    if (roots := [e.name for e in entries[:_LOOKED_INTO] if _has_days(folder, e)]) != []:
        return (
            f"`{path}` has no `{layout.pattern}` partition, but folders with days, such as {roots[0]}; list them as roots, as in "
            f"data.path: [{', '.join(folder.path_of(name) for name in roots[:2])}{', …' if len(roots) > 2 else ''}] "
            f"(`raymtl init` takes several PATHs)"
        )
    there = f"; it has the folders `{next(iter(keys))}=…`, which are no days" if keys else ""
    return (
        f"`{path}` has no `{layout.pattern}` partition{there}; set data.path (`raymtl score`: --data, `raymtl init`: PATH) to "
        f"the folder that contains partitions, with files such as {layout.name(dt.date(2026, 1, 31))}/part-0.parquet"
    )


def _has_days(folder: Folder, entry: Entry) -> bool:
    """Whether a folder has folders that are named by days."""
    if entry.kind != pafs.FileType.Directory:
        return False
    below = list_names(folder.child(entry.name))
    keys = {pair[0] for e in below if (pair := split_name(e.name)) is not None}
    return any(format_of(_dates(below, key)) is not None for key in keys)


def _are_parts_of_days(key: str, texts: Sequence[str]) -> bool:
    """Whether folders of a key and these values only together with others name a day, as in `year=2026/month=01/day=31`."""
    return key.lower() in _PARTS_OF_A_DAY and all(re.fullmatch(r"\d{1,4}", text) for text in texts)


def _one_level_each(path: str, name: str) -> str:
    """The error for such folders."""
    return (
        f"`{path}` has folders such as {name}, one level each for year, month and day, which raymtl does not read; write one "
        "folder for each day: move the files of year=2026/month=01/day=31 to ds=2026-01-31"
    )


def _dates(entries: Sequence[Entry], key: str) -> list[str]:
    """The values of the folders of a key, without null."""
    pairs = [split_name(e.name) for e in entries if e.kind != pafs.FileType.File]
    return [pair[1] for pair in pairs if pair is not None and pair[0] == key and pair[1] is not None]
