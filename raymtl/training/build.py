"""One worker's model, sharded, initialised and with its optimizers."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DataParallelWrapper
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from raymtl.config.root import Config
from raymtl.embeddings.initialisation import fill_rows
from raymtl.embeddings.names import module_name, table_of
from raymtl.embeddings.replicated import ReplicatedTables
from raymtl.embeddings.replication import REPLICATED, beside_replicated, choose_replicated, replicated_bytes
from raymtl.embeddings.sharding import Machine, make_plan, sharders
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

    @property
    def replicated(self) -> ReplicatedTables | None:
        """The tables that every worker holds complete."""
        return self.model.module.replicated

    @property
    def sharding(self) -> dict[str, str]:
        """How each table is spread over the workers."""
        planned = (item for part in self.plan.plan.values() for item in part.items())  # type: ignore[attr-defined]
        found = {name: str(sharding.sharding_type) for name, sharding in planned}
        return {name: found.get(module_name(name), REPLICATED) for name in self.lookup.tables}


class _EqualStart(DataParallelWrapper):
    """Gives all workers the dense weights of the first one; gradients are averaged by `Optimizers.step`."""

    def __init__(self, group: dist.ProcessGroup):
        self._group = group

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        if dist.get_world_size(self._group) == 1:
            return
        head = dmp.module.head
        for value in (*head.parameters(), *head.buffers()):
            dist.broadcast(value.detach(), src=0, group=self._group)


def build(
    config: Config, base_rates: Mapping[str, float], total_steps: int, device: torch.device, group: dist.ProcessGroup
) -> TrainState:
    """Build the model on every rank of `group`; its initial values depend on the seed alone, not on the workers or the plan."""
    workers = dist.get_world_size(group)
    lookup = describe_lookup(config)
    machine = Machine(workers, device.type, _workers_per_node(workers), _memory_bytes(device))
    batch_rows = config.train.rows_per_step // workers
    names = list(choose_replicated(config, lookup, machine, batch_rows))
    beside = beside_replicated(machine, replicated_bytes(config, lookup.tables, names))
    replicated = ReplicatedTables(config, lookup, names, device, group) if names else None
    torch.manual_seed(config.train.seed)
    precision = choose_precision(config.train.precision, device, group)
    model = TrainModel(config, lookup, base_rates, group, precision, replicated)
    model.head.to(device)
    attach_sparse_optimizer(model, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        plan = make_plan(model, lookup.without(names), beside, batch_rows, group)
        try:
            sharded = DistributedModelParallel(
                model, device=device, plan=plan, sharders=sharders(), data_parallel_wrapper=_EqualStart(group)
            )
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
    optimizers = Optimizers(sharded, config, total_steps, group)
    return TrainState(sharded, optimizers, lookup, plan, precision, model.head.balancer)


def initialise_tables(model: nn.Module, lookup: Lookup, seed: int) -> None:
    """Fill every local shard of every table."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            table = table_of(name)
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


def _memory_bytes(device: torch.device) -> int | None:
    """Memory of this worker's GPU: without it the planner assumes 32 GB. All workers must have the same GPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _workers_per_node(workers: int) -> int:
    from torchrec.distributed.comm import get_local_size

    return min(workers, get_local_size(workers))
