"""TorchRec's training pipeline, which prepares the next batches while one is trained on."""

from typing import Any

import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from raymtl.training.build import TrainState


class _Prefetch(TrainPipelineSparseDist):
    """The pipeline of a model without sharded tables: it copies batches to the device ahead, and has no IDs to send."""

    def _pipeline_model(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to change in the model; TorchRec's tracer would trace into it for want of a sharded table."""


def make_pipeline(train_state: TrainState, device: torch.device) -> TrainPipelineSparseDist:
    """The pipeline over a worker's model."""
    kind = TrainPipelineSparseDist if train_state.plan.plan else _Prefetch
    return kind(
        train_state.model,
        train_state.optimizers,
        device,
        execute_all_batches=True,  # type: ignore[arg-type]
    )
