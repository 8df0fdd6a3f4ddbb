"""TRM: every task reads the input through a gate of its own (DTRN, CIKM 2023)."""

import torch
from torch import Tensor, nn

from raymtl.models.inputs import ModelInput
from raymtl.models.layers import GroupedLayer
from raymtl.models.precomputed import X, materialize
from raymtl.models.registry import register
from raymtl.models.slots import Context, RefineSlot


@register("refine", "trm")
class TRM(RefineSlot):
    """x [B, d], or each task its own [B, T, d] -> r [B, T, d]: r_t = x_t ⊙ 2σ(V_t ReLU(W_t x_t + b_t) + c_t).

    V and c start at zero, so at the start r = x. The paper's network ends in a plain layer of the input's width; here it
    goes through a bottleneck, because d² weights per task would exceed the rest of the model, and 2σ is the gate, which can
    neither flip a feature's sign nor, unlike a ReLU, switch it off permanently.
    """

    supports_precomputed = True

    def __init__(self, context: Context, *, hidden: int):
        super().__init__()
        self.hidden = GroupedLayer(context.heads, context.width, hidden)
        self.weight = nn.Parameter(torch.zeros(context.heads, context.width, hidden))
        self.bias = nn.Parameter(torch.zeros(context.heads, context.width))
        self.width = context.width

    def forward(self, x: X, inputs: ModelInput) -> Tensor:
        return (x if x.dim() == 3 else materialize(x).unsqueeze(1)) * self.gate(x).transpose(0, 1)

    def gate(self, x: X) -> Tensor:
        """The factors, between 0 and 2, in fp32 also under autocast: [T, B, d]."""
        hidden = self.hidden(x.transpose(0, 1) if x.dim() == 3 else x)
        logits = torch.baddbmm(self.bias.unsqueeze(1), hidden, self.weight.transpose(1, 2))
        return 2 * logits.float().sigmoid()
