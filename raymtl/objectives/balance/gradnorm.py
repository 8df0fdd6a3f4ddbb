"""GradNorm: gradient normalisation (Chen et al., ICML 2018) at the cut."""

import torch
from torch import Tensor

from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, Weights, register
from raymtl.objectives.balance.start import LEAST_LOSS, StartLosses

_BETAS, _EPS = (0.9, 0.999), 1e-12


@register("gradnorm")
class GradNorm(Balance):
    """λ_t steered so that λ_t‖g_t‖ → mean norm · r_t^α, with r_t = (L_t / L_t(0)) / its mean over the tasks (section 3.1).

    λ follows the gradient of Σ_t |λ_t‖g_t‖ − target_t|, the targets held constant, by Adam on logits: λ = T · softmax, so the λ
    stay positive and sum to T. The λ of a step do not depend on its own batch. The task's weight multiplies the result.
    Tasks without labels in the step take no part in it. Those of weight 0 never do, and T does not count them: nothing trains
    them, so their relative loss would rise without end and draw all of λ.
    """

    needs_losses = True
    at_embeddings = True

    def __init__(self, context: BalanceContext, alpha: float, lr: float):
        super().__init__(context)
        self._alpha, self._lr = alpha, lr
        self.start = StartLosses(context)
        for name in ("logits", "mean", "square", "updates"):
            self.register_buffer(name, torch.zeros(len(context.tasks)))

    def forward(self, step: StepStats) -> Weights:
        trained = self.task_weights > 0
        weights = trained.sum() * self.logits.masked_fill(~trained, -torch.inf).softmax(0).nan_to_num()
        self._learn(step, step.active & trained, weights)
        return Weights(self.task_weights * weights)

    def _learn(self, step: StepStats, active: Tensor, weights: Tensor) -> None:
        assert step.losses is not None
        assert step.gram is not None
        count = active.sum().clamp_min(1)
        norms = step.gram.diagonal().float().clamp_min(0.0).sqrt()
        own = torch.where(active, weights * norms, 0.0)
        pace = torch.where(active, step.losses / self.start(step.losses, active), 0.0)
        pace = pace * count / pace.sum().clamp_min(LEAST_LOSS)
        target = own.sum() / count * pace**self._alpha
        slope = torch.where(active, (own - target).sign() * norms, 0.0)
        share = torch.where(active, weights, 0.0)
        share = share / share.sum().clamp_min(LEAST_LOSS)
        self._adam(share * (slope - (share * slope).sum()), active)

    def _adam(self, gradient: Tensor, active: Tensor) -> None:
        """A step of Adam for the active tasks; its scale of the gradient drops out."""
        first, second = _BETAS
        self.updates.add_(active)
        self.mean.copy_(torch.where(active, first * self.mean + (1 - first) * gradient, self.mean))
        self.square.copy_(torch.where(active, second * self.square + (1 - second) * gradient.square(), self.square))
        updates = self.updates.clamp_min(1.0)
        mean, square = self.mean / (1 - first**updates), self.square / (1 - second**updates)
        self.logits.sub_(torch.where(active, self._lr * mean / (square.sqrt() + _EPS), 0.0))
