"""The persistent map of a table with `id_space: map`: the row of each ID, its lookups and its last day.

Row 0 is the row of all unknown IDs; no ID of the map holds it. A map never changes: `admission.py` builds a new one from it
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
from raymtl.storage.filesystem import open_to_read
from raymtl.storage.folder import Folder
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
        """A map without IDs."""
        none = np.empty(0, np.int64)
        return IdMap(capacity, none, none, none, none.astype(np.int32))

    @staticmethod
    def of(capacity: int, ids: np.ndarray, rows: np.ndarray, counts: np.ndarray, last_seen: np.ndarray) -> "IdMap":
        """The map of IDs in any order. Raises ValueError if an ID or a row occurs twice, or a row is outside the table."""
        order = np.argsort(ids)
        ids, rows = ids[order].astype(np.int64, copy=False), rows[order].astype(np.int64, copy=False)
        if (ids[1:] == ids[:-1]).any():
            raise ValueError(f"the ID {ids[1:][ids[1:] == ids[:-1]][0]} occurs twice")
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
        """Index of each of the ascending `ids` [M] in this map, and whether the map has it: [M] int64, [M] bool."""
        places = np.searchsorted(self.ids, ids)
        if not len(self):
            return places, np.zeros(len(ids), bool)
        return places, self.ids[np.minimum(places, len(self) - 1)] == ids

    @cached_property
    def lookup(self) -> IdLookup:
        """From ID to row, 0 for an unknown ID; in this process's own memory."""
        return IdLookup.build(self.ids, self.rows)

    @cached_property
    def digest(self) -> str:
        """Hash of the map's content, independent of how it is saved."""
        sha = hashlib.sha256(np.int64(self.capacity).tobytes())
        for column in (self.ids, self.rows, self.counts, self.last_seen):
            sha.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).data)
        return sha.hexdigest()[:32]


@dataclass(frozen=True)
class MapFile:
    """A reference to a saved map, which reading tasks get instead of the map."""

    folder: Folder
    name: str
    """Its path in the folder."""
    digest: str
    """Hash of the map's content; a file with other content is refused."""
    capacity: int
    ids: int
    """IDs that hold a row."""
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The notes it was saved with."""

    @property
    def path(self) -> str:
        """Path or URL, for the user."""
        return self.folder.path_of(self.name)

    def load(self) -> IdMap:
        """Read the map.

        Raises CheckpointError if the file is missing or damaged, or holds another map, and StorageError if the storage keeps
        failing.
        """
        try:
            table = retry(lambda: _read_table(self.folder, self.name))
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
        """From ID to row, in pages that all processes of this host share; the first process reads the file."""
        return shared_lookup(self.digest, lambda: self.load().lookup)


class MapRows:
    """Applies maps while logs are read. A saved map is pickled as its file name, and each process maps the shared pages."""

    def __init__(self, files: Mapping[str, MapFile | IdLookup | None]):
        """By table, a saved map or one already loaded in this process; None stands for an empty map."""
        self._files = dict(files)

    def rows(self, table: str, ids: np.ndarray) -> np.ndarray:
        """Row of every ID, [N] int64 in and out; 0 for an unknown ID."""
        file = self._files[table]
        if file is None:
            return np.full(len(ids), UNKNOWN_ROW, np.int64)
        if isinstance(file, IdLookup):
            return file.rows(ids)
        lookup = _in_use.get(file.digest)
        if lookup is None:
            # A process keeps the maps of its last task for the next one, and releases those of other runs
            own = {f.digest for f in self._files.values() if isinstance(f, MapFile)}
            for other in set(_in_use) - own:
                _in_use.pop(other, None)
            lookup = _in_use[file.digest] = file.shared()
        return lookup.rows(ids)


_in_use: dict[str, IdLookup] = {}


def save_map(id_map: IdMap, folder: Folder, name: str, notes: Mapping[str, Any] | None = None) -> MapFile:
    """Save a map so that a reader sees either the old or the new file; `find_map` returns the `notes` (plain JSON).

    Raises StorageError if it cannot be written.
    """
    noted = dict(notes or {})
    head = {"digest": id_map.digest, "capacity": id_map.capacity, "notes": noted}
    days = pa.array(id_map.last_seen).cast(pa.date32())
    table = pa.Table.from_arrays(
        [pa.array(id_map.ids), pa.array(id_map.rows), pa.array(id_map.counts), days], schema=_SCHEMA
    ).replace_schema_metadata({_HEADER: json.dumps(head)})

    def write(written: str) -> None:
        # IDs and rows hardly repeat, so a dictionary does not help
        pq.write_table(
            table,
            written,
            filesystem=folder.filesystem,
            compression="zstd",
            use_dictionary=["last_seen"],
            write_page_checksum=True,
        )

    try:
        atomic_write(folder.filesystem, folder.inside(name), folder.temp_path(name), write)
    except OSError as error:
        raise StorageError(
            f"the ID map `{folder.path_of(name)}` cannot be written: {reason(error)}; {advice(error)}, then rerun the same "
            "command"
        ) from error
    return MapFile(folder, name, id_map.digest, id_map.capacity, len(id_map.ids), noted)


def find_map(folder: Folder, name: str) -> MapFile | None:
    """The saved map `name` by its footer alone; None if there is no file.

    Raises CheckpointError if it is damaged, and StorageError if the storage keeps failing.
    """
    try:
        if retry(lambda: folder.filesystem.get_file_info(folder.inside(name))).type == pafs.FileType.NotFound:
            return None
        footer = retry(lambda: _read_footer(folder, name))
        head = json.loads((footer.metadata or {})[_HEADER])
        return MapFile(folder, name, head["digest"], head["capacity"], footer.num_rows, head["notes"])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(folder.path_of(name), error) from error


def _read_table(folder: Folder, name: str) -> pa.Table:
    with open_to_read(folder.filesystem, folder.inside(name)) as stream:
        return pq.read_table(stream, page_checksum_verification=True)


def _read_footer(folder: Folder, name: str) -> pq.FileMetaData:
    with open_to_read(folder.filesystem, folder.inside(name)) as stream:
        return pq.read_metadata(stream)


def _unreadable(path: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and is_of_storage(error):
        return to_user_error(f"read the ID map `{path}`", error)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(
        f"the ID map `{path}` is missing or damaged ({reason}); restore the file, or train again under another name"
    )
