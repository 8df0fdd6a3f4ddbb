"""Planning without workers: where each table goes on a given number of GPUs, how full each GPU gets, what does not fit."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ShardingPlan

from raymtl.config.root import Config
from raymtl.config.train import MAX_BATCH
from raymtl.embeddings.names import table_name
from raymtl.embeddings.replication import (
    ASKED,
    REPLICATED,
    beside_replicated,
    choose_replicated,
    replicated_bytes,
)
from raymtl.embeddings.sharding import SPARSE_OPTIMIZERS, Machine, make_planner, sharders, table_parameters
from raymtl.embeddings.size import table_bytes
from raymtl.embeddings.tables import describe_lookup, pooled_module, unpooled_module
from raymtl.embeddings.traffic import TableTraffic, step_traffic
from raymtl.errors import ConfigError
from raymtl.words import gib

PLANNED = "chosen by the planner"
_USABLE = 0.85
"""Share of the memory that the planner does not reserve."""


@dataclass
class TablePlan:
    """One table of a plan."""

    table: str
    features: list[str]
    rows: int
    dim: int
    bytes: int
    """Weights and optimizer state, over all ranks; of a replicated table, on each."""
    sharding: str
    ranks: list[int]
    reason: str = ""
    """Why it is sharded so."""


@dataclass
class DryPlan:
    """What the planner would do."""

    workers: int
    device: str
    memory_bytes: int
    tables: list[TablePlan] = field(default_factory=list)
    rank_bytes: list[int] = field(default_factory=list)
    """Weights and optimizer state of the tables on each rank."""
    rank_planned_bytes: list[int] = field(default_factory=list)
    """The same plus what the planner expects a batch to take: looked-up vectors, send and receive buffers."""
    reserved_bytes: int = 0
    """Memory of each rank that the planner reserves for the dense model and the framework."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of a step over the network of the busiest rank, in its busier direction: IDs to the tables, vectors from them (and as
    many of gradients back), and gradients of replicated tables at most; inside a machine and between machines."""
    problem: str | None = None
    """Why the tables do not fit, and what would fit."""

    @property
    def fits(self) -> bool:
        return self.problem is None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "tables": [vars(t) for t in self.tables], "fits": self.fits}


def dry_plan(
    config: Config,
    *,
    workers: int,
    memory_bytes: int,
    device: str,
    workers_per_node: int,
    request_rows: float = 1.0,
) -> DryPlan:
    """Plan the tables of `config` for `workers` devices with `memory_bytes` each and requests of `request_rows` rows on average;
    needs no data, no GPU and no cluster."""
    if request_rows != 1 and not config.data.by_request:
        raise ConfigError(
            "a number of rows per request is given, but data.request is not set; set it to the column of requests"
        )
    lookup = describe_lookup(config, request_rows)
    if not lookup.tables:
        raise ConfigError("the configuration has no tables to plan; add an ID feature to `features`")
    machine = Machine(workers, device, min(workers, workers_per_node), memory_bytes)
    batch_rows = max(1, (config.train.batch_size or MAX_BATCH) // workers)
    replicated = choose_replicated(config, lookup, machine, batch_rows)
    replicas = replicated_bytes(config, lookup.tables, list(replicated))
    rest = lookup.without(replicated)
    module = nn.Module()
    for name, part in (("pooled", pooled_module(rest)), ("unpooled", unpooled_module(rest))):
        if part is not None:
            module.add_module(name, part)
    result = DryPlan(workers, device, memory_bytes)
    optimizer = config.train.sparse_optimizer
    for name, parameter in table_parameters(module).items():
        kind = optimizer.of_table(lookup.tables[name]).type
        parameter._optimizer_classes = [SPARSE_OPTIMIZERS[kind]]  # type: ignore[attr-defined]
    sizes = {name: table_bytes(table, optimizer.type) for name, table in lookup.tables.items()}
    planner = make_planner(rest, beside_replicated(machine, replicas), batch_rows)
    try:
        if replicas > _USABLE * memory_bytes:
            raise PlannerError("the replicated tables take all memory")
        plan = planner.plan(module, sharders()) if rest.tables else ShardingPlan({})
    except PlannerError:
        result.tables = [
            TablePlan(n, lookup.features[n], t.rows, t.dim, sizes[n], "does not fit", [])
            for n, t in lookup.tables.items()
        ]
        result.problem = _problem(sizes, workers, memory_bytes)
        if replicas:
            result.problem += f". The replicated tables take {gib(replicas)} of each"
        return result
    held, planned = [replicas] * workers, [replicas] * workers
    ranks: dict[str, set[int]] = defaultdict(set, {name: set(range(workers)) for name in replicated})
    kinds: dict[str, str] = dict.fromkeys(replicated, REPLICATED)
    for part in plan.plan.values():
        for module_name, sharding in part.items():  # type: ignore[attr-defined]
            name = table_name(module_name)
            kinds[name] = sharding.sharding_type
            for shard in sharding.sharding_spec.shards:
                rank = shard.placement.rank()
                ranks[name].add(rank)
                share = math.prod(shard.shard_sizes) / (lookup.tables[name].rows * lookup.tables[name].dim)
                held[rank] += round(sizes[name] * share)
    for option in planner._best_plan or []:
        for shard in option.shards:
            if shard.rank is not None and shard.storage is not None:
                planned[shard.rank] += shard.storage.hbm if device == "cuda" else shard.storage.ddr
    result.tables = [
        TablePlan(
            n,
            lookup.features[n],
            t.rows,
            t.dim,
            sizes[n],
            kinds[n],
            sorted(ranks[n]),
            replicated.get(n, ASKED if t.sharding else PLANNED),
        )
        for n, t in lookup.tables.items()
    ]
    result.rank_bytes, result.rank_planned_bytes = held, [max(h, p) for h, p in zip(held, planned, strict=True)]
    traffic = step_traffic(
        [
            TableTraffic(
                t.sharding,
                tuple(t.ranks),
                t.dim,
                tuple(lookup.lengths[t.table]),
                t.table not in lookup.unpooled,
                rows=t.rows,
            )
            for t in result.tables
        ],
        workers=workers,
        per_node=machine.workers_per_node,
        batch_rows=batch_rows,
    )
    for name, wire in (("ids", traffic.ids), ("vectors", traffic.vectors), ("replicated", traffic.replicated)):
        result.sent |= {f"{name}_inside": round(wire.inside()), f"{name}_between": round(wire.between())}
    result.reserved_bytes = round((1 - _USABLE) * memory_bytes)
    left = planner._storage_reservation.last_reserved_topology
    if left is not None:
        free = left.devices[0].storage
        result.reserved_bytes = memory_bytes - replicas - (free.hbm if device == "cuda" else free.ddr)
    return result


def _problem(sizes: dict[str, int], workers: int, memory_bytes: int) -> str:
    total, largest = sum(sizes.values()), max(sizes, key=lambda n: sizes[n])
    usable = _USABLE * memory_bytes
    need = math.ceil(total / usable)
    return (
        f"the tables need {gib(total)} with optimizer state, the largest is `{largest}` with {gib(sizes[largest])}; "
        f"{workers} x {gib(memory_bytes)} hold about {gib(int(workers * usable))}. "
        + (
            f"At least {need} such devices are needed, or fewer rows or a smaller dim"
            if need > workers
            else "A fixed `sharding` or the memory for batches prevents a plan: drop `sharding` from the large tables, or lower "
            "train.batch_size"
        )
    )


def parse_bytes(text: str) -> int:
    """`80GB`, `40GiB`, `512MB` or plain bytes as bytes."""
    units = {
        "": 1,
        "b": 1,
        "kb": 10**3,
        "mb": 10**6,
        "gb": 10**9,
        "tb": 10**12,
        "kib": 2**10,
        "mib": 2**20,
        "gib": 2**30,
        "tib": 2**40,
    }
    digits = text.strip().rstrip("BKMGTbkmgti ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = int(float(digits) * units[unit])
        if size <= 0:
            raise ValueError("not positive")
        return size
    except (ValueError, KeyError) as error:
        raise ConfigError(f"`{text}` is not an amount of memory; write it like 80GB or 40GiB") from error
