"""What the model predicts: one entry per task."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from raymtl.config.base import Section
from raymtl.config.losses import TaskLossTerms
from raymtl.config.roles import NotSearched, Role
from raymtl.config.task_kinds import KIND_SUMMARY, Binary, KindName, LabelRule, TaskKind, find_kind

_LABELS = Role.LEARNING | Role.READ
_MEASURED = NotSearched("it changes what is measured")

MOST_CLASSES = 256
"""Classes of a task at most: an evaluation counts each of them in each row."""


def _listed(value: object) -> object:
    """One value as a list; a boolean of YAML, which stands for no text of its own, is refused."""
    values = [value] if isinstance(value, str | int) else value
    for item in values if isinstance(values, list | tuple) else ():
        if isinstance(item, bool):
            raise ValueError(
                f"{str(item).lower()} is a boolean; write text in quotes, as the column spells it, and 1 or 0 for a column of "
                "booleans"
            )
    return values


LabelValues = Annotated[list[str | int], Field(min_length=1), BeforeValidator(_listed)]
"""A value of a label column, or several of the same meaning."""


def _not_boolean(value: object) -> object:
    return _listed(value) if isinstance(value, list | tuple) else value


Classes = Annotated[
    Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    | Annotated[list[str | int], Field(min_length=1, max_length=MOST_CLASSES)],
    BeforeValidator(_not_boolean),
]
"""A number of classes, or the values of a label column in the order of the classes."""


class Task(Section):
    """One prediction target. It is defined on all impressions unless `given` is set. `parent` only orders the funnel; it is not a
    condition."""

    kind: Annotated[KindName, Field(description=KIND_SUMMARY), _LABELS, _MEASURED] = "binary"
    label: Annotated[str | None, _LABELS, _MEASURED] = None
    """Label column; null: the task's own name. Null (and NaN) means not observed."""
    observed: Annotated[str | None, _LABELS, _MEASURED] = None
    """Boolean column that is true where the label counts. Null: the label counts wherever it is not null."""
    positive: Annotated[LabelValues | None, _LABELS, _MEASURED] = None
    """Value of the label column, a text or an integer, or a list of values, that counts as 1, such as `yes` or
    `[clicked, bought]`; needs `negative`. Null: the column holds 0 and 1. Binary tasks only."""
    negative: Annotated[LabelValues | None, _LABELS, _MEASURED] = None
    """Value or values that count as 0. A value that neither key lists is an error; null is not observed."""
    classes: Annotated[Classes | None, _LABELS | Role.STRUCTURE, _MEASURED] = None
    """The classes of a `multiclass` or `ordinal` task: their number, for the labels 0, 1, …, or the values of the label column,
    texts or integers; those of an ordinal task from the lowest to the highest. A value that is not listed is an error."""
    class_weights: Annotated[list[PositiveFloat] | None, Role.LEARNING, NotSearched("it is a list")] = None
    """Weights that multiply the loss of the rows of each class, in the order of `classes`; null: all 1. With other weights the
    predicted probabilities are no longer those of the logs. `multiclass` tasks only."""
    quantiles: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]] | None, Role.LEARNING | Role.STRUCTURE, _MEASURED
    ] = None
    """The quantiles that a `quantile` task predicts, ascending, such as [0.1, 0.5, 0.9]."""
    parent: Annotated[str | None, _LABELS, _MEASURED] = None
    """The task one step up the funnel (a click comes before a buy); binary tasks only."""
    given: Annotated[str | None, _LABELS, _MEASURED] = None
    """Makes the prediction conditional: only rows where this binary task is observed and 1 count (a conversion given the click).
    Null: all impressions."""
    weight: Annotated[NonNegativeFloat, Role.LEARNING | Role.COUPLING] = 1.0
    """Weight of the task's loss in the total."""
    losses: TaskLossTerms = TaskLossTerms()
    """The losses whose sum is the task's loss."""
    weight_column: Annotated[str | None, _LABELS, _MEASURED] = None
    """Column with the weight of a row for this task alone, ≥ 0, a factor beside `data.weight`; a null in it counts as 0. Null:
    1."""
    transform: Annotated[Literal["none", "log1p"], _LABELS, _MEASURED] = "none"
    """`log1p` trains a `real` task on log(1+y), for labels ≥ 0 that span decades; a factor, measured in training, makes the
    predictions sum to the labels. Metrics are in the unit of the label."""
    base_rate: Annotated[PositiveFloat | None, Role.LEARNING] = None
    """Mean label that the head's bias starts from; null: measured on a sample of the training days."""
    normalizer_floor: Annotated[NonNegativeFloat, Role.LEARNING] = 1.0
    """Least denominator of the task's mean loss over a batch, which is the number of its labels times their mean weight in the
    logs (without weights: 1); `docs/losses.md`."""
    delay_days: Annotated[NonNegativeInt, _LABELS, _MEASURED] = 0
    """Only for `raymtl daily`: days until a day's labels of this task are final. Before that the job trains on neither its
    negatives nor its positives. After that it reads that day's partition again and trains on this task only."""
    truth: Annotated[str | None, _LABELS, _MEASURED] = None
    """Column with the true probability or mean, as `raymtl synth` writes it, used to compute the best achievable metric. It is
    never trained on."""

    def label_column(self, name: str) -> str:
        """The label column of the task with this name."""
        return self.label or name

    def reads_label_of(self, name: str, other: "Task", other_name: str) -> bool:
        """Whether the task with this name has the label column of another one, and reads it in the same way."""
        mine, theirs = ((task.label_column(own), task.label_codes) for task, own in ((self, name), (other, other_name)))
        return mine == theirs

    @property
    def class_count(self) -> int:
        """Number of `classes`; 0 without any."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in words: the values of the label column."""
        classes = range(self.classes) if isinstance(self.classes, int) else self.classes or ()
        return tuple(str(value) for value in classes)

    @property
    def label_rule(self) -> LabelRule:
        """The valid labels."""
        return self.traits.rule(self)

    @property
    def label_codes(self) -> list[tuple[str | int, float]] | None:
        """The listed values of the label column, each with the label that it stands for; None: the column holds labels."""
        if isinstance(self.classes, list):
            return [(value, float(label)) for label, value in enumerate(self.classes)]
        if self.positive is None or self.negative is None:
            return None
        return [(value, label) for label, values in ((1.0, self.positive), (0.0, self.negative)) for value in values]

    @property
    def traits(self) -> type[TaskKind]:
        """The properties of all tasks of this kind and transform."""
        return find_kind(self.kind, self.transform)

    @property
    def is_event(self) -> bool:
        """Whether it has a probability; only such a task can be a step of the funnel or a condition."""
        return issubclass(self.traits, Binary)
