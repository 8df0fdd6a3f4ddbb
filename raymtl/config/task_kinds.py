"""The kinds of tasks without torch: labels, metrics, and their names in reports; one class per kind.

What a kind does with tensors (loss, link, initial bias) is in `raymtl/objectives/tasks/`, one file per kind.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

KindName = Literal["binary", "count", "real"]
"""The values of `tasks.<name>.kind`; `KINDS` has a class for each."""


@dataclass(frozen=True)
class LabelRule:
    """The valid labels; the limits are included, and NaN (not observed) is always valid."""

    low: float | None = None
    """Smallest label; None: any."""
    high: float | None = None
    """Largest label; None: any finite one."""
    only: tuple[float, ...] = ()
    """The only valid labels, if there are few."""

    @property
    def expected(self) -> str:
        """The rule in words."""
        if self.only:
            return " or ".join(f"{value:g}" for value in self.only)
        if self.low is not None and self.high is not None:
            return f"a number from {self.low:g} to {self.high:g}"
        return "a finite number" + (f" ≥ {self.low:g}" if self.low is not None else "")


class BaseRate(float):
    """The mean label of a task in a sample, with the scale of what its loss is computed on (`TaskKind.trained_on`)."""

    center: float | None
    """Mean of what the loss is computed on; None: unknown."""
    spread: float | None
    """Its standard deviation, above 0; None: unknown."""

    def __new__(cls, mean: float, center: float | None = None, spread: float | None = None) -> Self:
        rate = super().__new__(cls, mean)
        rate.center, rate.spread = center, spread
        return rate


class TaskKind:
    """One kind of task, described by class attributes; it is never instantiated."""

    name: ClassVar[KindName]
    transform: ClassVar[str] = "none"
    """The `transform` of the class."""
    summary: ClassVar[str]
    """The labels and the loss in a few words, for the reference of the configuration."""
    labels: ClassVar[LabelRule]
    is_rate: ClassVar[bool] = True
    """Whether the mean label is a rate above 0: days are compared by its ratio, and the head's bias starts from its logarithm."""
    headline: ClassVar[str]
    """The main metric of a task."""
    gated: ClassVar[tuple[str, ...]]
    """Metrics that the daily job compares with those of the previous version, in addition to the calibration."""
    brief: ClassVar[str]
    """The metric in progress lines."""
    deviance: ClassVar[str | None] = None
    """Name of the metric that only this kind has: the mean of `TaskObjective.deviance`."""
    loss_label: ClassVar[str] = "loss"
    """The training loss, as the label of an axis."""
    loss_metric: ClassVar[str | None] = None
    """The metric that measures the training loss on evaluation rows."""

    ranks: ClassVar[bool] = True
    """Whether rows are ranked by one logit whose differences are of the order of 1, and labels are ≥ 0: such a task can have
    losses that compare rows."""

    @staticmethod
    def trained_on(labels: np.ndarray) -> np.ndarray:
        """What the loss compares the logit with: the labels themselves, unless the kind has a transform."""
        return labels


class Binary(TaskKind):
    """An event that happens or does not; it has a probability, and may be a step of the funnel or a condition."""

    name = "binary"
    summary = "labels 0 or 1, cross entropy"
    labels = LabelRule(low=0, high=1, only=(0, 1))
    headline = "auc"
    gated = ("auc", "ne")
    brief = "auc"
    loss_label = "log loss (nats)"
    loss_metric = "logloss"


class Values(TaskKind):
    """Base of the kinds whose labels are quantities, which are evaluated by their errors."""

    headline = "mse"
    gated = ("mse",)
    brief = "rmse"


class Count(Values):
    """How often something happens."""

    name = "count"
    summary = "labels ≥ 0, Poisson"
    labels = LabelRule(low=0)
    headline = "poisson_deviance"
    gated = ("poisson_deviance",)
    deviance = "poisson_deviance"
    loss_label = "Poisson loss"


class Real(Values):
    """Any number."""

    name = "real"
    summary = "any finite number, squared error"
    labels = LabelRule()
    is_rate = False
    ranks = False
    loss_label = "squared error / variance"


class LogReal(Real):
    """A number ≥ 0 that is trained on log(1 + y)."""

    transform = "log1p"
    labels = LabelRule(low=0)
    ranks = True

    @staticmethod
    def trained_on(labels: np.ndarray) -> np.ndarray:
        return np.log1p(labels)


KINDS: tuple[type[TaskKind], ...] = (Binary, Count, Real, LogReal)
"""All kinds, each followed by its transforms."""

_FOUND: dict[tuple[str, str], type[TaskKind]] = {(kind.name, kind.transform): kind for kind in KINDS}
KIND_SUMMARY = " ".join(f"`{kind.name}`: {kind.summary}." for kind in KINDS if kind.transform == "none")
"""The description of `tasks.<name>.kind`."""


def find_kind(name: str | None, transform: str = "none") -> type[TaskKind]:
    """The class of a kind; without the transform if the kind does not have it.

    Results of other raymtl versions may lack the name (then `binary`), or have an unknown one (then `Values`).
    """
    name = name or "binary"
    return _FOUND.get((name, transform)) or _FOUND.get((name, "none"), Values)
