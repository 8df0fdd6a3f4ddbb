"""Sharding of the tables over the workers: sharders, the planner, and planning without workers."""

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ModuleSharder, ShardingPlan, ShardingType
from torchrec.optim import SGD, Adagrad, Adam, RowWiseAdagrad

from raymtl.embeddings.names import module_name, table_of
from raymtl.embeddings.tables import Lookup
from raymtl.errors import ConfigError

# Left out of the free choice: data-parallel tables, whose optimizer state does not load into another sharding
# (meta-pytorch/torchrec#2394), and column-wise ones, because they change row-wise Adagrad: each column shard scales its columns
# of a row by its own accumulator. A user may still choose column-wise.
_CHOICES = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
# A single worker holds every table whole under either; the planner would take this one, once it has tried up to 10,000
# combinations, which takes up to a second.
_ALONE = [ShardingType.ROW_WISE.value]
# Bandwidths of one H100 in a machine of eight, in the planner's bytes/ms: HBM3 and, of NVLink and of its 400 Gb/s
# adapter, what NCCL reaches in one direction. TorchRec's defaults (897, 600 and 12.5 GiB/s) make the network look six times
# slower against NVLink than it is there.
_H100 = {"hbm_mem_bw": 3350e6, "intra_host_bw": 370e6, "inter_host_bw": 46e6}

SPARSE_OPTIMIZERS = {"rowwise_adagrad": RowWiseAdagrad, "adagrad": Adagrad, "adam": Adam, "sgd": SGD}
"""The tables' optimizers by `train.sparse_optimizer.type`; the planner counts their state by the class."""


class _PooledSharder(EmbeddingBagCollectionSharder):
    """Offers row-wise sharding on the CPU too: gloo supports it, although TorchRec does not list it."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return sorted({*super().sharding_types(compute_device_type), ShardingType.ROW_WISE.value})


class _UnpooledSharder(EmbeddingCollectionSharder):
    def sharding_types(self, compute_device_type: str) -> list[str]:
        return sorted({*super().sharding_types(compute_device_type), ShardingType.ROW_WISE.value})


def sharders() -> list[ModuleSharder[nn.Module]]:
    """The sharders of raymtl's two table modules."""
    return [_PooledSharder(), _UnpooledSharder()]  # type: ignore[list-item]


@dataclass(frozen=True)
class Machine:
    """What the planner knows about the workers."""

    workers: int
    device: str
    """`cpu` or `cuda`."""
    workers_per_node: int
    memory_bytes: int | None = None
    """Memory of one worker's device; None: TorchRec's default."""


def constraints(lookup: Lookup, workers: int) -> dict[str, ParameterConstraints]:
    """The planner's choices for each table: the user's `sharding`, or any exact one; and the number of IDs per row."""
    result = {}
    free = _CHOICES if workers > 1 else _ALONE
    for name, table in lookup.tables.items():
        result[module_name(name)] = ParameterConstraints(
            sharding_types=[table.sharding] if table.sharding else free,
            # Tables stay in the device's own memory: otherwise the planner would silently move a table that does not fit into
            # host memory, which costs most of the speed. (On the CPU its estimator fails on those kernels.)
            compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            min_partition=_shard_columns(table.dim) if table.sharding == "column_wise" else None,
            pooling_factors=[float(n) for n in lookup.lengths[name]],
        )
    return result


def _shard_columns(dim: int) -> int:
    """Columns of each shard of a column-wise table: about four shards, equally wide, as the accumulators of row-wise Adagrad
    need, and multiples of 4, as fbgemm's kernels need."""
    counts = [n for n in range(1, dim // 4 + 1) if dim // 4 % n == 0]
    return dim // min(counts, key=lambda n: (abs(n - 4), -n))


def make_planner(lookup: Lookup, machine: Machine, batch_rows: int) -> EmbeddingShardingPlanner:
    """The planner for batches of `batch_rows` rows per worker."""
    device: dict[str, Any] = dict(_H100) if machine.device == "cuda" else {}
    if machine.memory_bytes is not None:
        device["hbm_cap" if machine.device == "cuda" else "ddr_cap"] = machine.memory_bytes
    logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        topology = Topology(
            world_size=machine.workers,
            compute_device=machine.device,
            local_world_size=machine.workers_per_node,
            **device,
        )
        return EmbeddingShardingPlanner(
            topology=topology,
            batch_size=batch_rows,
            constraints=constraints(lookup, machine.workers),
            debug=False,
        )


def make_plan(
    module: nn.Module, lookup: Lookup, machine: Machine, batch_rows: int, group: dist.ProcessGroup
) -> ShardingPlan:
    """The sharding plan of a module whose tables, those of `lookup`, are on the meta device: the same on all ranks of the group.

    Raises ConfigError if the tables do not fit.
    """
    if not lookup.tables:
        return ShardingPlan({})
    planner = make_planner(lookup, machine, batch_rows)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if dist.get_world_size(group) == 1:
                return planner.plan(module, sharders())
            return planner.collective_plan(module, sharders(), group)
    except PlannerError as error:
        raise ConfigError(
            f"the tables do not fit the workers: {str(error).strip().splitlines()[0]} "
            f"Use more workers, smaller tables (rows, dim), or drop a table's `sharding`; `raymtl plan` shows each table's size"
        ) from error


def table_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter of each table inside a module tree, sharded or not, by table name."""
    return {table: p for name, p in module.named_parameters() if (table := table_of(name)) is not None}
