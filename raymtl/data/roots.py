"""The roots of a data set: one folder of days, or several with the same columns, such as one for each country or month."""

import datetime as dt
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pyarrow.fs as pafs

from raymtl.config.data import DayRange
from raymtl.data.found import File, FoundFiles, absent_days
from raymtl.data.partitions import Layout
from raymtl.data.source import find_files, partitioned_days, two_names_of_one_file
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from raymtl.words import count_of


@dataclass(frozen=True)
class Roots:
    """Folders that are read as one data set, all on one storage."""

    folders: tuple[Folder, ...]

    @classmethod
    def open(cls, paths: Sequence[str]) -> Self:
        """Raises ConfigError if no package reads such URLs, and DataError if the roots are on several storages, or two are one
        folder."""
        folders = tuple(Folder.open(path) for path in paths)
        first = folders[0]
        for other in folders[1:]:
            if not other.filesystem.equals(first.filesystem):
                raise DataError(
                    f"the roots `{first.path}` and `{other.path}` are on different storages, which one data set cannot be; copy "
                    "one to the storage of the other"
                )
        spelled: dict[str, str] = {}
        for folder in folders:
            place = os.path.normpath(folder.root) if folder.is_local else folder.root.rstrip("/")
            if place in spelled:
                raise DataError(
                    f"the roots `{spelled[place]}` and `{folder.path}` are one folder, whose rows would be read twice; list it "
                    "once"
                )
            spelled[place] = folder.path
        return cls(folders)

    @property
    def path(self) -> str:
        """The first root, which opens the storage of all."""
        return self.folders[0].path

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self.folders[0].filesystem

    @property
    def words(self) -> str:
        """The roots in an error."""
        more = f" and {count_of(len(self.folders) - 1, 'more root')}" if len(self.folders) > 1 else ""
        return f"`{self.path}`{more}"

    @property
    def have(self) -> str:
        """The verb to `words`."""
        return "has" if len(self.folders) == 1 else "have"

    def days(self, layout: Layout) -> list[dt.date]:
        """The days that any root has, in order."""
        return sorted({day for folder in self.folders for day in partitioned_days(folder, layout)})

    def find_files(self, days: DayRange | None, layout: Layout) -> FoundFiles:
        """The files of the given days (None: of every day) in all roots, by day and then by root.

        A root is expected to have every day between its own first and last one; beyond them the others have the rows.

        Raises DataError if a root has no data set, or is a table next to other roots.
        """
        if len(self.folders) == 1:
            return find_files(self.folders[0], days, layout)
        found = FoundFiles()
        days_of = [partitioned_days(folder, layout) for folder in self.folders]
        there = {day for own in days_of for day in own}
        for number, (folder, own) in enumerate(zip(self.folders, days_of, strict=True)):
            wanted = days if days is None else _within(days, own)
            if days is not None and (beyond := _beyond(folder, days, own, there)) is not None:
                found.notes.append(beyond)
            if days is None or wanted is not None:
                _add(found, find_files(folder, wanted, layout), folder, number)
        if days is not None:
            found.absent += absent_days(f"none of the roots ({self.words})", days.days(), sorted(there), layout)
        found.faults += two_names_of_one_file(found.files, found.files, "its rows would be read twice")
        found.files.sort(key=lambda file: (file.day, file.root, file.path))
        return found

    def name_of(self, file: File) -> str:
        """The path of a file below its root; files of the same path below two roots have two names."""
        below = file.path.removeprefix(self.folders[file.root].root).lstrip("/")
        return f"{file.root}:{below}" if file.root else below


def _add(found: FoundFiles, of_root: FoundFiles, folder: Folder, number: int) -> None:
    if of_root.snapshot is not None:
        raise DataError(
            f"the root `{folder.path}` is a table, and a table is a data set of its own; set data.path to the table alone, or "
            "write its rows to a folder of parquet files"
        )
    found.files += [replace(file, root=number) for file in of_root.files]
    found.absent += of_root.absent
    found.faults += of_root.faults
    found.notes += of_root.notes


def _within(days: DayRange, own: Sequence[dt.date]) -> DayRange | None:
    """The days between the first and the last one of a root."""
    start, end = max(days.start, own[0]), min(days.end, own[-1])
    return DayRange(start=start, end=end) if start <= end else None


def _beyond(folder: Folder, days: DayRange, own: Sequence[dt.date], there: Container[dt.date]) -> str | None:
    """A note if other roots have days before the first one of a root or after its last; `there` are the days of any root."""
    if not any(day in there for day in days.days() if not own[0] <= day <= own[-1]):
        return None
    has = f"the root `{folder.path}` has {own[0]} to {own[-1]} only"
    if _within(days, own) is None:
        return f"{has}, none of {days}, which come from the other roots"
    return f"{has}; the other days of {days} come from the other roots"
