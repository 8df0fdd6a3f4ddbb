"""Behaviour sequences as the mean of their steps."""

import torch
from torch import Tensor

from raymtl.models.inputs import ModelInput
from raymtl.models.registry import register
from raymtl.models.slots import Context, SequenceSlot


@register("sequence", "pooled")
class PooledSequence(SequenceSlot):
    """Mean over the valid steps of every sequence [B, L, D], side by side: [B, ΣD]. An empty sequence gives zeros."""

    def __init__(self, context: Context):
        super().__init__()
        self._names = tuple(context.spec.sequences)
        self.reads = self._names
        self.width = sum(context.spec.sequences.values())

    def forward(self, inputs: ModelInput) -> Tensor:
        return torch.cat([_mean(*inputs.sequences[name]) for name in self._names], 1)


def _mean(steps: Tensor, lengths: Tensor) -> Tensor:
    # Steps beyond the end are zero by the contract of ModelInput, so the sum needs no mask.
    return steps.float().sum(1) / lengths.clamp(min=1).unsqueeze(1)
