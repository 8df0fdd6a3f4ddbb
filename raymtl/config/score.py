"""The score that ranks: formulas over the model's outputs, what a session is worth, and the randomised slice of the logs."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from raymtl.config.base import ExpectedText, Section, did_you_mean, not_a_task, quoted
from raymtl.config.data import Data
from raymtl.config.roles import Role
from raymtl.config.task_kinds import Classes
from raymtl.config.tasks import Task
from raymtl.config.wiring import Prediction

MOST_BUCKETS = 64
"""A bucket is a power of two of the score, and 32-bit floats hold 2^63 times a number below 2."""

Coefficients = Annotated[dict[str, float], Field(min_length=1)]


class WeightedSum(Section):
    """Σ weight · output."""

    type: Annotated[Literal["sum"], Role.SERVING]
    """Weighted sum."""
    weights: Annotated[Coefficients, Role.SERVING]
    """Weight of each output, by the name of a task or of an output of the coupler, such as `cvr`; below 0 for what a user
    dislikes."""

    @property
    def outputs(self) -> list[str]:
        """The outputs that it reads."""
        return list(self.weights)


class PowerProduct(Section):
    """Π output ^ power."""

    type: Annotated[Literal["product"], Role.SERVING]
    """Product of powers."""
    powers: Annotated[Coefficients, Role.SERVING]
    """Exponent of each output; below 0 for what a user dislikes. An output below 1e-9 counts as 1e-9."""

    @property
    def outputs(self) -> list[str]:
        """The outputs that it reads."""
        return list(self.powers)


class Buckets(Section):
    """The bucket of one output first, and within a bucket another output."""

    type: Annotated[Literal["buckets"], Role.SERVING]
    """Buckets of one output, then another output."""
    by: Annotated[str, Role.SERVING]
    """The output that is cut into buckets; a higher bucket ranks above all lower ones."""
    edges: Annotated[list[float], Field(min_length=1, max_length=MOST_BUCKETS - 1), Role.SERVING]
    """Where a bucket begins, in ascending order; n edges make n + 1 buckets, and a value on an edge lies above it."""
    then: Annotated[str, Role.SERVING]
    """The output that orders the rows of a bucket."""

    @property
    def outputs(self) -> list[str]:
        """The outputs that it reads."""
        return [self.by, self.then]

    @model_validator(mode="after")
    def _ascending(self) -> "Buckets":
        if self.edges != sorted({*self.edges}):
            raise ValueError(f"edges is {self.edges}; list every edge once, in ascending order")
        return self


Formula = Annotated[WeightedSum | PowerProduct | Buckets, Field(discriminator="type")]
FormulaName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"),
    ExpectedText("a name of letters, digits and `_` that does not begin with a digit, at most 100 characters"),
]


class Explored(Section):
    """The randomised slice of the logs, by which `raymtl tune score` estimates what a formula would have earned."""

    propensity: Annotated[str, Role.SERVING]
    """Column with the probability that the policy which wrote the logs shows the row in its list, in (0, 1]; null outside the
    slice. A list of the slice has a row for every candidate, shown or not."""
    shown: Annotated[str, Role.SERVING]
    """Boolean column that is true where the row was shown. Labels of other rows must be null: training and evaluations do not
    read this column, so they take every label for that of a row that was shown."""


class Score(Section):
    """Formulas that turn the outputs of a row into the number that it is ranked by."""

    formulas: Annotated[dict[FormulaName, Formula], Field(min_length=1)]
    """The formulas by name. `raymtl score` and the exported programs give a column `score_<name>` for each."""
    gain: Annotated[dict[str, float], Role.SERVING] = {}
    """What a label of each task is worth: a row gains Σ weight · label (1 for a click, say, 20 for a purchase, or 1 for a task
    whose label is the revenue). Evaluations then measure every formula by the gain at the top of each list: the rows of a
    request, or without requests of a group. Empty: formulas are applied and not measured."""
    at: Annotated[PositiveInt, Role.SERVING] = 10
    """Rows of a list that a user sees: the k of NDCG@k and value@k, so another number needs a `gain`."""
    explored: Explored | None = None
    """Columns of the randomised slice; null: the logs have none."""


def score_problems(
    score: Score,
    tasks: Mapping[str, Task],
    outputs: Mapping[str, Prediction],
    is_complete: bool,
    data: Data,
    columns: Collection[str],
) -> Iterator[str]:
    """The problems of `score`.

    Args:
        score: the section.
        tasks: the tasks that are trained.
        outputs: what the model predicts.
        is_complete: whether `outputs` has all; else other names are checked with the model.
        data: the logs.
        columns: columns that are features; a propensity must not be one.
    """
    for name, formula in score.formulas.items():
        for output in dict.fromkeys(formula.outputs):
            yield from _output_problems(name, formula, output, tasks, outputs, is_complete)
        coefficients = getattr(formula, "weights", None) or getattr(formula, "powers", None)
        if coefficients and not any(coefficients.values()):
            yield f"score.formulas.{name} has only zeros, so all rows have one score; give an output a number other than 0"
    yield from _gain_problems(score, tasks, data)
    if score.explored is not None and not score.gain:
        yield "score.explored estimates the gain of a formula, but score.gain is empty; say what each task's label is worth"
    if score.explored is not None and score.explored.propensity in columns:
        yield (
            f"score.explored.propensity is `{score.explored.propensity}`, a column of a feature; the model must not read it: "
            "remove the feature"
        )


def _output_problems(
    name: str,
    formula: Formula,
    output: str,
    tasks: Mapping[str, Task],
    outputs: Mapping[str, Prediction],
    is_complete: bool,
) -> Iterator[str]:
    """The problems of one output in the formula `name`."""
    if output not in outputs:
        if is_complete:
            yield unknown_output(name, output, outputs)
        return
    task, low = outputs[output]
    kind = tasks[task].kind
    if output in tasks and issubclass(tasks[output].traits, Classes):
        parts = [f"{output}_{part}" for part in tasks[output].traits.parts(tasks[output])]
        yield (
            f"score.formulas.{name} names `{output}`, whose prediction is the number of a class, which is no amount; name the "
            f"probability of a class: {quoted(parts)}"
        )
    elif isinstance(formula, PowerProduct) and (low is None or low < 0):
        remedy = f", or set tasks.{task}.transform to `log1p`" if kind == "real" else ""
        yield (
            f"score.formulas.{name} raises `{output}` to a power, but a `{kind}` task may predict numbers below 0; use a formula "
            f"of type `sum`{remedy}"
        )


def _gain_problems(score: Score, tasks: Mapping[str, Task], data: Data) -> Iterator[str]:
    """The problems of `gain` and `at`."""
    for name, weight in score.gain.items():
        if name not in tasks:
            yield f"score.gain names `{name}`, {not_a_task(name, tasks)}"
        elif issubclass(tasks[name].traits, Classes):
            yield (
                f"score.gain names `{name}`, whose label is the number of a class, which is no amount; add a `binary` task with "
                f"`label: {tasks[name].label_column(name)}` whose `positive` lists the class that is worth something, and name it"
            )
        elif weight and (given := _untrained_condition(name, tasks)) is not None:
            yield (
                f"score.gain names `{name}`, which counts 0 where its condition `{given}` did not happen, but tasks_subset "
                f"leaves `{given}` out; add it, or remove `{name}` from score.gain"
            )
    if score.gain and not any(score.gain.values()):
        yield "score.gain has only zeros; give a task a number other than 0"
    if not score.gain and score.at != Score.model_fields["at"].default:
        yield (
            f"score.at is {score.at}, but score.gain is empty, so no list is measured; say what each task's label is worth, or "
            "remove `at`"
        )
    if score.gain and not data.by_request and data.group is None:
        yield (
            "score.gain is measured in lists, the rows of a request or of a group; set data.request, data.impressions or "
            "data.group"
        )
    elif score.gain and data.sampling is not None:
        yield (
            "score.gain is measured in complete lists, but data.sampling says that rows were dropped from the logs; remove "
            "score.gain, or measure on complete logs without data.sampling"
        )


def _untrained_condition(name: str, tasks: Mapping[str, Task]) -> str | None:
    """The first condition of a task, of its condition, and so on, that is not among `tasks`; None: all are."""
    given = tasks[name].given
    while given is not None and given in tasks:
        given = tasks[given].given
    return given


def unknown_output(formula: str, output: str, outputs: Collection[str]) -> str:
    """The problem of a formula that names no output of the model."""
    return (
        f"score.formulas.{formula} names `{output}`, which is not one of the outputs {quoted(outputs)}"
        f"{did_you_mean(output, outputs)}; name one of them"
    )
