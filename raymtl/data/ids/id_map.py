"""The persistent map of a table with `id_space: map`: which ID holds which row, how often it was seen and when last.

Row 0 is the one row of all unknown IDs; no ID of the map holds it. A map never changes: `admit.py` makes a new one out of it
between runs. It is saved as one parquet file (`id`, `row`, `count`, `last_seen`) that any system can read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raymtl.data.ids.id_map_lookup import IdLookup, shared_lookup
from raymtl.errors import CheckpointError, StorageError, UserError
from raymtl.storage.atomic import atomic_write
from raymtl.storage.filesystem import is_local, open_filesystem, open_to_read
from raymtl.storage.retry import advice, is_of_storage, reason, retry, to_user_error

UNKNOWN_ROW = 0
_SCHEMA = pa.schema([("id", pa.int64()), ("row", pa.int64()), ("count", pa.int64()), ("last_seen", pa.date32())])
_HEADER = b"raymtl.id_map"


@dataclass(frozen=True, eq=False)
class IdMap:
    """N IDs with a row each, in ascending order of the IDs; make one with `IdMap.of` or `IdMap.empty`."""

    capacity: int
    """Rows of the table, the unknown row included."""
    ids: np.ndarray
    """[N] int64, ascending."""
    rows: np.ndarray
    """[N] int64, distinct, 1 to `capacity` - 1."""
    counts: np.ndarray
    """[N] int64, lookups of the ID since it was admitted, those that admitted it included."""
    last_seen: np.ndarray
    """[N] int32, the last day with the ID, in days since 1970-01-01."""

    @staticmethod
    def empty(capacity: int) -> "IdMap":
        """A map that knows no ID."""
        none = np.empty(0, np.int64)
        return IdMap(capacity, none, none, none, none.astype(np.int32))

    @staticmethod
    def of(capacity: int, ids: np.ndarray, rows: np.ndarray, counts: np.ndarray, last_seen: np.ndarray) -> "IdMap":
        """The map of IDs in any order. Raises ValueError where an ID or a row is there twice, or a row is not the table's."""
        order = np.argsort(ids)
        ids, rows = ids[order].astype(np.int64, copy=False), rows[order].astype(np.int64, copy=False)
        if (ids[1:] == ids[:-1]).any():
            raise ValueError(f"the ID {ids[1:][ids[1:] == ids[:-1]][0]} is there twice")
        wrong = (rows <= UNKNOWN_ROW) | (rows >= capacity)
        if wrong.any():
            raise ValueError(f"the ID {ids[wrong][0]} has row {rows[wrong][0]}, expected 1 to {capacity - 1}")
        if len(rows) and (twice := np.bincount(rows) > 1).any():
            raise ValueError(f"the row {int(twice.argmax())} is held by two IDs")
        counts, last_seen = counts[order].astype(np.int64, copy=False), last_seen[order].astype(np.int32, copy=False)
        return IdMap(capacity, ids, rows, counts, last_seen)

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place of each of the `ids` [M], which are ascending, in this map, and whether it has it: [M] int64, [M] bool."""
        places = np.searchsorted(self.ids, ids)
        if not len(self):
            return places, np.zeros(len(ids), bool)
        return places, self.ids[np.minimum(places, len(self) - 1)] == ids

    @cached_property
    def lookup(self) -> IdLookup:
        """From ID to row, 0 for an unknown one; in this process's own memory."""
        return IdLookup.build(self.ids, self.rows)

    @cached_property
    def digest(self) -> str:
        """Hash of everything in the map, whatever way it is saved."""
        sha = hashlib.sha256(np.int64(self.capacity).tobytes())
        for column in (self.ids, self.rows, self.counts, self.last_seen):
            sha.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).data)
        return sha.hexdigest()[:32]


