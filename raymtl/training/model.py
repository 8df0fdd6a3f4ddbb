"""The trained module: tables, the model's slots, and the loss."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.config.wiring import compared_lists
from raymtl.data.batch import Batch
from raymtl.embeddings.replicated import ReplicatedTables
from raymtl.embeddings.tables import InputAssembler, LookedUp, Lookup, pooled_module, unpooled_module
from raymtl.models.ranker import build_ranker
from raymtl.objectives.balance.balancer import build_balancer
from raymtl.objectives.conversion import ConversionRisk
from raymtl.objectives.fusion import Fusion
from raymtl.objectives.losses import Losses, TaskLosses
from raymtl.training.precision import Precision

PENALTIES = ("order", "bound", "conversion", "arrival")
"""Terms of the loss that are not a task's: `model.order_loss`, `model.kl_bound`, `model.conversion_loss`, and the loss of the
arrival head of `tasks.<name>.early_labels`."""


class Head(nn.Module):
    """Everything above the tables: one leaf for the pipeline's tracer, so that slots may use any PyTorch code."""

    def __init__(
        self,
        config: Config,
        lookup: Lookup,
        base_rates: Mapping[str, float],
        group: dist.ProcessGroup | None,
        precision: Precision = "fp32",
    ):
        super().__init__()
        self.ranker = build_ranker(config.model, config.active_tasks(), lookup.spec, base_rates, config.calibration)
        self.arrange = InputAssembler(config, lookup, self.ranker.sequence.compares)
        self.losses = TaskLosses(
            config.active_tasks(),
            config.model.order_loss,
            config.model.kl_bound,
            getattr(config.model.coupler, "predecessors", None),
            self.ranker.outputs,
        )
        loss, derived = config.model.conversion_loss, self.ranker.outputs.derived.values()
        self.conversion = ConversionRisk(config.active_tasks(), list(derived), loss) if loss.weight else None
        self._has_early = bool(config.early_tasks())
        self.balancer = build_balancer(
            config.train.balance, config.active_tasks(), base_rates, config.train.seed, group
        )
        self.register_buffer("_mean_weights", _mean_weights(config.active_tasks(), base_rates), persistent=False)
        self.fusion = None if config.score is None else Fusion(config.score.formulas, self.ranker.outputs.names)
        self._group = group
        self._workers = 1 if group is None else dist.get_world_size(group)
        self._bf16 = precision == "bf16"
        self.last_valid: Tensor | None = None
        """In training, which rows of the last batch are not padding [B]; for what is read at log lines."""

    def forward(
        self,
        pooled: KeyedTensor | None,
        unpooled: dict[str, JaggedTensor] | None,
        replicated: LookedUp | None,
        batch: Batch,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Loss [], and without gradient (logits [B, O], loss of each task [T], the `PENALTIES` [4])."""
        inputs = self.arrange(pooled, unpooled, batch, replicated)
        with torch.autocast(batch.dense.device.type, torch.bfloat16, enabled=self._bf16):
            logits = self.ranker(inputs)
        early = None
        if self.training:
            self.last_valid = batch.valid
            if self._has_early:
                logits, odds = logits.tensor_split((self.ranker.outputs.width,), 1)
                early = batch.arrival, odds
        normalizer = self._normalizer(batch)
        losses = self.losses(
            logits,
            batch.labels,
            batch.observed,
            batch.weight,
            batch.valid,
            normalizer,
            batch.totals[-1],
            self._workers,
            self._units,
            batch.lists,
            early,
        )
        risk = losses.order.new_zeros(())
        if self.conversion is not None:
            rows = (batch.labels, batch.observed, batch.weight, batch.valid, normalizer)
            risk = self.conversion(logits, *rows, self._workers)
            losses = losses._replace(total=losses.total + risk, penalties=losses.penalties + risk)
        total = losses.total
        learns = self.training and torch.is_grad_enabled()
        if self.ranker.scale is not None and learns:
            counted = batch.observed & batch.valid.unsqueeze(1)
            self.ranker.scale.learn(logits, batch.labels, batch.weight, counted, batch.totals[-1], self._group)
        if self.balancer is not None and learns:
            total = self._balance(losses, inputs.looked_up(), batch)
        penalties = torch.stack((losses.order, losses.bound, risk.detach(), losses.arrival))
        return total, (logits.detach(), losses.per_task, penalties)

    def _normalizer(self, batch: Batch) -> Tensor:
        """[T + C] the number of labels, and of rows of lists, times their mean weight, which is not that of the batch: so a row
        counts the same whatever rows are in its batch (`docs/adr/0044-constant-mean-weights.md`)."""
        return batch.totals[:-1] * self._mean_weights

    @property
    def _units(self) -> Tensor | None:
        return None if self.ranker.scale is None else self.ranker.scale.units

    def _balance(self, losses: Losses, looked_up: list[Tensor], batch: Batch) -> Tensor:
        """The total loss with task weights from `train.balance`; per-task gradients stop at the embeddings."""
        assert self.balancer is not None
        normalizer = self._normalizer(batch)
        lower_bound = self.losses.lower_bound(
            batch.labels,
            batch.observed,
            batch.weight,
            batch.valid,
            normalizer,
            self._workers,
            self._units,
            batch.lists,
        )
        active = normalizer[: batch.labels.shape[1]] > 0
        return self.balancer(losses.per_task_with_grad - lower_bound, losses.penalties, active, looked_up)


def _mean_weights(tasks: Mapping[str, Task], base_rates: Mapping[str, float]) -> Tensor:
    """[T + C] mean weight of the labels of each task, then of each entry of `compared_lists`; 1 where it was not measured."""
    of_tasks = {name: getattr(base_rates.get(name), "weight", 1.0) for name in tasks}
    return torch.tensor([*of_tasks.values(), *(of_tasks[name] for name, _ in compared_lists(tasks))])


class TrainModel(nn.Module):
    """Tables and head; TorchRec's pipeline traces `forward`, so it must stay simple."""

    def __init__(
        self,
        config: Config,
        lookup: Lookup,
        base_rates: Mapping[str, float],
        group: dist.ProcessGroup | None,
        precision: Precision = "fp32",
        replicated: ReplicatedTables | None = None,
    ):
        super().__init__()
        sharded = lookup.without(() if replicated is None else replicated.tables())
        self.pooled = pooled_module(sharded)
        self.unpooled = unpooled_module(sharded)
        self.replicated = replicated
        self.head = Head(config, lookup, base_rates, group, precision)

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        pooled = self.pooled(batch.ids) if self.pooled is not None else None
        unpooled = self.unpooled(batch.sequences) if self.unpooled is not None else None
        replicated = self.replicated(batch) if self.replicated is not None else None
        return self.head(pooled, unpooled, replicated, batch)
