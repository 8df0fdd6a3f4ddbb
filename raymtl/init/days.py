"""The days of some logs, whatever their folders are named, and which of them to train and to evaluate on."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.fs as pafs

from raymtl.config.data import as_roots
from raymtl.data.lakehouse.tables import partition_texts
from raymtl.data.listing import Entry, list_names
from raymtl.data.partitions import Layout, format_of, split_name
from raymtl.data.source import partitioned_days
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from raymtl.words import count_of

TRAIN = ("train", "training")
EVAL = ("test", "eval", "valid", "validation", "val", "dev")
_LITTLE = 0.1
"""A day with less than this share of the rows, or labels, of a usual one says too little."""
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class FoundDays:
    """Which days there are, and how their folders are named."""

    path: str | list[str]
    """The folder above those of the days, or several that are one data set."""
    layout: Layout
    days: list[dt.date]
    eval_path: str | list[str] | None = None
    """Another folder to evaluate on, or several."""
    eval_days: tuple[dt.date, ...] = ()

    @property
    def words(self) -> str:
        """How the folders are named."""
        return self.layout.pattern + (
            "" if self.eval_path is None else " below one folder to train and one to evaluate on"
        )


@dataclass(frozen=True)
class Days:
    """First and last day of training and of evaluation."""

    path: str | list[str]
    layout: Layout
    train: tuple[dt.date, dt.date]
    train_rows: int
    eval: tuple[dt.date, dt.date] | None = None
    eval_path: str | list[str] | None = None
    notes: list[str] = field(default_factory=list)
    """Why other days are left out, one sentence each."""


def find_days(folder: Folder) -> FoundDays | None:
    """The days below a folder, of the key that has most of them, or those of its subfolders `train` and `test`; None: no folder
    is named by a day.

    Raises DataError if the folder does not exist, or another tool manages its files.
    """
    entries = list_names(folder) if folder.kind() == pafs.FileType.Directory else []
    folders = [e.name for e in entries if e.kind != pafs.FileType.File]
    train, held_out = two_folders(folders)
    if train is not None and held_out is not None:
        found, other = find_days(folder.child(train)), find_days(folder.child(held_out))
        if found is not None and other is not None and found.layout == other.layout:
            return replace(found, eval_path=other.path, eval_days=tuple(other.days))
    texts = partition_texts(folder, entries)
    if texts is None and folders and (form := format_of(folders)) is not None:
        raise DataError(
            f"`{folder.path}` has folders such as `{folders[0]}`, days without a key; rename them as "
            f"{Layout(format=form).pattern}: ds={folders[0]}"
        )
    layout = _layout(_texts_of_folders(entries) if texts is None else texts)
    if layout is None and texts is None and entries and not any("=" in name for name in folders):
        return None
    if not entries and folder.kind() == pafs.FileType.Directory:
        raise DataError(f"`{folder.path}` is empty; pass the folder with the logs")
    layout = layout or Layout()  # raises what is wrong with the folders that there are
    return FoundDays(folder.path, layout, partitioned_days(folder, layout))


def find_days_of_all(folders: Sequence[Folder]) -> FoundDays | None:
    """The days below one folder, or below several that are one data set; None: one folder without folders of days.

    Raises DataError, as `find_days`, and if several folders do not name their days in the same way.
    """
    found = [find_days(folder) for folder in folders]
    if len(folders) == 1:
        return found[0]
    for folder, days in zip(folders, found, strict=True):
        if days is None:
            raise DataError(
                f"`{folder.path}` has no folders of days, which each of several PATHs needs; write its rows by day"
            )
    named = [days for days in found if days is not None]
    for folder, days in zip(folders, named, strict=True):
        if days.layout != named[0].layout or (days.eval_path is None) != (named[0].eval_path is None):
            raise DataError(
                f"`{folders[0].path}` and `{folder.path}` do not name their folders in the same way "
                f"({named[0].words} and {days.words}), so they are no one data set; rename the folders, or pass one PATH"
            )
    evaluated = [path for days in named for path in as_roots(days.eval_path or ())]
    return FoundDays(
        [path for days in named for path in as_roots(days.path)],
        named[0].layout,
        sorted({day for days in named for day in days.days}),
        evaluated or None,
        tuple(sorted({day for days in named for day in days.eval_days})),
    )


def two_folders(folders: Sequence[str]) -> tuple[str | None, str | None]:
    """The folders of training and of evaluation among the names of some."""
    return next((name for name in TRAIN if name in folders), None), next((n for n in EVAL if n in folders), None)


def choose_days(found: FoundDays, rows: Mapping[dt.date, int], known: Sequence[Mapping[dt.date, int]] = ()) -> Days:
    """Train on the days without a gap before the evaluation, which is the last day with usual numbers of rows and labels.

    `rows` of each day; `known`: of each label how many rows of each day have it.
    """
    days = sorted(day for day in rows if rows[day])
    notes = []
    if found.eval_path is not None:
        train = _run(days)
        evaluated = _run(sorted(found.eval_days))
        chosen: tuple[dt.date, dt.date] | None = (evaluated[0], evaluated[-1])
    else:
        usual = [day for day in days if _is_usual(day, rows, known)] or days
        last = usual[-1]
        if later := [day for day in days if day > last]:
            notes.append(f"{_several(later)}: with far fewer rows or labels than usual, as if they were still arriving")
        train = _run([day for day in days if day < last]) or [last]
        chosen = (last, last) if train[-1] < last else None
    if before := [day for day in days if day < train[0]]:
        notes.append(f"{_several(before)}: before a gap in the days")
    total = sum(rows[day] for day in train)
    return Days(found.path, found.layout, (train[0], train[-1]), total, chosen, found.eval_path, notes)


def _is_usual(day: dt.date, rows: Mapping[dt.date, int], known: Sequence[Mapping[dt.date, int]]) -> bool:
    for counts in (rows, *known):
        if counts.get(day, 0) < _LITTLE * float(np.median([n for n in counts.values() if n] or [0])):
            return False
    return all(counts.get(day, 0) for counts in known if any(counts.values()))


def _run(days: list[dt.date]) -> list[dt.date]:
    """The last days without a gap."""
    start = next((n for n in range(len(days) - 1, 0, -1) if days[n] - days[n - 1] != _DAY), 0)
    return days[start:]


def _several(days: list[dt.date]) -> str:
    return f"{days[0]}" if len(days) == 1 else f"{count_of(len(days), 'day')} from {days[0]} to {days[-1]}"


def _texts_of_folders(entries: list[Entry]) -> dict[str, list[str]]:
    """The values of each key, from the names of folders."""
    texts: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        pair = None if entry.kind == pafs.FileType.File else split_name(entry.name)
        if pair is not None and pair[1] is not None:
            texts[pair[0]].append(pair[1])
    return texts


def _layout(texts: Mapping[str, list[str]]) -> Layout | None:
    """The key and the format of the days, from the values of each key; None: none are days."""
    formats = {key: form for key, names in texts.items() if (form := format_of(names)) is not None}
    key = max(formats, key=lambda k: len(texts[k]), default=None)
    return None if key is None else Layout(key, formats[key])
