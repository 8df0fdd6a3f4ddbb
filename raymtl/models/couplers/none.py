"""Independent heads: nothing passes between the tasks above the trunk."""

from collections.abc import Sequence

from torch import Tensor

from raymtl.models.layers import Heads
from raymtl.models.registry import register
from raymtl.models.slots import Context, CouplerSlot


@register("coupler", "none")
class NoCoupler(CouplerSlot):
    """Every task's logit is a linear function of its own tower: h [B, T, k] -> [B, T]."""

    def __init__(self, context: Context):
        super().__init__()
        self.head = Heads(context.heads, context.width)

    def start_at(self, logits: Sequence[float]) -> None:
        self.head.start_at(logits)

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        logits = self.head(h)
        return logits if bias is None else logits + bias
