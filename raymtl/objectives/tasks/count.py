"""`kind: count`: how often something happens."""

import math

import torch
from torch import Tensor

from raymtl.config.task_kinds import Count
from raymtl.objectives.tasks.base import MIN_RATE, TaskObjective

TANGENT_FROM = 15.0
"""Log of the count, e^15 ≈ 3.3 million, above which the loss of a smaller label is linear: exp would let one row rule it."""
MAX_LOG_COUNT = 80.0
"""Largest log of a predicted count; exp of 88.8 no longer fits a 32-bit float."""


class CountObjective(TaskObjective):
    """Poisson loss λ - y·a with λ = exp(a), without the constant log y!; predicts the mean exp(min(a, 80)).

    Above max(TANGENT_FROM, 1 + log y) λ follows its tangent. A plain clamp of a inside exp would leave -y as the whole gradient
    there, which pushes a prediction that is far too large further up. The tangent begins above log y, where its slope
    λ - y is positive: so the loss of every label has its least at λ = y.
    """

    kind = Count

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        inside = torch.minimum(logit, (label.log() + 1).clamp(min=TANGENT_FROM))
        return inside.exp() * (1.0 + (logit - inside)) - label * logit

    def lower_bound(self, label: Tensor) -> Tensor:
        """Without log y! the loss has its least at λ = y, where it is y - y·log y, mostly negative."""
        return label - torch.xlogy(label, label)

    def predict(self, logit: Tensor) -> Tensor:
        return torch.exp(logit.clamp(max=MAX_LOG_COUNT))

    def start_logit(self, base_rate: float) -> float:
        return math.log(max(base_rate, MIN_RATE))

    def loss_unit(self, base_rate: float) -> float:
        """The gradient of a row is λ - y, of the order of the mean count."""
        return max(base_rate, 1.0)

    def deviance(self, logit: Tensor, label: Tensor) -> Tensor:
        return _deviance(logit.clamp(max=MAX_LOG_COUNT), label)

    def constant_deviance(self, mean: float, at_zero: float) -> float:
        """D(m) = D(1) − 2·(m·log m − m + 1), at least 0."""
        return max(0.0, at_zero - 2 * ((mean * math.log(mean) if mean > 0 else 0.0) - mean + 1))

    def truth_deviance(self, truth: Tensor, label: Tensor) -> Tensor:
        return _deviance(truth.clamp(min=1e-12).log(), label)


def _deviance(log_mean: Tensor, y: Tensor) -> Tensor:
    """Poisson deviance of one row, 2·(y·log(y/μ) − y + μ); with y = 0 it is 2·μ."""
    return 2 * (torch.special.xlogy(y, y) - y * log_mean - y + log_mean.exp())
