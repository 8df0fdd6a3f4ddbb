"""The time of one training step on GPUs that are not here: bytes and products counted exactly, divided by published rates.

docs/scale.md explains the formulas and says where the rates come from.
"""

from dataclasses import dataclass, replace

from raymtl.embeddings.traffic import TableTraffic, Traffic, step_traffic
from raymtl.training.synced_loader import MOST_STEPS
from tests.benchmarks.scale.count import ADAM_BYTES, Dense
from tests.benchmarks.scale.plan import PER_NODE

HBM, HBM_REACHED = 3.35e12, 0.7
"""Bytes per second of an H100's memory by its data sheet, and what we assume scattered rows and fused kernels reach of it."""
PRODUCTS, PRODUCTS_REACHED = 989e12, 0.4
"""FLOP per second of dense bf16 by the data sheet, and what we assume products of this size reach."""
NVLINK = 370e9
"""Bytes per second and direction that NCCL reaches of NVLink's 450 (data sheet: 900 in both)."""
NETWORKS = {"400 Gb/s": 46e9, "100 Gb/s": 11.5e9}
"""Bytes per second that NCCL reaches of one adapter per GPU; 92 % of the line rate for both."""
LAUNCH_S = 5e-6
"""One kernel's launch from Python, assumed."""
OTHER_KERNELS = 300
"""Kernels beside the model's own: lookups, collectives, losses, optimizer; assumed."""
PEER_S = 1e-6
"""Latency of an all-to-all per other rank, assumed."""
HOP_S = 25e-6
"""One message between two machines over TCP, assumed; the feed's exchange is W - 1 of them, one after the other, for several
steps."""
LOOKUP_PASSES = 4
"""Times that a looked-up row is moved: read forward; gradient read, row read and row written backward."""
OUTPUT_PASSES = 4
"""The same of the vectors before they are sent: written and read, forward and backward."""


@dataclass
class Step:
    """Seconds of one step and what they are made of."""

    dense: float
    launch: float
    lookup: float
    ids: float
    vectors: float
    """Both ways."""
    gradients: float
    feed: float
    traffic: Traffic

    @property
    def seconds(self) -> float:
        """IDs travel while the step before computes; vectors and gradients are waited for."""
        chain = max(self.dense + self.lookup, self.launch) + self.vectors + self.gradients
        return max(chain, self.ids + self.vectors + self.gradients, self.feed)

    @property
    def bound(self) -> str:
        """What takes the most of it."""
        if self.seconds == self.feed:
            return "feed"
        parts = {
            "vectors": self.vectors,
            "IDs": self.ids if self.seconds == self.ids + self.vectors + self.gradients else 0.0,
            "lookup": self.lookup,
            "dense": self.dense,
            "launch": self.launch if self.launch > self.dense + self.lookup else 0.0,
            "gradients": self.gradients,
        }
        return max(parts, key=lambda n: parts[n])


def dense_seconds(dense: Dense, rows: int) -> float:
    """The model above the tables: each kernel by its products or its bytes, whichever is slower, and Adam once."""
    kernels = sum(
        max(flop * rows / (PRODUCTS * PRODUCTS_REACHED), size * rows / (HBM * HBM_REACHED))
        for flop, size in dense.kernels
    )
    return kernels + dense.weights * ADAM_BYTES / (HBM * HBM_REACHED)


def step_time(tables: list[TableTraffic], dense: Dense, *, workers: int, rows: int, network: float) -> Step:
    """One step of `rows` rows per GPU; `network` in bytes per second and GPU."""
    traffic = step_traffic(tables, workers=workers, per_node=PER_NODE, batch_rows=rows)
    latency = PEER_S * (workers - 1)

    def seconds(inside: float, between: float) -> float:
        return max(inside / NVLINK, between / network)

    weights = 4 * dense.weights
    ring = 2 * weights * (workers - 1) / workers
    nodes = workers // PER_NODE
    around = ring / PER_NODE if nodes > 1 else 0.0
    return Step(
        dense=dense_seconds(dense, rows),
        launch=(len(dense.kernels) + OTHER_KERNELS) * LAUNCH_S,
        lookup=float((LOOKUP_PASSES * traffic.lookup_bytes + OUTPUT_PASSES * traffic.output_bytes).max())
        / (HBM * HBM_REACHED),
        ids=seconds(traffic.ids.inside(), traffic.ids.between()) + 2 * latency,
        vectors=2 * (seconds(traffic.vectors.inside(), traffic.vectors.between()) + latency),
        gradients=seconds(ring, around),
        feed=(workers - 1) * HOP_S / MOST_STEPS,
        traffic=traffic,
    )


def half_vectors(tables: list[TableTraffic]) -> list[TableTraffic]:
    """Vectors and gradients travel in 2 bytes a number."""
    return [replace(t, float_bytes=2) for t in tables]


def single_ids_unpooled(tables: list[TableTraffic]) -> list[TableTraffic]:
    """Pooled row-wise tables that single IDs read are looked up like a history of one: a vector comes from its holder alone."""
    return [replace(t, pooled=False) if t.sharding == "row_wise" and max(t.lengths) == 1 else t for t in tables]


def by_rows(tables: list[TableTraffic], workers: int, everywhere: bool) -> list[TableTraffic]:
    """All tables by rows: over all ranks, or pooled ones over one machine each, one machine after the other."""
    found, nodes = [], workers // PER_NODE
    for n, table in enumerate(tables):
        if everywhere or not table.pooled:
            found.append(replace(table, sharding="row_wise", ranks=tuple(range(workers))))
        else:
            first = n % nodes * PER_NODE
            found.append(replace(table, sharding="table_row_wise", ranks=tuple(range(first, first + PER_NODE))))
    return found
