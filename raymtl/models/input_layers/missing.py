"""The Missing Value Layer: what stands for a missing number is learned (Meituan, 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymtl.models.inputs import InputSpec


class MissingValues(nn.Module):
    """Replaces NaN: x [B, F] -> [B, F], where feature f of a row is x where it is there, else a learned v_f.

    v starts at the features' `fill`. The source describes the idea without a formula; here the value is one learned
    constant per feature. With `flags` the result is [B, 2F]: then come F columns that are 1 where the number was missing.
    """

    def __init__(self, spec: InputSpec, flags: bool):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(spec.dense_fill, dtype=torch.float32))
        self._flags = flags
        self.width = len(spec.dense) * (2 if flags else 1)

    def forward(self, x: Tensor, places: Sequence[int] | None = None) -> Tensor:
        """`places`: the features that x has; None: all."""
        missing = x.isnan()
        # Selected, not multiplied: 0 · NaN is NaN, in the value and in the gradient.
        filled = torch.where(missing, self.value if places is None else self.value[list(places)], x)
        return torch.cat((filled, missing.to(filled.dtype)), 1) if self._flags else filled
