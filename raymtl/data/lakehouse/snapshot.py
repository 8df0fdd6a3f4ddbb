"""One state of a table: its number, and the files that it consists of."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

SETTING = "data.snapshot (`raymtl score`: --snapshot)"
"""What chooses a snapshot, for errors."""

PartitionValue = str | dt.date | None
"""A date keeps its type, since its text has no format of its own; every other value is text."""


@dataclass(frozen=True)
class TableFile:
    """One data file of a table."""

    path: str
    """On the file system of the table's folder."""
    size: int
    """Bytes."""
    partition: Mapping[str, PartitionValue]
    """The values of the columns that the table is partitioned by."""
    fault: str | None = None
    """Why its rows are not those of the table, as what to say of the file."""
    columns: Mapping[str, int] | None = None
    """The ID of each column, which the file also holds, if columns are known by ID and not by name."""


@dataclass(frozen=True)
class Snapshot:
    """A version of a Delta Lake table, or a snapshot of an Iceberg table."""

    number: int
    """The version, or the snapshot's ID."""
    words: str
    """Which one it is, in words."""
    keys: tuple[str, ...]
    """The columns that the table is partitioned by."""
    files: list[TableFile] = field(repr=False)
