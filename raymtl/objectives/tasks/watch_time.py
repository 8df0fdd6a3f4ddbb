"""`kind: watch_time`: a time or an amount ≥ 0 that is often 0, learned as odds."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.task_kinds import WatchTime
from raymtl.objectives.tasks.base import MAX_LOG, MIN_RATE, TaskObjective


class WatchTimeObjective(TaskObjective):
    """Weighted logistic loss y·softplus(−a) + softplus(a): a row counts y times as a positive and once as a negative; predicts
    the odds exp(min(a, 80)).

    Covington, Adams & Sargin, RecSys 2016, section 4.2, count rows with a click y times as positives and only the others as
    negatives; the odds are then E[y] / (1 − P(click)), near E[y] where clicks are rare. With every row once as a negative they
    are E[y] exactly, also where everything is watched. It is the likelihood of a geometric label with the mean exp(a).
    """

    kind = WatchTime

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return label * F.softplus(-logit) + F.softplus(logit)

    def lower_bound(self, label: Tensor) -> Tensor:
        """The loss where exp(a) is the label: (1 + y)·log(1 + y) − y·log y."""
        return torch.xlogy(1 + label, 1 + label) - torch.xlogy(label, label)

    def predict(self, score: Tensor) -> Tensor:
        return torch.exp(score.clamp(max=MAX_LOG))

    def start_logit(self, base_rate: float) -> float:
        return math.log(max(base_rate, MIN_RATE))

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        """The deviance, that of the mean 1, and whether the label is above 0."""
        least, positive = self.lower_bound(label), (label > 0).to(logit.dtype)
        at_one = 2 * (self.loss(torch.zeros_like(label), label) - least)
        return torch.stack((2 * (self.loss(logit, label) - least), at_one, positive), -1)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        """The loss is linear in the label, so its mean follows from the mean label."""
        at_one = (1 + mean_label) * math.log(2)
        constant = max(0.0, means[1] - 2 * (at_one - _mean_loss(mean_label)))
        return {"constant_geometric_deviance": constant, "positive_rate": means[2]}

    def truth_terms(self, truth: Tensor, label: Tensor) -> Tensor:
        return 2 * (self.loss(truth.clamp(min=1e-12).log(), label) - self.lower_bound(label)).unsqueeze(-1)


def _mean_loss(mean: float) -> float:
    """The mean loss of the best constant: (1 + m)·log(1 + m) − m·log m."""
    return (1 + mean) * math.log1p(mean) - (mean * math.log(mean) if mean > 0 else 0.0)
