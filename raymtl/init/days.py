"""The days of some logs, whatever their folders are named."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow.fs as pafs

from raymtl.data.lakehouse.tables import partition_texts
from raymtl.data.listing import Entry, list_names
from raymtl.data.partitions import Layout, format_of, split_name
from raymtl.data.source import partitioned_days
from raymtl.storage.folder import Folder

_TRAIN = ("train", "training")
_EVAL = ("test", "eval", "valid", "validation", "val", "dev")


@dataclass(frozen=True)
class Days:
    """Which days there are, and how their folders are named."""

    path: str
    """The folder above those of the days."""
    layout: Layout
    days: list[dt.date]
    """In order."""
    eval_path: str | None = None
    """Another folder to evaluate on."""
    eval_days: tuple[dt.date, ...] = ()
    """The days of that folder."""

    @property
    def train(self) -> tuple[dt.date, dt.date]:
        """First and last training day: all but the last day, if that is needed for the evaluation."""
        last = self.days[-2] if len(self.days) > 1 and self.eval_path is None else self.days[-1]
        return self.days[0], last

    @property
    def eval(self) -> tuple[dt.date, dt.date] | None:
        """First and last day to evaluate on: the last one, or those of the other folder."""
        if self.eval_path is not None:
            return self.eval_days[0], self.eval_days[-1]
        return (self.days[-1], self.days[-1]) if len(self.days) > 1 else None


def find_days(folder: Folder) -> Days | None:
    """The days below a folder, of the key that has most of them, or those of its subfolders `train` and `test`; None: no folder
    is named by a day.

    Raises DataError if the folder does not exist, or another tool manages its files.
    """
    entries = list_names(folder) if folder.kind() == pafs.FileType.Directory else []
    folders = [e.name for e in entries if e.kind != pafs.FileType.File]
    train = next((name for name in _TRAIN if name in folders), None)
    held_out = next((name for name in _EVAL if name in folders), None)
    if train is not None and held_out is not None:
        found, other = find_days(folder.child(train)), find_days(folder.child(held_out))
        if found is not None and other is not None and found.layout == other.layout:
            return replace(found, eval_path=other.path, eval_days=tuple(other.days))
    texts = partition_texts(folder, entries)
    layout = _layout(_texts_of_folders(entries) if texts is None else texts)
    if layout is None and texts is None and entries and not any("=" in name for name in folders):
        return None
    layout = layout or Layout()  # raises what is wrong with the folders that there are
    return Days(folder.path, layout, partitioned_days(folder, layout))


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
