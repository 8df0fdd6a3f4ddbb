"""The trained module: tables, then the model's slots, then the loss."""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from raymtl.config.root import Config
from raymtl.data.batch import Batch
from raymtl.embeddings.lookup import Arrange, Lookup, pooled_module, unpooled_module
from raymtl.models.inputs import ModelInput
from raymtl.models.ranker import build_ranker
from raymtl.objectives.losses import TaskLosses


class Head(nn.Module):
    """Everything above the tables: one leaf for the pipeline's tracer, so that the slots may be written freely."""

    def __init__(self, config: Config, lookup: Lookup, base_rates: dict[str, float], workers: int):
        super().__init__()
        self.arrange = Arrange(config, lookup)
        self.ranker = build_ranker(config.model, config.active_tasks(), lookup.spec, base_rates)
        self.losses = TaskLosses(config.active_tasks(), config.model.order_loss)
        self._workers = workers
        self._bf16 = config.train.precision == "bf16"

    def forward(
        self, pooled: KeyedTensor | None, unpooled: dict[str, JaggedTensor] | None, batch: Batch
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Loss [], and (logits [B, T + derived outputs], loss of each task [T], order loss []), the three without gradient."""
        joined, sequences, bias = self.arrange(pooled, unpooled, batch.dense)
        inputs = ModelInput(joined, batch.dense, sequences, bias, batch.scenario)
        with torch.autocast(batch.dense.device.type, torch.bfloat16, enabled=self._bf16):
            logits = self.ranker(inputs)
        losses = self.losses(
            logits[:, : len(self.ranker.tasks)],
            batch.labels,
            batch.observed,
            batch.weight,
            batch.valid,
            batch.totals[:-1],
            batch.totals[-1],
            self._workers,
        )
        return losses.total, (logits.detach(), losses.per_task, losses.order)


class TrainModel(nn.Module):
    """Tables and head; `forward` is traced by TorchRec's pipeline, so it stays this plain."""

    def __init__(self, config: Config, lookup: Lookup, base_rates: dict[str, float], workers: int):
        super().__init__()
        self.pooled = pooled_module(lookup)
        self.unpooled = unpooled_module(lookup)
        self.head = Head(config, lookup, base_rates, workers)

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        pooled = self.pooled(batch.ids) if self.pooled is not None else None
        unpooled = self.unpooled(batch.sequences) if self.unpooled is not None else None
        return self.head(pooled, unpooled, batch)
