"""MMoE: experts for all, one gate per task (Ma et al., KDD 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raymtl.models.inputs import ModelInput
from raymtl.models.layers import MLP, Gates, GroupedMLP
from raymtl.models.precomputed import X
from raymtl.models.registry import register
from raymtl.models.slots import Context, TrunkSlot


@register("trunk", "mmoe")
class MMoE(TrunkSlot):
    """E experts f_e and, for every task t, a softmax gate on the same x: h_t = Σ_e softmax(W_t x)_e · f_e(x).

    x [B, d] -> [B, T, k]. With one gate for all tasks (`shared_gate`, OMoE) the mixture is the same for all of them:
    [B, d] -> [B, k]. With a `bottom` experts and gates read the last of those shared layers in place of x (YouTube, Zhao et
    al., RecSys 2019). With per-task inputs [B, T, d] the experts read every task's row, which costs T times as much.
    """

    supports_precomputed = True

    def __init__(
        self,
        context: Context,
        *,
        experts: int,
        hidden: Sequence[int],
        bottom: Sequence[int] = (),
        gate_bias: bool = False,
        shared_gate: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.bottom = MLP(context.width, bottom, dropout)
        self.experts = GroupedMLP(experts, self.bottom.width, hidden, dropout)
        self.gates = Gates(1 if shared_gate else context.heads, experts, self.bottom.width, gate_bias)
        self.width = self.experts.width
        self._one_mixture = shared_gate

    def forward(self, x: X, inputs: ModelInput) -> Tensor:
        x = self.bottom(x)
        gates = self.gates(x)  # [B, T, E], or [B, 1, E] for the one gate on a common input
        if self.training:
            self.mixtures = [gates.detach()]
        if x.dim() == 2:
            experts = self.experts(x).transpose(0, 1)  # [B, E, k]
            h = torch.bmm(gates.to(experts.dtype), experts)
            return h.squeeze(1) if self._one_mixture else h
        experts = self.experts(x.flatten(0, 1)).transpose(0, 1)  # [B·T, E, k]
        rows = gates.flatten(0, 1).unsqueeze(1).to(experts.dtype)  # [B·T, 1, E]
        return torch.bmm(rows, experts).view(x.shape[0], x.shape[1], self.width)
