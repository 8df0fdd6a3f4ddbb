"""The interface of a task kind's objective."""

from typing import ClassVar

import torch
from torch import Tensor

from raymtl.config.task_kinds import TaskKind

MIN_RATE = 1e-6
"""Least base rate and least distance to 1, so that no head starts at an infinite logit and no task from a loss of zero."""


class TaskObjective:
    """Loss, link and start of one kind of task; it keeps no state. Tensors may have any shape, all of one call the same."""

    kind: ClassVar[type[TaskKind]]
    likelihood_factor: ClassVar[float] = 1.0
    """The loss is a negative log likelihood after this factor, up to constants and a variance: ½ for squared errors."""

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        """Loss of every row, in fp32."""
        raise NotImplementedError

    def lower_bound(self, label: Tensor) -> Tensor:
        """What the loss of every row cannot fall below."""
        return torch.zeros_like(label)

    def predict(self, logit: Tensor) -> Tensor:
        """The prediction in the label's unit."""
        raise NotImplementedError

    def start_logit(self, base_rate: float) -> float:
        """The logit whose prediction is the base rate (mean label)."""
        raise NotImplementedError

    def head_scale(self, base_rate: float) -> tuple[float, float]:
        """The offset and the scale that turn the head's output into the logit."""
        return 0.0, 1.0

    def loss_unit(self, base_rate: float) -> float:
        """What the loss is divided by, so that labels of any scale give gradients of about the same size."""
        return 1.0

    def start_loss(self, base_rate: float) -> float | None:
        """What the best constant prediction costs, where the base rate alone tells it."""
        return None

    def deviance(self, logit: Tensor, label: Tensor) -> Tensor:
        """The metric `kind.deviance` of every row; only for kinds that have one."""
        raise NotImplementedError

    def constant_deviance(self, mean: float, at_zero: float) -> float:
        """The same of the best constant, the mean label, from the mean deviance of the logit 0."""
        raise NotImplementedError

    def truth_deviance(self, truth: Tensor, label: Tensor) -> Tensor:
        """The same with the true mean as the prediction."""
        raise NotImplementedError
