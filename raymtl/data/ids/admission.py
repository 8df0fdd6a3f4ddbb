"""Admission to a `map` table: known IDs keep their rows, evicted IDs free theirs, new IDs are admitted.

This happens between runs only, so that training and evaluation see one fixed map.
"""

import datetime as dt
from dataclasses import dataclass

import numpy as np

from raymtl.data.ids.counts import IdCounts
from raymtl.data.ids.hashing import mix64
from raymtl.data.ids.id_map import UNKNOWN_ROW, IdMap
from raymtl.errors import ConfigError

_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True)
class IdLookupCount:
    """A subset of the IDs of a counting pass."""

    ids: int
    """Distinct IDs."""
    lookups: int
    """Lookups of them in the pass."""


@dataclass(frozen=True, eq=False)
class Changes:
    """The result of an admission. Each ID of the pass is in one of `known`, `admitted`, `below`, `outdated` and `no_room`."""

    admitted_ids: np.ndarray
    """[A] int64, most frequent first."""
    admitted_rows: np.ndarray
    """[A] int64, the row of each of them."""
    evicted_ids: np.ndarray
    """[F] int64, ascending."""
    evicted_rows: np.ndarray
    """[F] int64, the row that each of them held."""
    reset: np.ndarray
    """[A] int64, ascending: the rows assigned to a new ID. Their weights and optimizer state must be reset before the new map is
    used, whether or not another ID held them before."""
    known: IdLookupCount
    """IDs that keep the row they had."""
    admitted: IdLookupCount
    """IDs that were not in the map and now are."""
    below: IdLookupCount
    """New IDs with too few lookups."""
    outdated: IdLookupCount
    """IDs, known or new, that were last seen too long ago."""
    no_room: IdLookupCount
    """New IDs for which no row was left."""

    @property
    def new(self) -> IdLookupCount:
        """All IDs of the pass that the old map lacked or has now evicted."""
        return _total(self.admitted, self.below, self.outdated, self.no_room)

    @property
    def unknown(self) -> IdLookupCount:
        """The IDs of the pass that the new map lacks; their lookups go to the unknown row."""
        return _total(self.below, self.outdated, self.no_room)

    @property
    def new_share(self) -> float:
        """Share of the lookups of the pass whose ID the old map lacked (or has now evicted)."""
        total = self.known.lookups + self.new.lookups
        return self.new.lookups / total if total else 0.0

    @property
    def unknown_share(self) -> float:
        """Share of the lookups of the pass that go to the unknown row."""
        total = self.known.lookups + self.new.lookups
        return self.unknown.lookups / total if total else 0.0


def admit(
    id_map: IdMap,
    counts: IdCounts,
    day: dt.date,
    threshold: int,
    evict_after_days: int | None,
    min_count: int,
    capacity: int,
) -> tuple[IdMap, Changes]:
    """The map after a counting pass whose last day is `day`, and what changed; the same arguments give the same rows.

    * A known ID keeps its row; its count grows by that of the pass.
    * It is evicted if it was last seen more than `evict_after_days` days before `day` (None: never), or if the pass does not
      have it and its total count is below `min_count`.
    * A new ID seen at least `threshold` times in the pass gets a row, the most frequent first, ties in the order of their IDs:
      first the rows just freed, then the other free ones. An ID last seen too long ago is not admitted.
    * IDs beyond the capacity stay unknown. A larger `capacity` than the map's adds rows; a smaller one is a ConfigError.

    The free rows are taken in the order of their hash, not of their number: row-wise sharding splits a table into ranges, and the
    first worker would get all the frequent IDs.
    """
    if capacity < id_map.capacity:
        raise ConfigError(
            f"the ID map has {id_map.capacity} rows and its table {capacity}; a map can grow but not shrink: set `rows` to "
            f"{id_map.capacity} or more"
        )
    oldest = -(2**31) if evict_after_days is None else (day - _EPOCH).days - evict_after_days
    places, known = id_map.find(counts.ids)
    seen = np.zeros(len(id_map), bool)
    seen[places[known]] = True
    total, last_seen = id_map.counts.copy(), id_map.last_seen.copy()
    total[places[known]] += counts.counts[known]
    last_seen[places[known]] = np.maximum(last_seen[places[known]], counts.last_seen[known])
    evicted = (last_seen < oldest) | (~seen & (total < min_count))

    outdated = ~known & (counts.last_seen < oldest)
    below = ~known & ~outdated & (counts.counts < threshold)
    wanted = np.flatnonzero(~known & ~outdated & ~below)
    wanted = wanted[np.argsort(-counts.counts[wanted], kind="stable")]  # ties stay in the order of their IDs
    rows = _free_rows(capacity, id_map.rows[~evicted], id_map.rows[evicted], len(wanted))
    admitted, no_room = wanted[: len(rows)], wanted[len(rows) :]
    outdated[known] = evicted[places[known]]

    kept = ~evicted
    new_map = IdMap.of(
        capacity,
        np.concatenate([id_map.ids[kept], counts.ids[admitted]]),
        np.concatenate([id_map.rows[kept], rows]),
        np.concatenate([total[kept], counts.counts[admitted]]),
        np.concatenate([last_seen[kept], counts.last_seen[admitted]]),
    )
    return new_map, Changes(
        admitted_ids=counts.ids[admitted],
        admitted_rows=rows,
        evicted_ids=id_map.ids[evicted],
        evicted_rows=id_map.rows[evicted],
        reset=np.sort(rows),
        known=_lookup_count(counts, known & ~outdated),
        admitted=_lookup_count(counts, admitted),
        below=_lookup_count(counts, below),
        outdated=_lookup_count(counts, outdated),
        no_room=_lookup_count(counts, no_room),
    )


def _free_rows(capacity: int, held: np.ndarray, freed: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` free rows, [A] int64: those just freed, then the others, each in the order of their hash."""
    if not most:
        return np.empty(0, np.int64)
    free = np.ones(capacity, bool)
    free[held] = free[freed] = free[UNKNOWN_ROW] = False
    others = np.flatnonzero(free)
    return np.concatenate([_in_order_of_hash(freed, most), _in_order_of_hash(others, max(0, most - len(freed)))])


def _in_order_of_hash(rows: np.ndarray, most: int) -> np.ndarray:
    hashes = mix64(rows)
    if most < len(rows):  # few of a large table's rows may be wanted
        first = np.argpartition(hashes, most)[:most]
        rows, hashes = rows[first], hashes[first]
    return rows[np.argsort(hashes)]


def _lookup_count(counts: IdCounts, which: np.ndarray) -> IdLookupCount:
    lookups = counts.counts[which]
    return IdLookupCount(len(lookups), int(lookups.sum()))


def _total(*counts: IdLookupCount) -> IdLookupCount:
    return IdLookupCount(sum(c.ids for c in counts), sum(c.lookups for c in counts))
