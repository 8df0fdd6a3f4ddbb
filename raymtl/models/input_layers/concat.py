"""The plain input: everything side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raymtl.models.input_layers.missing import MissingValues
from raymtl.models.inputs import ModelInput
from raymtl.models.registry import register
from raymtl.models.slots import Context, InputSlot


@register("input", "concat")
class ConcatInput(InputSlot):
    """Pooled embeddings [B, ΣD] and dense features [B, F] -> x [B, ΣD + F]; F more with `missing_flags`."""

    def __init__(self, context: Context, *, missing: str = "fill", missing_flags: bool = False):
        super().__init__()
        dense = len(context.spec.dense)
        self._dense_names = context.spec.dense
        self._pooled = sum(context.spec.pooled.values())
        self.missing = MissingValues(context.spec, missing_flags) if missing == "learned" and dense else None
        self._dense = self.missing.width if self.missing is not None else dense
        self.width = self._pooled + self._dense
        flags = self._dense - dense
        self.columns: list[str | None] = [
            *(name for name, d in context.spec.pooled.items() for _ in range(d)),
            *context.spec.dense,
            *context.spec.dense[:flags],
        ]

    def forward(self, inputs: ModelInput) -> Tensor:
        dense = inputs.dense if self.missing is None else self.missing(inputs.dense)
        if not self._dense:
            return inputs.pooled
        if not self._pooled:
            return dense
        return torch.cat((inputs.pooled, dense), 1)

    def part(self, inputs: ModelInput, side: bool, sides: Sequence[bool]) -> Tensor:
        own = [name for name, of in zip(self.columns, sides, strict=True) if of == side and name is not None]
        names = list(dict.fromkeys(own))
        dense = [place for place, name in enumerate(self._dense_names) if name in names]
        parts = [inputs.value(name) for name in names if name not in self._dense_names]
        if dense:
            numbers = torch.cat([inputs.value(self._dense_names[place]) for place in dense], 1)
            parts.append(numbers if self.missing is None else self.missing(numbers, dense))
        return torch.cat(parts, 1) if parts else inputs.pooled[:, :0]
