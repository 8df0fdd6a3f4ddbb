"""Which worker trains on which rows: pure arithmetic on the plan, the same on every machine.

A **span** is the units between two points at which all workers meet: a checkpoint, an evaluation, the end of an epoch. Row i of a
span, in the order in which its rows are read, belongs to step i // B of the span (B = `train.batch_size`) and there to worker
(i mod B) mod W. So every step but the last of a span has all its rows, and a step holds the same rows for any W. With requests
the worker is (i mod B) // (B / W) instead, so that the rows of a request stay together.

The reading tasks cut each block into one slice per worker, and one process hands the slices out. Many workers would make slices
tiny and that process slow, so more workers than `block_rows` / 4096 form groups. Each group reads its own share of the rows
through its own dataset, as many rows as its workers would have had; only which rows they are depends on W then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_SLICE_ROWS = 4096
_STRETCH_BLOCKS = 4


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one unit, read by one group."""

    place: int
    """Position of the unit in the schedule."""
    start: int
    stop: int
    rows_before: int
    """Rows of the span that the group has read before."""


class Deal:
    """How the rows of a schedule are dealt to the workers."""

    def __init__(
        self, unit_rows: Sequence[int], meetings: Iterable[int], *, batch_size: int, workers: int, block_rows: int
    ):
        """`unit_rows` are those of each unit of the schedule; all workers meet after the first n units, for each n of `meetings`,
        and at the end."""
        self._unit_rows = unit_rows
        self.batch_size, self.workers = batch_size, workers
        self.groups = groups(workers, block_rows)
        """The ranks of each group."""
        points = sorted({m for m in meetings if 0 < m < len(unit_rows)} | ({len(unit_rows)} if unit_rows else set()))
        self.spans = list(pairwise([0, *points]))
        """First unit and end of each span."""
        self.stretches = [s for begin, end in self.spans for s in self._stretches(begin, end, block_rows)]
        """Parts of spans, each of which is dealt completely before the next: units, or several of them with many workers."""

    def _stretches(self, begin: int, end: int, block_rows: int) -> list[tuple[int, int]]:
        least = 1 if len(self.groups) == 1 else _STRETCH_BLOCKS * block_rows * len(self.groups)
        found, first, rows = [], begin, 0
        for place in range(begin, end):
            rows += self._unit_rows[place]
            if rows >= least or place == end - 1 or len(self.groups) == 1:
                found.append((first, place + 1))
                first, rows = place + 1, 0
        return found

    @property
    def steps(self) -> int:
        """Steps of all spans."""
        return sum(-(-sum(self._unit_rows[begin:end]) // self.batch_size) for begin, end in self.spans)

    def local_rows(self, ranks: range) -> int:
        """Rows of a full step that belong to these workers."""
        return self._rows_of(ranks, self.batch_size)

    def ranges(self, group: int) -> list[RowRange]:
        """What a group reads, in order."""
        found: list[RowRange] = []
        starts = {begin for begin, _ in self.spans}
        for begin, end in self.stretches:
            if begin in starts:
                before = rows_before = 0
            after = before + sum(self._unit_rows[begin:end])
            counts = [self._rows_of(ranks, after) - self._rows_of(ranks, before) for ranks in self.groups]
            skipped, left = sum(counts[:group]), counts[group]
            for place in range(begin, end):
                start = min(skipped, self._unit_rows[place])
                stop = min(start + left, self._unit_rows[place])
                skipped, left = skipped - start, left - (stop - start)
                if stop > start:
                    found.append(RowRange(place, start, stop, rows_before))
                    rows_before += stop - start
            before = after
        return found

    def _rows_of(self, ranks: range, rows: int) -> int:
        """Of the first `rows` rows of a span those that belong to these workers."""

        def of_step(count: int) -> int:
            rounds, rest = divmod(count, self.workers)
            return rounds * len(ranks) + min(max(rest - ranks.start, 0), len(ranks))

        steps, rest = divmod(rows, self.batch_size)
        return steps * of_step(self.batch_size) + of_step(rest)


def groups(workers: int, block_rows: int) -> list[range]:
    """The ranks of each group: as few groups as possible, of sizes as equal as possible."""
    count = -(-workers // max(1, block_rows // _SLICE_ROWS))
    ends = [workers * n // count for n in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


def owners(rows_before: int, rows: int, step_rows: int, members: int, together: bool = False) -> np.ndarray:
    """The member of a group that each of `rows` rows belongs to, [rows]; `rows_before`: rows of the span that the group has read
    before, `step_rows`: rows of the group in a full step. With `together` a member's rows of a step stand together, as many as
    otherwise: then the rows of a request belong to one member and one step, but where they reach beyond the end of its share."""
    place = np.arange(rows_before, rows_before + rows) % step_rows
    if not together:
        return place % members
    shares = (step_rows + members - 1 - np.arange(members)) // members
    return np.searchsorted(np.cumsum(shares), place, side="right")
