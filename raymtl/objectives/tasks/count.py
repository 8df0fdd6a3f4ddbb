"""`kind: count`: how often something happens."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raymtl.config.task_kinds import Count
from raymtl.objectives.tasks.base import MAX_LOG, MIN_RATE, TaskObjective

TANGENT_FROM = 15.0
"""Log of the count, e^15 ≈ 3.3 million, above which the loss of a smaller label is linear: exp would let one row rule it."""


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

    def predict(self, score: Tensor) -> Tensor:
        return torch.exp(score.clamp(max=MAX_LOG))

    def start_logit(self, base_rate: float) -> float:
        return math.log(max(base_rate, MIN_RATE))

    def loss_unit(self, base_rate: float) -> float:
        """The gradient of a row is λ - y, of the order of the mean count."""
        return max(base_rate, 1.0)

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        """The Poisson deviance, and that of the mean 1."""
        found = _deviance(logit.clamp(max=MAX_LOG), label), _deviance(torch.zeros_like(label), label)
        return torch.stack(found, -1)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        """D(m) = D(1) − 2·(m·log m − m + 1), at least 0."""
        m = mean_label
        best = means[1] - 2 * ((m * math.log(m) if m > 0 else 0.0) - m + 1)
        return {"constant_poisson_deviance": max(0.0, best)}

    def truth_terms(self, truth: Tensor, label: Tensor) -> Tensor:
        return _deviance(truth.clamp(min=1e-12).log(), label).unsqueeze(-1)


def _deviance(log_mean: Tensor, y: Tensor) -> Tensor:
    """Poisson deviance of one row, 2·(y·log(y/μ) − y + μ); with y = 0 it is 2·μ."""
    return 2 * (torch.special.xlogy(y, y) - y * log_mean - y + log_mean.exp())
