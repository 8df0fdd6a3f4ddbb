"""One worker's model, sharded, initialised and with its optimizers."""

import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from raymtl.config.root import Config
from raymtl.embeddings.initialisation import fill_rows
from raymtl.embeddings.sharding import Machine, make_plan, make_planner, sharders
from raymtl.embeddings.tables import Lookup, describe_lookup
from raymtl.errors import ConfigError
from raymtl.objectives.balance.balancer import Balancer
from raymtl.training.model import TrainModel
from raymtl.training.optimizers import Optimizers, attach_sparse_optimizer
from raymtl.training.precision import Precision, choose_precision


@dataclass
class TrainState:
    """The sharded model of a worker, with its optimizers."""

    model: DistributedModelParallel
    optimizers: Optimizers
    lookup: Lookup
    plan: ShardingPlan
    precision: Precision = "fp32"
    """Of the model's matrix products."""
    balancer: Balancer | None = None
    """The balancer of the tasks, unless fixed weights are used."""


def build(
    config: Config, base_rates: dict[str, float], total_steps: int, device: torch.device, group: dist.ProcessGroup
) -> TrainState:
    """Build the model on every rank of `group`; its initial values depend on the seed alone, not on the workers or the plan."""
    workers = dist.get_world_size(group)
    lookup = describe_lookup(config)
    torch.manual_seed(config.train.seed)
    precision = choose_precision(config.train.precision, device, group)
    model = TrainModel(config, lookup, base_rates, group, precision)
    model.head.to(device)
    attach_sparse_optimizer(model, config)
    machine = Machine(workers, device.type, _workers_per_node(workers), _memory_bytes(device))
    planner = make_planner(lookup, machine, config.train.batch_size // workers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        plan = make_plan(model, planner, group)
        try:
            sharded = DistributedModelParallel(model, device=device, plan=plan, sharders=sharders())
        except (NotImplementedError, ValueError) as error:
            if "optimizer" in str(error).lower():
                raise ConfigError(
                    f"train.sparse_optimizer.type `{config.train.sparse_optimizer.type}` has no kernel for {device.type} in "
                    f"this fbgemm ({str(error).splitlines()[0]}); use rowwise_adagrad"
                ) from error
            raise
    initialise_tables(sharded, lookup, config.train.seed)
    # Dropout must differ between the ranks; the weights, built above, must not
    torch.manual_seed(config.train.seed * 1_000_003 + dist.get_rank(group) + 1)
    return TrainState(sharded, Optimizers(sharded, config, total_steps), lookup, plan, precision, model.head.balancer)


def initialise_tables(model: nn.Module, lookup: Lookup, seed: int) -> None:
    """Fill every local shard of every table."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            table = _table_of(name)
            if table is None or table not in lookup.tables:
                continue
            spec = lookup.tables[table]
            if isinstance(value, ShardedTensor):
                for shard in value.local_shards():
                    row, column = shard.metadata.shard_offsets
                    fill_rows(
                        shard.tensor,
                        spec.init,
                        seed=seed,
                        table=table,
                        first_row=row,
                        first_column=column,
                        dim=spec.dim,
                        unknown_row=spec.id_space == "map",
                    )
            else:
                local = value.to_local() if hasattr(value, "to_local") else value
                if local.shape != (spec.rows, spec.dim):
                    raise NotImplementedError(
                        f"table {table}: a sharding whose state is neither ShardedTensor nor replicated"
                    )
                fill_rows(
                    local,
                    spec.init,
                    seed=seed,
                    table=table,
                    first_row=0,
                    first_column=0,
                    dim=spec.dim,
                    unknown_row=spec.id_space == "map",
                )


def _table_of(name: str) -> str | None:
    parts = name.split(".")
    return (
        parts[-2]
        if len(parts) >= 3 and parts[-1] == "weight" and parts[-3] in ("embedding_bags", "embeddings")
        else None
    )


def _memory_bytes(device: torch.device) -> int | None:
    """Memory of this worker's GPU: without it the planner assumes 32 GB. All workers must have the same GPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _workers_per_node(workers: int) -> int:
    from torchrec.distributed.comm import get_local_size

    return min(workers, get_local_size(workers))
