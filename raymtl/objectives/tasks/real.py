"""`kind: real`: any number, or with `transform: log1p` a number ≥ 0 whose size spans decades."""

import math

import torch
from torch import Tensor

from raymtl.config.task_kinds import BaseRate, LogReal, Real
from raymtl.objectives.tasks.base import MAX_LOG, TaskObjective


class RealObjective(TaskObjective):
    """Squared error; predicts the logit itself.

    The head's output is the number of standard deviations from the mean label, so that labels of any scale are learned alike;
    the loss is divided by the variance.
    """

    kind = Real
    likelihood_factor = 0.5

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return (logit - label).square()

    def predict(self, score: Tensor) -> Tensor:
        return score

    def start_logit(self, base_rate: float) -> float:
        return base_rate

    def head_scale(self, base_rate: float) -> tuple[float, float]:
        center, spread = (base_rate.center, base_rate.spread) if isinstance(base_rate, BaseRate) else (None, None)
        return self.start_logit(base_rate) if center is None else center, spread or 1.0

    def loss_unit(self, base_rate: float) -> float:
        return self.head_scale(base_rate)[1] ** 2


class LogRealObjective(RealObjective):
    """Squared error against log(1 + y); predicts max(0, exp(min(a, 80)) − 1), times the factor of `OutputScale`."""

    kind = LogReal

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return (logit - label.log1p()).square()

    def predict(self, score: Tensor) -> Tensor:
        return torch.expm1(score.clamp(0.0, MAX_LOG))

    def start_logit(self, base_rate: float) -> float:
        return math.log1p(base_rate)
