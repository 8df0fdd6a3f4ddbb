"""PEPNet's gate units, which scale every element of a layer (Chang et al., KDD 2023, section 3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.models.layers import glorot_, upcast
from raymtl.models.precomputed import X, linear, stop_gradient


class GateUnits(nn.Module):
    """G gate units for T tasks that read the same z = [given ‖ ⊘x], ⊘ the stop-gradient:

        δ_g = 2σ(V_g ReLU(W_g z + b_g) + c_g)          W_g [hidden, p + d],  V_g [T·k_g, hidden]

    given [B, p], x [B, d] or each task its own [B, T, d] -> G factors [B, T, k_g] between 0 and 2, in fp32 also under autocast.
    2σ is the paper's choice (γ = 2). V and c start at zero, so that every factor starts at 1. The first layers of all units are
    one matrix product.
    """

    def __init__(self, given: int, width: int, tasks: int, hidden: int, outputs: Sequence[int]):
        super().__init__()
        weight = torch.cat([glorot_(torch.empty(hidden, given + width)) for _ in outputs])
        self.given = nn.Parameter(weight[:, :given].clone())
        self.x = nn.Parameter(weight[:, given:].clone())
        self.x_bias = nn.Parameter(torch.zeros(len(weight)))
        self.weights = nn.ParameterList(torch.zeros(tasks, out, hidden) for out in outputs)
        self.biases = nn.ParameterList(torch.zeros(tasks, out) for out in outputs)

    def forward(self, given: Tensor, x: X) -> list[Tensor]:
        z = linear(stop_gradient(x), self.x, self.x_bias)
        of_given = F.linear(given, self.given)
        hidden = (z + (of_given if z.dim() == 2 else of_given.unsqueeze(1))).relu_()
        parts = hidden.chunk(len(self.weights), -1)
        return [
            2 * upcast(_per_task(part, weight, bias)).sigmoid()
            for part, weight, bias in zip(parts, self.weights, self.biases, strict=True)
        ]


def _per_task(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """h [B, hidden] or [B, T, hidden] -> [B, T, k]."""
    if h.dim() == 2:
        return F.linear(h, weight.flatten(0, 1), bias.flatten()).unflatten(1, bias.shape)
    if len(weight) == 1:  # one unit for all tasks
        return F.linear(h, weight[0], bias[0])
    return torch.baddbmm(bias.unsqueeze(1), h.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
