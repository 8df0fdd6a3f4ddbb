"""The plain input: everything side by side."""

import torch
from torch import Tensor

from raymtl.models.inputs import ModelInput
from raymtl.models.registry import register
from raymtl.models.slots import Context, InputSlot


@register("input", "concat")
class ConcatInput(InputSlot):
    """Pooled embeddings [B, ΣD] and dense features [B, F] -> x [B, ΣD + F]."""

    def __init__(self, context: Context):
        super().__init__()
        self._dense = len(context.spec.dense)
        self._pooled = sum(context.spec.pooled.values())
        self.width = self._pooled + self._dense

    def forward(self, inputs: ModelInput) -> Tensor:
        if not self._dense:
            return inputs.pooled
        if not self._pooled:
            return inputs.dense
        return torch.cat((inputs.pooled, inputs.dense), 1)
