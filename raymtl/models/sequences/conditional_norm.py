"""Conditional layer norm: one network serves many conditions that differ in their norms only (DTRN, CIKM 2023)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from raymtl.models.layers import GroupedLayer, full_precision

EPS = 1e-6


class ConditionalNorms(nn.Module):
    """The scales and shifts of N layer norms for every pair of a task t and a behaviour type b.

        γ_{t,b}^l = MLP_γ^l([T_t ‖ S_b]),    β_{t,b}^l = MLP_β^l([T_t ‖ S_b])      one hidden ReLU layer each
        CLN_{t,b}^l(x) = γ_{t,b}^l ⊙ γ^l ⊙ (x − μ) / δ + β_{t,b}^l + β^l           γ^l, β^l: the norm's own

    The result does not depend on the batch, so it is computed once per step for the T·S pairs: -> scale and shift, each
    [N, T, S, 1, d] to go with the dimensions [B, T, S, L, d] of what is normed, in fp32 also under autocast. The last layers
    start at zero, with a bias of 1 for γ: at the start every norm is a plain layer norm.
    """

    def __init__(self, norms: int, tasks: int, behaviours: int, width: int, condition_dim: int):
        super().__init__()
        self.task = nn.Parameter(torch.randn(tasks, condition_dim))
        self.behaviour = nn.Parameter(torch.randn(behaviours, condition_dim))
        self.hidden = GroupedLayer(2 * norms, 2 * condition_dim, width)  # first those of γ, then those of β
        self.weight = nn.Parameter(torch.zeros(2 * norms, width, width))
        self.bias = nn.Parameter(torch.cat((torch.ones(norms, width), torch.zeros(norms, width))))
        self.gamma = nn.Parameter(torch.ones(norms, 1, width))
        self.beta = nn.Parameter(torch.zeros(norms, 1, width))

    def forward(self) -> tuple[Tensor, Tensor]:
        tasks, behaviours = self.task.shape[0], self.behaviour.shape[0]
        with full_precision(self.task):
            task = self.task.repeat_interleave(behaviours, 0)
            conditions = torch.cat((task, self.behaviour.repeat(tasks, 1)), 1)  # [T·S, 2c]
            generated = torch.baddbmm(self.bias.unsqueeze(1), self.hidden(conditions), self.weight.transpose(1, 2))
            scale, shift = generated.chunk(2)  # each [N, T·S, d]
            shape = (len(self.gamma), tasks, behaviours, 1, -1)
            return (scale * self.gamma).view(shape), (shift + self.beta).view(shape)


def conditional_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm of the last dimension in fp32, then scale and shift, which may bring in new leading dimensions."""
    # With the steps' dimension expanded, the gradients of scale and shift are sums over the first dimension, and then over
    # the steps of what is left: on a CPU several times as fast as one sum over both.
    scale, shift = (part.expand(*part.shape[:-2], x.shape[-2], -1) for part in (scale, shift))
    return torch.addcmul(shift, layer_norm(x.float(), x.shape[-1:], eps=EPS), scale)
