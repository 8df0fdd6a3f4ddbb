"""PPNet: who looks at what scales every layer of every task's tower (PEPNet; Chang et al., KDD 2023)."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.models.gate_units import GateUnits
from raymtl.models.inputs import ModelInput, Pick
from raymtl.models.layers import GroupedLayer
from raymtl.models.precomputed import X
from raymtl.models.registry import register
from raymtl.models.slots import Context, TowersSlot


@register("towers", "ppnet")
class PPNet(TowersSlot):
    """h [B, d], read by all tasks, or [B, T, d] -> H_L [B, T, k_L] (section 3.4 of the paper):

        H_l = δ_l ⊗ ReLU(W_l H_{l-1} + b_l),   H_0 = h          W_l and δ_l of each task
        δ_l = GateUnit_l([features] ‖ ⊘h)

    `features` are those of user, item and author, the paper's prior. The units of all layers read the same; the first layer of
    unit l is common to the tasks, as the paper's V_pp. h is the paper's O_ep where the trunk hands x on.
    """

    supports_precomputed = True

    def __init__(
        self,
        context: Context,
        *,
        hidden: Sequence[int],
        features: Sequence[str],
        gate_hidden: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        self._prior = Pick(context.spec, features)
        self.gates = GateUnits(self._prior.width, context.width, context.heads, gate_hidden, hidden)
        self.layers = nn.ModuleList(GroupedLayer(context.heads, i, o) for i, o in pairwise((context.width, *hidden)))
        self._dropout = dropout
        self.width = hidden[-1]

    def forward(self, h: X, inputs: ModelInput) -> Tensor:
        gates = self.gates(self._prior(inputs), h)
        z = h.transpose(0, 1) if h.dim() == 3 else h
        for layer, gate in zip(self.layers, gates, strict=True):
            z = layer(z)
            z = z * gate.transpose(0, 1).to(z.dtype)
            if self._dropout and self.training:
                z = F.dropout(z, self._dropout)
        return z.transpose(0, 1)
