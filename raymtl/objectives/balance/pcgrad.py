"""PCGrad: gradient surgery (Yu et al., NeurIPS 2020), from inner products alone."""

import torch
from torch import Tensor

from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, Weights, register

# Knuth's 64-bit linear congruential generator; products wrap around
_MULTIPLIER, _INCREMENT = 6364136223846793005, 1442695040888963407

_NEGLIGIBLE = 1e-12
"""Least square norm of a gradient relative to the largest; smaller gradients are ignored."""


@register("pcgrad")
class PCGrad(Balance):
    """From each task's gradient, in random order, the components that conflict with other tasks' are projected out (algorithm 1).

    g_i ← g_i − (g_i·g_j / ‖g_j‖²) g_j for each other j with g_i·g_j < 0, where g_j is the other's unchanged gradient. Each g_i
    stays a combination of the given gradients, so their Gram matrix is all that is needed. The result is the sum of all g_i.
    """

    at_embeddings = True

    def __init__(self, context: BalanceContext):
        super().__init__(context)
        tasks = len(context.tasks)
        start = torch.randint(2**62, (tasks, tasks), generator=torch.Generator().manual_seed(context.seed))
        # One stream per pair: its state lives on the device and in checkpoints, and is the same on all workers.
        self.register_buffer("streams", start)

    def forward(self, step: StepStats) -> Weights:
        assert step.gram is not None
        self.streams.mul_(_MULTIPLIER).add_(_INCREMENT)
        order = (self.streams >> 33).argsort(1)
        weights = self.task_weights.double()
        gram = step.gram.double() * torch.outer(weights, weights)
        factors = project(gram, order)
        return Weights(self.task_weights, (factors * weights).float())


def project(gram: Tensor, order: Tensor) -> Tensor:
    """Factors [T] such that Σ_j factor_j · g_j is PCGrad's sum; row i of `order` [T, T]: whom task i meets, in turn."""
    tasks = len(gram)
    squares = gram.diagonal()
    rows = torch.eye(tasks, dtype=gram.dtype, device=gram.device)  # row i: g_i as a combination of the given gradients
    itself = torch.arange(tasks, device=gram.device)
    for j in order.unbind(1):
        dot = (rows @ gram).gather(1, j.unsqueeze(1)).squeeze(1)
        conflict = (dot < 0) & (j != itself) & (squares[j] > _NEGLIGIBLE * squares.max())
        against = torch.where(conflict, dot / torch.where(conflict, squares[j], 1.0), 0.0)
        rows = rows.scatter_add(1, j.unsqueeze(1), -against.unsqueeze(1))
    return rows.sum(0)
