"""The files of a data set, and what is wrong with it."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raymtl.data.partitions import Layout, Values
from raymtl.errors import DataError
from raymtl.words import count_of


@dataclass(frozen=True)
class File:
    """One parquet file of the data set."""

    path: str
    """Path on its file system, without the scheme."""
    day: dt.date
    """The day of its partition."""
    size: int
    """Bytes."""
    values: Values = ()
    """The columns that its folders stand for."""
    impressions: tuple[str, ...] = ()
    """The columns that hold the impressions, if its rows are requests."""
    identity: tuple[int, int] | None = None
    """Device and inode of a local file: equal for two names of one file."""
    snapshot: str | None = None
    """The snapshot of a table that names it, in words; None: it was found in its folder."""
    columns: Mapping[str, int] | None = field(default=None, repr=False, compare=False)
    """The IDs of the table's columns, if it knows its columns by ID."""
    optional: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Columns that are null where the file lacks them."""
    root: int = 0
    """Which of the data set's roots it lies below."""


@dataclass
class FoundFiles:
    """The files of some days."""

    files: list[File] = field(default_factory=list)
    """Ordered by path."""
    absent: list[str] = field(default_factory=list)
    """Days without a folder or without files, one sentence each."""
    faults: list[str] = field(default_factory=list)
    """Files and folders that cannot be read, one sentence each."""
    notes: list[str] = field(default_factory=list)
    """What is there and is not read, one sentence each."""
    snapshot: int | None = None
    """The snapshot, if a table lists the files."""

    @property
    def problems(self) -> list[str]:
        """Everything for which days or rows would be missing or wrong."""
        return [*self.absent, *self.faults]

    def or_raise(self) -> "FoundFiles":
        """Raise DataError for the first problem."""
        if self.problems:
            raise DataError(self.problems[0])
        return self


def absent_days(where: str, wanted: Sequence[dt.date], there: Sequence[dt.date], layout: Layout) -> list[str]:
    """At most one sentence: the first day that is not there."""
    if not (missing := [d for d in wanted if d not in set(there)]):
        return []
    more = f" (and {len(missing) - 1} more of {wanted[0]}..{wanted[-1]})" if len(missing) > 1 else ""
    return [
        f"{where} has no partition {layout.name(missing[0])}{more}; it has {layout.name(there[0])} to {layout.name(there[-1])}, "
        f"{count_of(len(there), 'day')}; write the missing days, or choose days that exist"
    ]
