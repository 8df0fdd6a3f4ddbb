"""The interface of a task kind's objective."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from raymtl.config.task_kinds import BaseRate, TaskKind
from raymtl.config.tasks import Task

MIN_RATE = 1e-6
"""Least base rate and least distance to 1, so that no head starts at an infinite logit and no task from a loss of zero."""
MAX_LOG = 80.0
"""Largest log of a predicted amount; exp of 88.8 no longer fits a 32-bit float."""


@dataclass(frozen=True)
class TaskObjective:
    """Loss, link and start of the tasks of a kind; it keeps no state, and objectives of equal options are equal.

    Shapes: most kinds have one output, their logit. There a label and its logit have the same shape, which may be any, and so has
    every result. With k > 1 outputs, the logit has one more dimension than the label, of size k: the main output first, which the
    coupler makes, then the extra ones.
    """

    kind: ClassVar[type[TaskKind]]
    likelihood_factor: ClassVar[float] = 1.0
    """The loss is a negative log likelihood after this factor, up to constants and a variance: ½ for squared errors."""
    constant_extras: ClassVar[bool] = False
    """Whether the heads of the extra outputs are the same for all rows: a bias and no weights."""

    factor_output: ClassVar[int | None] = None
    """The output that `scaled` changes; None: predictions need no factor (`OutputScale`)."""

    @classmethod
    def of(cls, task: Task) -> Self:
        """The objective of a task, with the task's options."""
        return cls()

    @property
    def outputs(self) -> int:
        """k, the number of outputs of a task."""
        return 1

    def link(self, main: Tensor, extra: Tensor) -> Tensor:
        """The extra outputs [..., k - 1] as `loss` reads them, from what the heads give: main [...] and extra [..., k - 1].

        The main output is read as its head gives it.
        """
        return extra

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        """Loss of every row, in fp32; finite, with finite gradients, also where the logits and the label are all 0."""
        raise NotImplementedError

    def lower_bound(self, label: Tensor) -> Tensor:
        """What the loss of every row cannot fall below."""
        return torch.zeros_like(label)

    def score(self, logit: Tensor) -> Tensor:
        """The logit of the main prediction, one number per row, whatever the number of outputs; rows are ranked by it."""
        return logit

    def predict(self, score: Tensor) -> Tensor:
        """The main prediction, in the label's unit, from the `score`; it rises with it."""
        raise NotImplementedError

    def scaled(self, logit: Tensor, factor: Tensor) -> Tensor:
        """What `factor_output` [...] must be for a prediction of `factor` times that of the given outputs."""
        raise NotImplementedError

    def start_prediction(self, base_rate: float) -> float:
        """The main prediction of an untrained model, before the factor; only for kinds with one."""
        raise NotImplementedError

    def predictions(self, logit: Tensor) -> Tensor:
        """All predictions [..., 1 + number of `TaskKind.parts`]: the main one, then the parts."""
        return self.predict(self.score(logit)).unsqueeze(-1)

    def start_logit(self, base_rate: float) -> float:
        """The main output whose prediction is the base rate (mean label)."""
        raise NotImplementedError

    def start_extras(self, base_rate: float) -> Sequence[float]:
        """What the heads of the k - 1 extra outputs start at."""
        return [0.0] * (self.outputs - 1)

    def head_scale(self, base_rate: float) -> tuple[float, float]:
        """The offset and the scale that turn the head's main output into the logit."""
        return 0.0, 1.0

    def extra_scales(self, base_rate: float) -> Sequence[tuple[float, float]]:
        """The same of the k - 1 extra outputs, after `link`."""
        return [(0.0, 1.0)] * (self.outputs - 1)

    def loss_unit(self, base_rate: float) -> float:
        """What the loss is divided by, so that labels of any scale give gradients of about the same size."""
        return 1.0

    def start_loss(self, base_rate: float) -> float | None:
        """What the best constant prediction costs above the lower bound of the labels, where the base rate alone tells it."""
        return None

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        """What evaluation averages over rows, [..., n]: the metrics `kind.own`, then what `details` needs."""
        return label.new_empty(*label.shape, 0)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        """More entries of a report, from the mean label and the n means of `terms`: `constant_<metric>`, what the metrics
        `kind.own` are for the best constant prediction, and others."""
        return {}

    def truth_terms(self, truth: Tensor, label: Tensor) -> Tensor | None:
        """The metrics `kind.own` [..., n] with the true mean as the prediction; None: a mean does not tell."""
        return None


def inverse_softplus(value: float) -> float:
    """The number whose softplus is `value` > 0."""
    return value + math.log(-math.expm1(-value))


def terms_of(base_rate: float) -> tuple[float, ...]:
    """The means of `TaskKind.start_terms`; empty if they are unknown."""
    return base_rate.terms if isinstance(base_rate, BaseRate) else ()