@dataclass(frozen=True)
class MapFile:
    """A saved map by name: all that a reading task is given."""

    path: str
    """Absolute, or a URL."""
    digest: str
    """Content of the map; a file with another content is refused."""
    capacity: int
    ids: int
    """IDs that hold a row."""
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What was noted when it was saved."""

    def load(self) -> IdMap:
        """Read the whole map.

        Raises CheckpointError where the file is missing or damaged, or holds another map, and StorageError where the storage
        goes on failing.
        """
        filesystem, inner = open_filesystem(self.path)
        try:
            table = retry(lambda: _read_table(filesystem, inner))
            columns = [table.column(f.name).combine_chunks() for f in _SCHEMA]
            ids, rows, counts = (c.to_numpy() for c in columns[:3])
            last_seen = columns[3].cast(pa.int32()).to_numpy()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise _unreadable(self.path, error) from error
        loaded = IdMap(self.capacity, ids, rows, counts, last_seen)
        if loaded.digest != self.digest:
            raise CheckpointError(
                f"the ID map `{self.path}` is not the one that was saved (content hash {loaded.digest}, expected "
                f"{self.digest}); restore the file, or train again under another name"
            )
        return loaded

    def shared(self) -> IdLookup:
        """From ID to row, out of pages that all processes of this host share; reads the file where nobody has yet."""
        return shared_lookup(self.digest, lambda: self.load().lookup)


class MapRows:
    """Applies maps where the logs are read. A saved one is pickled as its file's name, and each process maps the shared pages."""

    def __init__(self, files: Mapping[str, MapFile | IdLookup | None]):
        """By table, a saved map or one that is in this process already; None stands for a map that knows no ID."""
        self._files = dict(files)

    def rows(self, table: str, ids: np.ndarray) -> np.ndarray:
        """Row of every ID, [N] int64 in and out; 0 where the table's map does not have it."""
        file = self._files[table]
        if file is None:
            return np.full(len(ids), UNKNOWN_ROW, np.int64)
        if isinstance(file, IdLookup):
            return file.rows(ids)
        lookup = _in_use.get(file.digest)
        if lookup is None:
            # A process keeps what it used last, so that the next task need not map it again, and lets go of other runs' maps
            own = {f.digest for f in self._files.values() if isinstance(f, MapFile)}
            for other in set(_in_use) - own:
                _in_use.pop(other, None)
            lookup = _in_use[file.digest] = file.shared()
        return lookup.rows(ids)


_in_use: dict[str, IdLookup] = {}


def save_map(id_map: IdMap, path: str, notes: Mapping[str, Any] | None = None) -> MapFile:
    """Save a map so that a reader sees the old file or the new one whole; `notes` (plain JSON) come back with `find_map`.

    Raises StorageError where it cannot be written.
    """
    noted = dict(notes or {})
    head = {"digest": id_map.digest, "capacity": id_map.capacity, "notes": noted}
    days = pa.array(id_map.last_seen).cast(pa.date32())
    table = pa.Table.from_arrays(
        [pa.array(id_map.ids), pa.array(id_map.rows), pa.array(id_map.counts), days], schema=_SCHEMA
    ).replace_schema_metadata({_HEADER: json.dumps(head)})
    filesystem, inner = open_filesystem(path)

    def write(written: str) -> None:
        # IDs and rows hardly repeat: no dictionary for them
        pq.write_table(
            table,
            written,
            filesystem=filesystem,
            compression="zstd",
            use_dictionary=["last_seen"],
            write_page_checksum=True,
        )

    try:
        atomic_write(filesystem, inner, f"{inner}.new", write)
    except OSError as error:
        raise StorageError(
            f"the ID map `{path}` cannot be written: {reason(error)}; {advice(error)}, then rerun the same command"
        ) from error
    return MapFile(inner if is_local(filesystem) else path, id_map.digest, id_map.capacity, len(id_map.ids), noted)


def find_map(path: str) -> MapFile | None:
    """The saved map at `path` by its footer alone; None where there is no file.

    Raises CheckpointError for a damaged one, and StorageError where the storage goes on failing.
    """
    filesystem, inner = open_filesystem(path)
    try:
        if retry(lambda: filesystem.get_file_info(inner)).type == pafs.FileType.NotFound:
            return None
        footer = retry(lambda: _read_footer(filesystem, inner))
        head = json.loads((footer.metadata or {})[_HEADER])
        name = inner if is_local(filesystem) else path
        return MapFile(name, head["digest"], head["capacity"], footer.num_rows, head["notes"])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_table(filesystem: pafs.FileSystem, path: str) -> pa.Table:
    with open_to_read(filesystem, path) as stream:
        return pq.read_table(stream, page_checksum_verification=True)


def _read_footer(filesystem: pafs.FileSystem, path: str) -> pq.FileMetaData:
    with open_to_read(filesystem, path) as stream:
        return pq.read_metadata(stream)


def _unreadable(path: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and is_of_storage(error):
        return to_user_error(f"read the ID map `{path}`", error)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(
        f"the ID map `{path}` is missing or damaged ({reason}); restore the file, or train again under another name"
    )
