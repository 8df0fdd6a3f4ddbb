"""CAGrad: conflict-averse gradient descent (Liu et al., NeurIPS 2021), from inner products alone."""

import torch
from torch import Tensor

from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, Weights, register

_STEPS = 14
"""Newton steps; the objective is then within 1e-4 of its range, mostly far closer (measured for up to 8 tasks)."""
_SHRINK = 0.3
"""Factor on the barrier from one Newton step to the next."""
_NEGLIGIBLE = 1e-12
"""Least square norm of a gradient relative to the largest; one below it counts as none."""
_RESOLVED = 1e-3
"""Where gradients cancel, least ‖g_w‖ relative to Σ w‖g‖ that inner products in fp32 can tell; below, the step is shortened."""
_TINY = 1e-30


@register("cagrad")
class CAGrad(Balance):
    """d = g_0 + c‖g_0‖ · g_w / ‖g_w‖, where g_0 is the mean gradient and w minimises g_w·g_0 + c‖g_0‖‖g_w‖ over the simplex.

    That is the direction in the ball of radius c‖g_0‖ around g_0 that helps the worst-off task most (equation 3 of the paper).
    The result is multiplied by the number of tasks with labels, so that c = 0 gives the sum of the weighted gradients, as with
    fixed weights. Tasks without a gradient are left out first: otherwise the best w would be theirs alone.
    """

    at_embeddings = True

    def __init__(self, context: BalanceContext, c: float):
        super().__init__(context)
        self._c = c

    def forward(self, step: StepStats) -> Weights:
        assert step.gram is not None
        weights = self.task_weights.double()
        gram = step.gram.double() * torch.outer(weights, weights)
        factors = conflict_averse(gram, step.active, self._c)
        return Weights(self.task_weights, (factors * weights).float())


def conflict_averse(gram: Tensor, active: Tensor, c: float) -> Tensor:
    """Factors [T] such that Σ_j factor_j · g_j is the number of active tasks times CAGrad's direction."""
    squares = gram.diagonal()
    active = active & (squares > _NEGLIGIBLE * squares.max())
    count = active.sum().clamp_min(1)
    radius = c * norm(active / count, gram)
    w = worst_mix(gram, active, c)
    aligned = (w * squares.clamp_min(0.0).sqrt()).sum()
    length = torch.maximum(norm(w, gram), _RESOLVED * aligned).clamp_min(_TINY)
    return torch.where(active, 1.0 + count * w * radius / length, 1.0)


def worst_mix(gram: Tensor, active: Tensor, c: float) -> Tensor:
    """The w [T] that minimises g_w·g_0 + c‖g_0‖‖g_w‖ over the simplex of the active tasks.

    An interior-point method: Newton steps on the objective − μ Σ log w, a falling μ, a fixed number of them, so that nothing
    waits for the device.
    """
    both = torch.outer(active, active)
    scale = gram.diagonal().masked_fill(~active, 0.0).max().clamp_min(_TINY)
    gram = torch.where(both, gram / scale, 0.0)
    mean = (active / active.sum().clamp_min(1)).to(gram.dtype)
    mean_products = gram @ mean
    radius = c * norm(mean, gram)
    ones = active.to(gram.dtype)
    idle = torch.diag(1.0 - ones)  # keeps the matrix regular
    w = mean
    barrier = _SHRINK * (mean_products.abs().max() + radius).clamp_min(_TINY)
    for _ in range(_STEPS):
        inside = torch.where(active, w, 1.0)
        image = gram @ w
        length = norm(w, gram).clamp_min(1e-6)
        gradient = mean_products + radius * image / length - torch.where(active, barrier / inside, 0.0)
        hessian = radius * (gram - torch.outer(image, image) / length.square()) / length
        hessian = hessian + torch.diag(torch.where(active, barrier / inside.square(), 0.0)) + idle
        solved, _ = torch.linalg.solve_ex(hessian, torch.stack((gradient * ones, ones), 1))
        direction = (
            solved[:, 1] * (solved[:, 0].sum() / solved[:, 1].sum().clamp_min(_TINY)) - solved[:, 0]
        )  # sums to 0
        step_size = torch.where(direction < 0, -0.95 * inside / direction.clamp_max(-_TINY), 1.0).min().clamp_max(1.0)
        w = torch.where(active, w + step_size * direction, 0.0)
        barrier = barrier * _SHRINK
    return torch.where(w.isfinite().all(), w / w.sum().clamp_min(_TINY), mean)


def norm(w: Tensor, gram: Tensor) -> Tensor:
    """‖Σ_t w_t g_t‖."""
    w = w.to(gram.dtype)
    return (w @ gram @ w).clamp_min(0.0).sqrt()
