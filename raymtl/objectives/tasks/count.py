"""`kind: count`: how often something happens."""

import math

import torch
from torch import Tensor

from raymtl.config.task_kinds import Count
from raymtl.objectives.tasks.base import MIN_RATE, TaskObjective

MAX_LOG_COUNT = 15.0
"""Largest log of a predicted count, e^15 ≈ 3.3 million: beyond it exp would let one row rule the loss."""


class CountObjective(TaskObjective):
    """Poisson loss λ - y·a with λ = exp(a), without the constant log y!; predicts the mean exp(min(a, 15)).

    Above MAX_LOG_COUNT λ follows its tangent. A plain clamp of a inside exp would leave -y as the whole gradient there,
    which pushes a prediction that is far too large further up.
    """

    kind = Count

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        inside = logit.clamp(max=MAX_LOG_COUNT)
        return inside.exp() * (1.0 + (logit - inside)) - label * logit

    def lower_bound(self, label: Tensor) -> Tensor:
        """Without log y! the loss has its least at λ = y, where it is y - y·log y, mostly negative."""
        return label - torch.xlogy(label, label)

    def predict(self, logit: Tensor) -> Tensor:
        return torch.exp(logit.clamp(max=MAX_LOG_COUNT))

    def start_logit(self, base_rate: float) -> float:
        return math.log(max(base_rate, MIN_RATE))

    def deviance(self, logit: Tensor, label: Tensor) -> Tensor:
        return _deviance(logit.clamp(max=MAX_LOG_COUNT), label)

    def truth_deviance(self, truth: Tensor, label: Tensor) -> Tensor:
        return _deviance(truth.clamp(min=1e-12).log(), label)


def _deviance(log_mean: Tensor, y: Tensor) -> Tensor:
    """Poisson deviance of one row, 2·(y·log(y/μ) − y + μ); with y = 0 it is 2·μ."""
    return 2 * (torch.special.xlogy(y, y) - y * log_mean - y + log_mean.exp())
