"""FAMO: fast adaptive multitask optimisation (Liu et al., NeurIPS 2023)."""

import torch
from torch import Tensor

from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, Weights, register
from raymtl.objectives.balance.start import LEAST_LOSS, start_loss


@register("famo")
class FAMO(Balance):
    """Weights z_t / L_t, z = softmax(ξ), whose logits follow the decrease of the log losses (algorithm 1 of the paper).

    The step goes along Σ_t z_t ∇log L_t; the weights are scaled so that their sum is the number of tasks with labels (paper: 1).
    Then ξ ← ξ − β (Jᵀδ + γ ξ), with the Jacobian J of the softmax and δ_t the decrease of log L_t: a task whose
    log loss fell less than the z-weighted mean gains weight.

    The paper takes δ from a second evaluation of the same batch. Here that would be a second lookup with its exchange, so δ is
    the difference between the losses of consecutive steps. Their noise enters δ with both signs: over the steps it telescopes.
    L_t is a running mean (`smoothing`), up to the step before. That dampens the noise, and it keeps the weight apart from the
    batch that it weighs: for a rare event 1 / L_t of the batch itself would count batches with many positives for less, and
    train the probability too low.
    """

    needs_losses = True

    def __init__(self, context: BalanceContext, lr: float, decay: float, smoothing: float):
        super().__init__(context)
        self._lr, self._decay, self._smoothing = lr, decay, smoothing
        found = [start_loss(name, task, context) for name, task in context.tasks.items()]
        self.register_buffer("logits", torch.zeros(len(found)))
        self.register_buffer("level", torch.tensor([1.0 if loss is None else max(loss, LEAST_LOSS) for loss in found]))
        self.register_buffer("started", torch.tensor([loss is not None for loss in found]))

    def forward(self, step: StepStats) -> Weights:
        assert step.losses is not None
        losses = step.losses.clamp_min(LEAST_LOSS)
        level = torch.where(self.started, self.level, losses)
        # A task of weight 0 is not trained: its share would be lost, and its loss, which need not fall, would draw all of it
        active = step.active & (self.task_weights > 0)
        z = torch.softmax(self.logits.masked_fill(~active, -torch.inf), 0).nan_to_num()  # no task at all: zeros
        shares = z / level
        weights = active.sum() * shares / shares.sum().clamp_min(LEAST_LOSS)
        self._learn(losses, level, z, active)
        return Weights(self.task_weights * weights)

    def _learn(self, losses: Tensor, before: Tensor, z: Tensor, active: Tensor) -> None:
        mean = self._smoothing * before + (1 - self._smoothing) * losses
        after = torch.where(active, mean, self.level)
        decrease = torch.where(active, before.log() - mean.log(), 0.0)
        slope = z * (decrease - (z * decrease).sum())
        self.logits.sub_(self._lr * (slope + self._decay * self.logits))
        self.level.copy_(after)
        self.started.logical_or_(active)
