"""The IDs of the rows of a `map` table, as columns of a version's files: written row by row, and read back as a map."""

import numpy as np
import pyarrow as pa

from raymtl.data.ids.id_map import IdMap
from raymtl.errors import VersionError
from raymtl.model_store.manifest import KEY, Manifest
from raymtl.model_store.table_reader import row_groups
from raymtl.storage.object_store import Store

FIELDS = (pa.field("id", pa.int64()), pa.field("count", pa.int64()), pa.field("last_seen_day", pa.date32()))
"""Null in all three: the row has no ID."""


class RowIds:
    """The columns of `FIELDS` for any rows of one table."""

    def __init__(self, id_map: IdMap):
        order = np.argsort(id_map.rows)
        self._rows = id_map.rows[order]
        days = pa.array(id_map.last_seen[order]).cast(pa.date32())
        self._columns = [pa.array(id_map.ids[order]), pa.array(id_map.counts[order]), days]

    def take(self, rows: np.ndarray) -> list[pa.Array]:
        """The columns for row numbers [N]."""
        places = np.searchsorted(self._rows, rows)
        held = np.zeros(len(rows), bool)
        inside = places < len(self._rows)
        held[inside] = self._rows[places[inside]] == rows[inside]
        indices = pa.array(np.where(held, places, 0), mask=~held)
        return [column.take(indices) for column in self._columns]


def read_map(store: Store, chain: list[Manifest], table: str, checked: bool = False) -> IdMap:
    """The map of a table in the version at the end of `chain` (`store.chain`), with its deltas merged.

    `checked`: verify the hash of each file. Raises VersionError if the version does not hold the IDs of the table's rows.
    """
    newest = chain[-1].tables[table]
    rows = newest.rows
    names = [field.name for field in FIELDS]
    ids, counts = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    days, held = np.zeros(rows, np.int32), np.zeros(rows, bool)
    for manifest in chain:
        if missing := set(names) - set(manifest.tables[table].columns):
            raise VersionError(
                f"version {manifest.id} does not hold the IDs of the rows of table `{table}` (its files have no column "
                f"`{sorted(missing)[0]}`), so no training can start from it; publish the run again with this raymtl, or start "
                f"from a fresh store"
            )
        for file in manifest.tables[table].files:
            for batch in row_groups(store, manifest.id, file, [KEY, *names], [(0, rows)], checked):
                places = batch.column(KEY).to_numpy()
                column = batch.column("id")
                held[places] = column.is_valid().to_numpy(zero_copy_only=False)
                ids[places] = column.fill_null(0).to_numpy()
                counts[places] = batch.column("count").fill_null(0).to_numpy()
                days[places] = batch.column("last_seen_day").cast(pa.int32()).fill_null(0).to_numpy()
    at = np.flatnonzero(held)
    return IdMap.of(rows, ids[at], at, counts[at], days[at])


def changed_map_rows(before: IdMap, after: IdMap) -> np.ndarray:
    """Rows whose ID, count or day differ between two maps of a table, ascending [N] int64."""
    width = max(before.capacity, after.capacity)
    columns = []
    for id_map in (before, after):
        held, ids = np.zeros(width, bool), np.zeros(width, np.int64)
        counts, days = np.zeros(width, np.int64), np.zeros(width, np.int32)
        held[id_map.rows], ids[id_map.rows] = True, id_map.ids
        counts[id_map.rows], days[id_map.rows] = id_map.counts, id_map.last_seen
        columns.append((held, ids, counts, days))
    differs = np.zeros(width, bool)
    for old, new in zip(*columns, strict=True):
        differs |= old != new
    return np.flatnonzero(differs)


def reassigned_rows(before: IdMap, after: IdMap) -> np.ndarray:
    """Rows assigned to another ID than before, ascending [N] int64: their weights and optimizer state must be reset."""
    places, known = before.find(after.ids)
    same = np.zeros(len(after), bool)
    same[known] = before.rows[places[known]] == after.rows[known]
    return np.sort(after.rows[~same])


def evicted_ids(before: IdMap, after: IdMap) -> np.ndarray:
    """IDs that are in the map `before` and not in `after`, ascending [N] int64."""
    _, known = after.find(before.ids)
    return before.ids[~known]
