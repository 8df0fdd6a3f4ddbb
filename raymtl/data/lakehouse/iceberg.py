"""The files of a snapshot of an Apache Iceberg table, from its metadata.

pyiceberg reads the metadata and the manifests, through the file system that also reads the data. The rules are those of Iceberg's
specification, https://iceberg.apache.org/spec/.
"""

import datetime as dt
import re
from functools import lru_cache
from typing import Any

import pyarrow.fs as pafs

from raymtl.data.lakehouse.snapshot import SETTING, PartitionValue, Snapshot, TableFile
from raymtl.errors import ConfigError, DataError
from raymtl.storage.folder import Folder

TOOL = "Apache Iceberg"
METADATA = "metadata"
_HINT = "version-hint.text"
_VERSION = re.compile(r"(?:v(\d+)|(\d+)-.*?)(?:\.gz)?\.metadata\.json|v(\d+)\.metadata\.json\.gz")
_KEPT = 4
"""Snapshots that are kept: the daily job asks for the files of each day."""
_DELETES = (
    "has rows that other files delete (merge-on-read), which raymtl does not read; rewrite the data files (Spark: CALL "
    "system.rewrite_data_files with delete-file-threshold 1), or write with copy-on-write"
)
_EPOCH = dt.date(1970, 1, 1)


def is_table(folder: Folder) -> bool:
    """Whether a folder is a table."""
    if folder.kind(METADATA) != pafs.FileType.Directory:
        return False
    return any(name.endswith(".metadata.json") for name in folder.names(METADATA))


def latest_snapshot(folder: Folder) -> int:
    """The ID of the current snapshot of the table in a folder. Raises DataError if it has none."""
    return _snapshot_of(folder, _open(folder, _metadata_file(folder)), None).snapshot_id


def read_snapshot(folder: Folder, snapshot_id: int | None) -> Snapshot:
    """A snapshot of the table in a folder; None: the current one.

    Raises ConfigError without the package pyiceberg, and DataError if the table no longer has the snapshot.
    """
    return _read(folder, _metadata_file(folder), snapshot_id)


@lru_cache(_KEPT)
def _read(folder: Folder, metadata: str, snapshot_id: int | None) -> Snapshot:
    """A snapshot (None: the current one) by a file of the metadata."""
    table = _open(folder, metadata)
    snapshot = _snapshot_of(folder, table, snapshot_id)
    number = snapshot.snapshot_id
    words = f"snapshot {number} of the {TOOL} table `{folder.path}`"
    schema = next((s for s in table.metadata.schemas if s.schema_id == snapshot.schema_id), table.schema())
    try:
        tasks = folder.retried("read", METADATA, lambda: _tasks(table, number))
    except _BrokenError as broken:
        if "equality deletes" in str(broken):  # which pyiceberg refuses on any day
            raise DataError(f"{words} {_DELETES}") from broken
        raise DataError(
            f"the list of files of {words} cannot be read ({broken}); set {SETTING} to another one, or to null"
        ) from broken
    columns = {field.name: field.field_id for field in schema.fields}
    keys = tuple(_partition(table.spec(), [None] * len(table.spec().fields), schema))
    files = [
        TableFile(
            _below(folder, task.file.file_path, table.location()),
            task.file.file_size_in_bytes,
            _partition(table.specs()[task.file.spec_id], list(task.file.partition), schema),
            _fault(task),
            columns,
        )
        for task in tasks
    ]
    return Snapshot(number, words, keys, files)


class _BrokenError(Exception):
    """A file of the metadata is missing or damaged, or of a newer format."""


def _tasks(table: Any, number: int) -> list[Any]:
    from pyiceberg.exceptions import ValidationError

    try:
        return list(table.scan(snapshot_id=number).plan_files())
    except (FileNotFoundError, ValueError, EOFError, NotImplementedError, ValidationError) as error:  # not retried
        raise _BrokenError(" ".join(str(error).split())) from error


