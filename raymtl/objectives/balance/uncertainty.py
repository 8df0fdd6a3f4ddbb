"""Homoscedastic uncertainty (Kendall, Gal & Cipolla, CVPR 2018)."""

import math
from typing import Literal

import torch
from torch import nn

from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, Weights, register
from raymtl.objectives.balance.start import LEAST_LOSS, start_loss
from raymtl.objectives.tasks import objective_of


@register("uncertainty")
class Uncertainty(Balance):
    """Σ_t weight_t · (λ_t L_t + s_t / 2) with a learned log variance s_t per task, equations 7 and 10 of the paper.

    λ = e^(−s) for likelihoods (binary, count), which converges to s = log 2L; λ = e^(−s) / 2 for squared errors, which converges
    to s = log L. The weight at convergence is 1 / (2L) in both cases. s is free: clamped to s ≥ 0, as some ports have it, it
    would stick at 0 as soon as L < ½, where losses of rare events live. The task's weight multiplies the whole term, for inside
    it s would take the weight out again. A task without labels in the step leaves out both of its parts.
    """

    def __init__(self, context: BalanceContext, start: Literal["base_rate", "one"]):
        super().__init__(context)
        halves = [-math.log(objective_of(task).likelihood_factor) for task in context.tasks.values()]
        first = []
        for half, (name, task) in zip(halves, context.tasks.items(), strict=True):
            loss = start_loss(name, task, context) if start == "base_rate" else None
            first.append(-half if loss is None else math.log(2 * max(loss, LEAST_LOSS)))  # λ = 1, or s at convergence
        # Learned as a distance from its start, so that weight decay pulls it back there and not to some weight of 1.
        self.shift = nn.Parameter(torch.zeros(len(context.tasks)))
        self.register_buffer("start", torch.tensor(first))
        self.register_buffer("_halves", torch.tensor(halves), persistent=False)

    def forward(self, step: StepStats) -> Weights:
        s = self.start + self.shift
        preference = torch.where(step.active, self.task_weights, 0.0)
        return Weights(preference * torch.exp(-s - self._halves), extra=(preference * s).sum() / 2)
