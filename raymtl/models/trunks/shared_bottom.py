"""The shared bottom: one MLP for all tasks."""

from collections.abc import Sequence

from raymtl.models.inputs import ModelInput
from raymtl.models.layers import MLP
from raymtl.models.precomputed import X
from raymtl.models.registry import register
from raymtl.models.slots import Context, TrunkSlot


@register("trunk", "shared_bottom")
class SharedBottom(TrunkSlot):
    """One MLP that all tasks share: x [B, d] -> [B, k], or [B, T, d] -> [B, T, k] (Caruana, 1997).

    Without layers it hands x on, so that the tasks share the tables only, as AITM and ESMM do.
    """

    supports_precomputed = True

    def __init__(self, context: Context, *, hidden: Sequence[int], dropout: float = 0.0):
        super().__init__()
        self.mlp = MLP(context.width, hidden, dropout)
        self.width = self.mlp.width

    def forward(self, x: X, inputs: ModelInput) -> X:
        return self.mlp(x)
