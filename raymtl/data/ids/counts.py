"""Lookups of IDs, and the last day with one."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class IdCounts:
    """Lookups of N distinct IDs."""

    ids: np.ndarray
    """[N] int64, ascending."""
    counts: np.ndarray
    """[N] int64, at least 1 each."""
    last_seen: np.ndarray
    """[N] int32, the last day with the ID, in days since 1970-01-01."""

    @staticmethod
    def of(ids: np.ndarray, day: int) -> "IdCounts":
        """The counts of the lookups [L] int64 of one day, in any order."""
        distinct, counts = np.unique(ids, return_counts=True)
        return IdCounts(distinct, counts.astype(np.int64, copy=False), np.full(len(distinct), day, np.int32))

    def __len__(self) -> int:
        return len(self.ids)

    def merge(self, other: "IdCounts") -> "IdCounts":
        """The sum of both counts."""
        large, small = (self, other) if len(self) >= len(other) else (other, self)
        if not len(small):
            return large
        places = np.searchsorted(large.ids, small.ids)
        both = large.ids[np.minimum(places, len(large) - 1)] == small.ids
        at, counts, last_seen = places[both], large.counts.copy(), large.last_seen.copy()
        counts[at] += small.counts[both]
        last_seen[at] = np.maximum(last_seen[at], small.last_seen[both])
        new, places = ~both, places[~both]
        return IdCounts(
            np.insert(large.ids, places, small.ids[new]),
            np.insert(counts, places, small.counts[new]),
            np.insert(last_seen, places, small.last_seen[new]),
        )