def _open(folder: Folder, name: str) -> Any:
    """The table by a file of its metadata."""
    try:
        from pyiceberg.catalog.noop import NoopCatalog
        from pyiceberg.exceptions import ValidationError
        from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
        from pyiceberg.serializers import FromInputFile
        from pyiceberg.table import StaticTable
    except ImportError as error:
        raise ConfigError(
            f"`{folder.path}` is a table of {TOOL}, for which the package `pyiceberg` is missing ({error}); install it with "
            "`pip install 'raymtl[iceberg]'`"
        ) from error

    class FolderIO(PyArrowFileIO):
        """Reads the table's files through the file system of the folder, whatever the table calls its location."""

        table_location = ""

        def new_input(self, location: str) -> PyArrowFile:
            return PyArrowFile(location, _below(folder, location, self.table_location), folder.filesystem)

    io = FolderIO()
    try:
        metadata = folder.retried(
            "read",
            f"{METADATA}/{name}",
            lambda: FromInputFile.table_metadata(
                PyArrowFile(name, folder.inside(f"{METADATA}/{name}"), folder.filesystem)
            ),
        )
    except (ValueError, ValidationError) as error:
        raise DataError(
            f"`{folder.path_of(f'{METADATA}/{name}')}` is no readable metadata of an {TOOL} table "
            f"({' '.join(str(error).split())}); restore the table"
        ) from error
    io.table_location = metadata.location
    return StaticTable(("table", name), metadata, name, io, NoopCatalog("table"))


def _metadata_file(folder: Folder) -> str:
    """The name of the newest metadata: the one that Hadoop's catalogs point to, else the one with the highest number."""
    names = folder.names(METADATA)
    hint = (folder.read_text(f"{METADATA}/{_HINT}") or "").strip() if _HINT in names else ""
    for name in (hint, f"v{hint}.metadata.json", f"v{hint}.gz.metadata.json", f"{hint}.metadata.json"):
        if hint and name in names:
            return name
    numbered = [
        (int(next(filter(None, match.groups()))), name) for name in names if (match := _VERSION.fullmatch(name))
    ]
    newest = [name for number, name in numbered if number == max(numbered)[0]]
    if len(newest) == 1:
        return newest[0]
    raise DataError(
        f"`{folder.path_of(METADATA)}` has "
        + (f"{newest[0]} and {newest[1]}, written at the same time" if newest else "no numbered metadata")
        + f", so that the current state of the {TOOL} table is not known; write the name of the catalog's metadata file to "
        f"{_HINT} there"
    )


def _snapshot_of(folder: Folder, table: Any, snapshot_id: int | None) -> Any:
    current = table.current_snapshot()
    if current is None:
        raise DataError(f"the {TOOL} table `{folder.path}` has no snapshot; write rows first")
    snapshot = current if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise DataError(
            f"the {TOOL} table `{folder.path}` has no snapshot {snapshot_id} (any more); set {SETTING} to an existing one, "
            f"such as {current.snapshot_id}, or to null"
        )
    return snapshot


def _below(folder: Folder, location: str, table_location: str) -> str:
    """The path of a file of the table on the folder's file system. Raises DataError if it is not below the table."""
    above = table_location.rstrip("/") + "/"
    if not location.startswith(above):
        raise DataError(
            f"the {TOOL} table `{folder.path}` has the file `{location}` outside its location `{table_location}`, which "
            "raymtl does not read; write the table again below one folder"
        )
    return folder.inside(location[len(above) :])


def _partition(spec: Any, values: list[Any], schema: Any) -> dict[str, PartitionValue]:
    """The values of the partition fields that are columns as they are, or days of a time; other transforms tell no value."""
    from pyiceberg.transforms import DayTransform, IdentityTransform
    from pyiceberg.types import BooleanType, DateType, IntegerType, LongType, StringType

    found: dict[str, PartitionValue] = {}
    for field, value in zip(spec.fields, values, strict=True):
        if isinstance(field.transform, DayTransform):
            found[field.name] = _day(value)
        elif isinstance(field.transform, IdentityTransform):
            column = schema.find_field(field.source_id)
            if isinstance(column.field_type, DateType):
                found[column.name] = _day(value)
            elif isinstance(column.field_type, (StringType, IntegerType, LongType, BooleanType)):
                found[column.name] = _text(value)  # of other types the file holds the column itself
    return found


def _day(value: Any) -> dt.date | None:
    return _EPOCH + dt.timedelta(days=value) if isinstance(value, int) else value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fault(task: Any) -> str | None:
    """Why the file alone would give other rows than the table has."""
    from pyiceberg.manifest import FileFormat

    if task.delete_files:
        return _DELETES
    if task.file.file_format != FileFormat.PARQUET:
        return f"is {task.file.file_format.value}, not parquet; set write.format.default to parquet and rewrite the data files"
    return None
