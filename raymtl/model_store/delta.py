"""Delta versions, which hold only the rows changed since a base version: the check of the base, and expired IDs."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.embeddings.rows import TableRows
from raymtl.errors import VersionError
from raymtl.model_store.manifest import FileEntry, Manifest
from raymtl.model_store.store import folder_of
from raymtl.storage.object_store import Output, Store


def check_base(
    base: Manifest, tables: Mapping[str, TableRows], spaces: Mapping[str, str], optimizers: Mapping[str, str]
) -> None:
    """Raise VersionError if these tables cannot be written as a delta on `base`."""
    if base.tables.keys() != tables.keys():
        other = sorted(base.tables.keys() ^ tables.keys())[0]
        raise VersionError(
            f"a delta on version {base.id} needs the same tables, and only one of the two has `{other}`; write a full version"
        )
    for name, table in tables.items():
        saved = base.tables[name]
        was = (saved.dim, saved.id_space, saved.optimizer, saved.state)
        now = (table.dim, spaces[name], optimizers[name], table.state_dims)
        if was != now:
            raise VersionError(
                f"table `{name}` is {now} (width, ID space, optimizer, state) and {was} in version {base.id}, so a delta on it "
                f"is not possible; write a full version"
            )
        grew = table.rows > saved.rows and spaces[name] != "hash"
        if table.rows != saved.rows and not grew:
            raise VersionError(
                f"table `{name}` has {table.rows:,} rows and {saved.rows:,} in version {base.id}, so a delta on it is not "
                f"possible; write a full version"
            )


def changed_rows(
    named: Sequence[Mapping[str, np.ndarray]], base: Manifest, tables: Mapping[str, TableRows]
) -> dict[str, np.ndarray]:
    """For each table, the rows that any worker names and those that `base` lacks, ascending and distinct."""
    found = {}
    for name, table in tables.items():
        new = np.arange(base.tables[name].rows, table.rows)
        rows = np.unique(np.concatenate([new, *(np.asarray(w.get(name, []), np.int64) for w in named)]))
        assert not len(rows) or (rows[0] >= 0 and rows[-1] < table.rows), f"rows of {name} outside the table"
        found[name] = rows
    return found


def write_expired(store: Store, version: str, table: str, ids: np.ndarray) -> FileEntry:
    """Write the IDs of a table evicted since the base: one column `id`, ascending."""
    path = f"expired/{table}.parquet"
    with Output(store, f"{folder_of(version)}/{path}") as output:
        pq.write_table(pa.table({"id": pa.array(np.unique(ids), pa.int64())}), output, compression="zstd")
    return FileEntry(path=path, bytes=output.bytes, sha256=output.sha256, rows=len(np.unique(ids)))
