"""The kinds of tasks without torch: labels, outputs, metrics, and their names in reports; one class per kind.

What a kind does with tensors (loss, link, initial bias) is in `raymtl/objectives/tasks/`, one file per kind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, Self

import numpy as np

KindName = Literal["binary", "fraction", "multiclass", "ordinal", "count", "watch_time", "ziln", "real", "quantile"]
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
    whole: bool = False
    """Whether labels are integers."""

    @property
    def expected(self) -> str:
        """The rule in words."""
        if self.only:
            return " or ".join(f"{value:g}" for value in self.only)
        what = "whole number" if self.whole else "number"
        if self.low is not None and self.high is not None:
            return f"a {what} from {self.low:g} to {self.high:g}"
        return f"a finite {what}" + (f" ≥ {self.low:g}" if self.low is not None else "")


class BaseRate(float):
    """The mean label of a task in a sample, with what else its head starts from."""

    center: float | None
    """Mean of what the loss is computed on (`TaskKind.trained_on`); None: unknown."""
    spread: float | None
    """Its standard deviation, above 0; None: unknown."""
    terms: tuple[float, ...]
    """Means of the columns of `TaskKind.start_terms`; empty: unknown."""
    weight: float
    """Mean weight of the labels whose weight is above 0."""

    def __new__(
        cls,
        mean: float,
        center: float | None = None,
        spread: float | None = None,
        terms: Sequence[float] = (),
        weight: float = 1.0,
    ) -> Self:
        rate = super().__new__(cls, mean)
        rate.center, rate.spread, rate.terms, rate.weight = center, spread, tuple(terms), weight
        return rate


class TaskOptions(Protocol):
    """What kinds read of a task (`raymtl/config/tasks.py`)."""

    @property
    def kind(self) -> str: ...
    @property
    def classes(self) -> int | list[str | int] | None: ...
    @property
    def class_weights(self) -> list[float] | None: ...
    @property
    def class_count(self) -> int: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def quantiles(self) -> list[float] | None: ...


class TaskKind:
    """One kind of task, described by class attributes and class methods; it is never instantiated."""

    name: ClassVar[KindName]
    transform: ClassVar[str] = "none"
    """The `transform` of the class."""
    summary: ClassVar[str]
    """The labels and the loss in a few words, for the reference of the configuration."""
    labels: ClassVar[LabelRule]
    """The rule of all tasks of the kind; `rule` adds what depends on the task."""
    options: ClassVar[tuple[str, ...]] = ()
    """Fields of `Task` that only some kinds read, and this one does."""
    is_rate: ClassVar[bool] = True
    """Whether the mean label is a rate above 0: days are compared by its ratio, and the head's bias starts from its logarithm."""
    has_base_rate: ClassVar[bool] = True
    """Whether the mean label alone says where the head starts, so that `base_rate` may set it."""
    has_truth: ClassVar[bool] = True
    """Whether a true mean, the column `truth`, says how good a prediction can be."""
    headline: ClassVar[str]
    """The main metric of a task."""
    gated: ClassVar[tuple[str, ...]]
    """Metrics that the daily job compares with those of the previous version, in addition to the calibration."""
    brief: ClassVar[str]
    """The metric in progress lines."""
    own: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that this kind has beside those of its family: the means of the first `TaskObjective.terms`."""
    without: ClassVar[tuple[str, ...]] = ()
    """Metrics of its family that it lacks."""
    loss_label: ClassVar[str] = "loss"
    """The training loss, as the label of an axis."""
    loss_metric: ClassVar[str | None] = None
    """The metric that measures the training loss on evaluation rows."""

    parts_low: ClassVar[float | None] = 0.0
    """Smallest value of the `parts`, which are probabilities unless a kind says otherwise; None: any."""
    ranks: ClassVar[bool] = False
    """Whether a task has one output, a logit whose differences are of the order of 1, and labels ≥ 0: then it can have losses
    that compare rows."""

    @classmethod
    def outputs(cls, task: TaskOptions) -> int:
        """Number of outputs of the model for a task."""
        return 1

    @classmethod
    def parts(cls, task: TaskOptions) -> tuple[str, ...]:
        """What a task predicts beside its main prediction: ends of the names of the columns, `<task>_<part>`."""
        return ()

    @classmethod
    def rule(cls, task: TaskOptions) -> LabelRule:
        """The valid labels of a task."""
        return cls.labels

    @classmethod
    def problems(cls, key: str, task: TaskOptions) -> Iterator[str]:
        """What is wrong with the `options` of a task, whose dotted key is `key`."""
        yield from ()

    @staticmethod
    def trained_on(labels: np.ndarray) -> np.ndarray:
        """What the loss compares the logit with: the labels themselves, unless the kind has a transform."""
        return labels

    @classmethod
    def start_terms(cls, labels: np.ndarray, task: TaskOptions) -> np.ndarray:
        """Columns [N, n] of float64 labels [N] whose means the head starts from, beside the mean and spread of `trained_on`."""
        return np.empty((len(labels), 0))


class Binary(TaskKind):
    """An event that happens or does not; it has a probability, and may be a step of the funnel or a condition."""

    name = "binary"
    summary = "labels 0 or 1, cross entropy"
    labels = LabelRule(low=0, high=1, only=(0, 1))
    options = ("positive", "negative")
    ranks = True
    headline = "auc"
    gated = ("auc", "ne")
    brief = "auc"
    loss_label = "log loss (nats)"
    loss_metric = "logloss"


class Values(TaskKind):
    """Base of the kinds whose labels are quantities, which are evaluated by their errors."""

    headline = "mse"
    gated: ClassVar[tuple[str, ...]] = ("mse",)
    brief = "rmse"


class Fraction(Values):
    """A share of a whole, such as the part of a video that was watched."""

    name = "fraction"
    summary = "labels from 0 to 1, cross entropy"
    labels = LabelRule(low=0, high=1)
    ranks = True
    headline = "logloss"
    gated = ("logloss",)
    own = ("logloss",)
    loss_label = "log loss (nats)"
    loss_metric = "logloss"


class Count(Values):
    """How often something happens."""

    name = "count"
    summary = "labels ≥ 0, Poisson"
    labels = LabelRule(low=0)
    ranks = True
    headline = "poisson_deviance"
    gated = ("poisson_deviance",)
    own = ("poisson_deviance",)
    loss_label = "Poisson loss"


class Real(Values):
    """Any number."""

    name = "real"
    summary = "any finite number, squared error"
    labels = LabelRule()
    is_rate = False
    loss_label = "squared error / variance"


class LogReal(Real):
    """A number ≥ 0 that is trained on log(1 + y)."""

    transform = "log1p"
    labels = LabelRule(low=0)
    ranks = True

    @staticmethod
    def trained_on(labels: np.ndarray) -> np.ndarray:
        return np.log1p(labels)


class Classes(TaskKind):
    """Base of the kinds whose labels are classes without an order."""


def _class_rule(rule: LabelRule, task: TaskOptions) -> LabelRule:
    return replace(rule, high=task.class_count - 1)


def _class_problems(key: str, task: TaskOptions, least: int) -> Iterator[str]:
    """The problems of `classes`."""
    if task.classes is None:
        yield (
            f"{key} is `{task.kind}` but has no `classes`; set {key}.classes to their number (labels 0, 1, …), or to the list of "
            "the label column's values"
        )
    elif task.class_count < least:
        yield f"{key}.classes has {task.class_count}; the kind `{task.kind}` needs {least} or more"
    elif isinstance(task.classes, list):
        words = [str(value) for value in task.classes]
        if twice := next((word for word in words if words.count(word) > 1), None):
            yield f"{key}.classes has `{twice}` {words.count(twice)} times; list it once"


def _one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return (labels[:, None] == np.arange(classes)).astype(np.float64)


class Multiclass(Classes):
    """One of several classes."""

    name = "multiclass"
    summary = "one of several `classes`, softmax cross entropy"
    labels = LabelRule(low=0, whole=True)
    options = ("classes", "class_weights")
    is_rate = False
    has_base_rate = False
    has_truth = False
    headline = "logloss"
    gated = ("logloss",)
    brief = "accuracy"
    own = ("logloss", "accuracy", "top_3_accuracy")
    loss_label = "log loss (nats)"
    loss_metric = "logloss"

    @classmethod
    def outputs(cls, task: TaskOptions) -> int:
        return task.class_count

    @classmethod
    def parts(cls, task: TaskOptions) -> tuple[str, ...]:
        return task.class_names

    @classmethod
    def rule(cls, task: TaskOptions) -> LabelRule:
        return _class_rule(cls.labels, task)

    @classmethod
    def problems(cls, key: str, task: TaskOptions) -> Iterator[str]:
        yield from _class_problems(key, task, 2)
        if task.classes is not None and task.class_weights and len(task.class_weights) != task.class_count:
            yield f"{key}.class_weights has {len(task.class_weights)} numbers for {task.class_count} classes; list one for each"

    @classmethod
    def start_terms(cls, labels: np.ndarray, task: TaskOptions) -> np.ndarray:
        return _one_hot(labels, task.class_count)


class Ordinal(Values):
    """One of several levels with an order, such as stars."""

    name = "ordinal"
    summary = "one of several ordered levels, listed as `classes`; cumulative logits"
    labels = LabelRule(low=0, whole=True)
    options = ("classes",)
    is_rate = False
    has_base_rate = False
    headline = "logloss"
    gated = ("logloss",)
    brief = "mae"
    own = ("logloss", "accuracy")
    without = ("nmae", "mape", "smape", "gini", "decile_error")
    loss_label = "log loss (nats)"
    loss_metric = "logloss"

    @classmethod
    def outputs(cls, task: TaskOptions) -> int:
        return task.class_count - 1

    @classmethod
    def parts(cls, task: TaskOptions) -> tuple[str, ...]:
        return task.class_names

    @classmethod
    def rule(cls, task: TaskOptions) -> LabelRule:
        return _class_rule(cls.labels, task)

    @classmethod
    def problems(cls, key: str, task: TaskOptions) -> Iterator[str]:
        yield from _class_problems(key, task, 3)

    @classmethod
    def start_terms(cls, labels: np.ndarray, task: TaskOptions) -> np.ndarray:
        return _one_hot(labels, task.class_count)


class WatchTime(Values):
    """A time or an amount ≥ 0 that is often 0, learned as odds."""

    name = "watch_time"
    summary = "labels ≥ 0, weighted logistic"
    labels = LabelRule(low=0)
    ranks = True
    headline = "geometric_deviance"
    gated = ("geometric_deviance", "concordance")
    own = ("geometric_deviance",)
    loss_label = "weighted logistic loss"


class Ziln(Values):
    """An amount that is mostly 0, and else spans decades, such as spend."""

    name = "ziln"
    summary = "labels ≥ 0, mostly 0: zero-inflated log-normal"
    labels = LabelRule(low=0)
    has_base_rate = False
    headline = "ziln_loss"
    gated = ("gini",)
    brief = "gini"
    own = ("ziln_loss",)
    loss_label = "ZILN loss (nats)"
    loss_metric = "ziln_loss"

    @classmethod
    def outputs(cls, task: TaskOptions) -> int:
        return 3

    @classmethod
    def parts(cls, task: TaskOptions) -> tuple[str, ...]:
        return ("probability",)

    @classmethod
    def start_terms(cls, labels: np.ndarray, task: TaskOptions) -> np.ndarray:
        """Whether the label is above 0, and its logarithm there and the square of that."""
        positive = labels > 0
        log = np.log(labels, where=positive, out=np.zeros_like(labels))
        return np.column_stack((positive, log, log**2)).astype(np.float64)


class Quantile(Values):
    """Any number, of which quantiles are predicted: what it is below with given probabilities."""

    name = "quantile"
    summary = "any finite number, pinball loss of `quantiles` that never cross"
    labels = LabelRule()
    options = ("quantiles",)
    is_rate = False
    has_base_rate = False
    has_truth = False
    headline = "pinball"
    gated = ("pinball",)
    brief = "pinball"
    own = ("pinball", "coverage")
    without = ("mse", "rmse", "calibration", "gini", "decile_error")
    loss_label = "pinball loss / standard deviation"
    parts_low = None

    @classmethod
    def outputs(cls, task: TaskOptions) -> int:
        return len(task.quantiles or [])

    @classmethod
    def parts(cls, task: TaskOptions) -> tuple[str, ...]:
        return tuple(f"q{100 * level:g}" for level in task.quantiles or [])

    @classmethod
    def problems(cls, key: str, task: TaskOptions) -> Iterator[str]:
        levels = task.quantiles
        if not levels:
            yield f"{key} is `quantile` but has no `quantiles`; set {key}.quantiles, for example to [0.1, 0.5, 0.9]"
        elif levels != sorted(set(levels)):
            yield f"{key}.quantiles is {levels}; list each once, in ascending order"


KINDS: tuple[type[TaskKind], ...] = (
    Binary,
    Fraction,
    Multiclass,
    Ordinal,
    Count,
    WatchTime,
    Ziln,
    Real,
    LogReal,
    Quantile,
)
"""All kinds, each followed by its transforms."""
OPTIONS: tuple[str, ...] = tuple(dict.fromkeys(option for kind in KINDS for option in kind.options))
"""The fields of `Task` that only some kinds read."""

_FOUND: dict[tuple[str, str], type[TaskKind]] = {(kind.name, kind.transform): kind for kind in KINDS}
KIND_SUMMARY = " ".join(f"`{kind.name}`: {kind.summary}." for kind in KINDS if kind.transform == "none")
"""The description of `tasks.<name>.kind`."""


def find_kind(name: str | None, transform: str = "none") -> type[TaskKind]:
    """The class of a kind; without the transform if the kind does not have it.

    Results of other raymtl versions may lack the name (then `binary`), or have an unknown one (then `Values`).
    """
    name = name or "binary"
    return _FOUND.get((name, transform)) or _FOUND.get((name, "none"), Values)
