"""The bytes that a sharding plan sends in each training step, by rank and by network.

Per table and step, with B rows per rank, W ranks, L IDs per row over the features that read the table, F such features, D
columns and 4-byte floats:

    sharding       IDs in, from each rank to each holder   vectors out, and their gradients back
    table_wise     8·L·B + 4·F·B                           pooled: all-to-all, F·B·D·4 to each rank; unpooled: L·B·D·4
    column_wise    the same to every holder                the same of the holder's columns
    row_wise       8·L·B/W + 4·F·B                         pooled: reduce-scatter of [W·F·B, D]; unpooled: L·B·D·4/W to each
    replicated     none (see below)                        none; once, an all-reduce of the gradients of the touched rows

IDs are int64, lengths int32. The lengths of row-wise tables go to every rank, and so do their pooled vectors: each rank
holds a partial sum of every row. That is why both grow with W while the rows of a rank do not. Of a replicated table with R rows
a step touches at most min(R, L·B·W) rows; their numbers, 4 bytes each or a bit for each of the R rows, travel ahead of the step.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ID_BYTES, LENGTH_BYTES, FLOAT_BYTES = 8, 4, 4


@dataclass(frozen=True)
class TableTraffic:
    """What the traffic of one table depends on."""

    sharding: str
    """`table_wise`, `column_wise`, `row_wise`, `table_row_wise` (over the ranks of one machine) or `replicated`."""
    ranks: tuple[int, ...]
    """Its holders."""
    dim: int
    lengths: tuple[float, ...]
    """IDs per row of each feature that reads it; a feature of requests has one list for all rows of one."""
    pooled: bool
    float_bytes: int = FLOAT_BYTES
    """Bytes of a number on the wire: 4, or 2 if vectors are sent in half precision."""
    rows: int = 0
    """Rows of the table; only those of a replicated table matter."""


@dataclass
class Wire:
    """Bytes of one exchange, [W] each."""

    sent_inside: NDArray[np.float64]
    """To ranks of the same machine."""
    received_inside: NDArray[np.float64]
    sent_between: NDArray[np.float64]
    """To ranks of other machines."""
    received_between: NDArray[np.float64]

    @classmethod
    def none(cls, workers: int) -> "Wire":
        return cls(*(np.zeros(workers) for _ in range(4)))

    def inside(self) -> float:
        """Bytes of the busiest rank, in its busier direction, inside its machine."""
        return float(max(self.sent_inside.max(), self.received_inside.max()))

    def between(self) -> float:
        """The same between machines."""
        return float(max(self.sent_between.max(), self.received_between.max()))


@dataclass
class Traffic:
    """What one step sends."""

    ids: Wire
    """IDs and lengths, to the tables (input dist)."""
    vectors: Wire
    """Looked-up vectors, from the tables (output dist); their gradients go the same way back, with the same bytes."""
    replicated: Wire
    """The all-reduce of the gradients of replicated tables' rows, as many as a step may touch (with the dense gradients)."""
    lookups: NDArray[np.float64]
    """[W] IDs that each rank looks up."""
    lookup_bytes: NDArray[np.float64]
    """[W] bytes of the rows that each rank reads for them."""
    output_bytes: NDArray[np.float64]
    """[W] bytes of the vectors that each rank computes before sending them."""


def step_traffic(tables: list[TableTraffic], *, workers: int, per_node: int, batch_rows: int) -> Traffic:
    """The traffic of one step of `batch_rows` rows on each of `workers` ranks, `per_node` of which share a machine."""
    ids, vectors, replicated = (Wire.none(workers) for _ in range(3))
    found = Traffic(ids, vectors, replicated, *(np.zeros(workers) for _ in range(3)))
    per_node = min(per_node, workers)
    for table in tables:
        _add(found, table, workers, per_node, batch_rows)
    return found


def _add(found: Traffic, table: TableTraffic, workers: int, per_node: int, rows: int) -> None:
    held = np.array(table.ranks)
    features, ids = len(table.lengths), sum(table.lengths)
    if table.sharding == "replicated":
        found.lookups[:] += ids * rows
        found.lookup_bytes[:] += ids * rows * table.dim * FLOAT_BYTES
        found.output_bytes[:] += (features if table.pooled else ids) * rows * table.dim * FLOAT_BYTES
        touched = min(table.rows, ids * rows * workers)
        # a reduce-scatter and an all-gather, each of which passes on all but its own share
        _ring(found.replicated, held, 2 * touched * table.dim * FLOAT_BYTES / workers, per_node)
        return
    by_rows = table.sharding in ("row_wise", "table_row_wise")
    parts = len(held)
    dim = table.dim / parts if table.sharding == "column_wise" else table.dim
    ids_each = ids * rows / parts if by_rows else ids * rows
    _all_to_all(found.ids, held, ID_BYTES * ids_each + LENGTH_BYTES * features * rows, workers, per_node, inward=True)
    found.lookups[held] += ids_each * workers
    found.lookup_bytes[held] += ids_each * workers * dim * FLOAT_BYTES
    vector_bytes = (features * rows if table.pooled else ids_each) * dim * table.float_bytes
    found.output_bytes[held] += vector_bytes * workers
    if not (by_rows and table.pooled):
        _all_to_all(found.vectors, held, vector_bytes, workers, per_node, inward=False)
    elif table.sharding == "row_wise":
        _ring(found.vectors, held, vector_bytes, per_node)
    else:
        # First the sums inside the machine, then each rank with the ranks of the same local number elsewhere.
        nodes = workers // per_node
        for direction in (found.vectors.sent_inside, found.vectors.received_inside):
            direction[held] += vector_bytes * nodes * (parts - 1)
        outside = np.setdiff1d(np.arange(workers), held)
        found.vectors.sent_between[held] += vector_bytes * (nodes - 1)
        found.vectors.received_between[outside] += vector_bytes


def _all_to_all(wire: Wire, held: NDArray[np.int64], each: float, workers: int, per_node: int, *, inward: bool) -> None:
    """Every rank sends each holder `each` bytes, or the other way round."""
    near = np.bincount(held // per_node, minlength=-(-workers // per_node))
    everyone = np.arange(workers)
    inside = near[everyone // per_node].astype(float)
    inside[held] -= 1  # what a rank keeps is not sent
    between = len(held) - near[everyone // per_node]
    of_holder = {"inside": (per_node - 1) * each, "between": (workers - per_node) * each}
    of_rank = {"inside": inside * each, "between": between * each}
    for where in ("inside", "between"):
        to_holders, at_holders = ("sent", "received") if inward else ("received", "sent")
        getattr(wire, f"{to_holders}_{where}")[:] += of_rank[where]
        getattr(wire, f"{at_holders}_{where}")[held] += of_holder[where]


def _ring(wire: Wire, held: NDArray[np.int64], each: float, per_node: int) -> None:
    """A reduce-scatter in rings: every rank passes on W - 1 chunks of `each` bytes; what leaves a machine is summed inside it and
    split over the adapters of its ranks."""
    passed = (len(held) - 1) * each
    wire.sent_inside[held] += passed
    wire.received_inside[held] += passed
    if len(held) > per_node:
        wire.sent_between[held] += passed / per_node
        wire.received_between[held] += passed / per_node
