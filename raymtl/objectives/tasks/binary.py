"""`kind: binary`: an event that happens or does not."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.task_kinds import Binary, TaskKind
from raymtl.objectives.tasks.base import MIN_RATE, TaskObjective


class BinaryObjective(TaskObjective):
    """Cross entropy in nats, y·softplus(-a) + (1 - y)·softplus(a); predicts the probability σ(a)."""

    kind: ClassVar[type[TaskKind]] = Binary

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logit, label, reduction="none")

    def lower_bound(self, label: Tensor) -> Tensor:
        """The entropy of the label, above 0 inside (0, 1): where labels are smoothed, or fractions."""
        return -torch.xlogy(label, label) - torch.xlogy(1 - label, 1 - label)

    def predict(self, score: Tensor) -> Tensor:
        return torch.sigmoid(score)

    def start_logit(self, base_rate: float) -> float:
        rate = _inside(base_rate)
        return math.log(rate) - math.log1p(-rate)

    def start_loss(self, base_rate: float) -> float | None:
        return entropy(base_rate)


def entropy(rate: float) -> float:
    """Cross entropy in nats of labels with this mean, if every prediction is the mean."""
    p = _inside(rate)
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


def _inside(rate: float) -> float:
    return min(max(rate, MIN_RATE), 1 - MIN_RATE)
