"""`kind: real`: any number, or with `transform: log1p` a number ≥ 0 whose size spans decades."""

import math

import torch
from torch import Tensor

from raymtl.config.task_kinds import LogReal, Real
from raymtl.objectives.tasks.base import TaskObjective

MAX_LOG_REAL = 80.0
"""Largest log of a `log1p` prediction; exp of 88.8 no longer fits a 32-bit float."""


class RealObjective(TaskObjective):
    """Squared error; predicts the logit itself."""

    kind = Real
    likelihood_factor = 0.5

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return (logit - label).square()

    def predict(self, logit: Tensor) -> Tensor:
        return logit

    def start_logit(self, base_rate: float) -> float:
        return base_rate


class LogRealObjective(RealObjective):
    """Squared error against log(1 + y); predicts exp(min(a, 80)) − 1."""

    kind = LogReal

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return (logit - label.log1p()).square()

    def predict(self, logit: Tensor) -> Tensor:
        return torch.expm1(logit.clamp(max=MAX_LOG_REAL))

    def start_logit(self, base_rate: float) -> float:
        return math.log1p(base_rate)
