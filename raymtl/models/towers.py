"""The towers: one MLP per task between trunk and coupler."""

from collections.abc import Sequence

from torch import Tensor, nn

from raymtl.models.layers import GroupedMLP
from raymtl.models.precomputed import X, materialize
from raymtl.models.slots import Context


class Towers(nn.Module):
    """T MLPs of one shape: [B, d], read by all, or [B, T, d] -> [B, T, width]. Without layers the trunk's own output."""

    def __init__(self, context: Context, *, hidden: Sequence[int], dropout: float = 0.0):
        super().__init__()
        self.mlps = GroupedMLP(context.heads, context.width, hidden, dropout) if hidden else None
        self.width = hidden[-1] if hidden else context.width
        self._heads = context.heads

    def forward(self, h: X) -> Tensor:
        if self.mlps is None:
            h = materialize(h)
            return h if h.dim() == 3 else h.unsqueeze(1).expand(-1, self._heads, -1)
        return self.mlps(h.transpose(0, 1) if h.dim() == 3 else h).transpose(0, 1)
