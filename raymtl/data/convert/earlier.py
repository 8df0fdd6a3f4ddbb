"""What happened before an event: counts, sums and histories without a look at the future."""

import numpy as np
import pyarrow as pa


class Earlier:
    """For each of N events in chronological order, the events of the same key with an earlier time stamp.

    In `order` (by key, then by time) they are at positions `start` to `end`, end excluded; all three are [N] int64.
    """

    def __init__(self, keys: np.ndarray, time: np.ndarray):
        self.order = np.argsort(keys, kind="stable")
        key, moment, place = keys[self.order], time[self.order], np.arange(len(keys))
        new_key = np.ones(len(keys), bool)
        new_key[1:] = key[1:] != key[:-1]
        new_moment = new_key.copy()
        new_moment[1:] |= moment[1:] != moment[:-1]
        self.start, self.end = np.empty_like(place), np.empty_like(place)
        self.start[self.order] = np.maximum.accumulate(np.where(new_key, place, 0))
        self.end[self.order] = np.maximum.accumulate(np.where(new_moment, place, 0))

    def count(self) -> np.ndarray:
        """Number of earlier events, [N]."""
        return self.end - self.start

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of an integer per event over the earlier events, [N]."""
        sums = _sums(values[self.order])
        return sums[self.end] - sums[self.start]

    def last(
        self, values: np.ndarray, chosen: np.ndarray, most: int, rows: np.ndarray | slice = slice(None)
    ) -> pa.Array:
        """The values of the latest earlier events that are `chosen` ([N] bool), at most `most`, oldest first: [N] lists.

        With `rows`, only the lists of these events.
        """
        passed = _sums(chosen[self.order])  # chosen events before each place of the order
        end = passed[self.end[rows]]
        start = np.maximum(passed[self.start[rows]], end - most)
        offsets = _sums(end - start)
        places = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)
        kept = values[self.order[chosen[self.order]]]
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(kept[places]))


def _sums(values: np.ndarray) -> np.ndarray:
    """Sum of the values before each position, and of all: [N + 1] int64."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
