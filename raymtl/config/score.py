"""The score that ranks: formulas over the model's outputs, what a session is worth, and the randomised slice of the logs."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from raymtl.config.base import ExpectedText, Section, did_you_mean, not_a_task, quoted
from raymtl.config.roles import Role
from raymtl.config.tasks import Task

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
    """Boolean column that is true where the row was shown; labels of other rows have no effect."""


class Score(Section):
    """Formulas that turn the outputs of a row into the number that it is ranked by."""

    formulas: Annotated[dict[FormulaName, Formula], Field(min_length=1)]
    """The formulas by name. `raymtl score` and the exported programs give a column `score_<name>` for each."""
    gain: Annotated[dict[str, float], Role.SERVING] = {}
    """What a label of each task is worth: a row gains Σ weight · label (1 for a click, say, 20 for a purchase, or 1 for a task
    whose label is the revenue). Evaluations then measure every formula by the gain at the top of each list: the rows of a
    request, or without requests of a group. Empty: formulas are applied and not measured."""
    at: Annotated[PositiveInt, Role.SERVING] = 10
    """Rows of a list that a user sees: the k of NDCG@k and value@k."""
    explored: Explored | None = None
    """Columns of the randomised slice; null: the logs have none."""


def score_problems(
    score: Score, tasks: Mapping[str, Task], has_lists: bool, derives: bool, columns: Collection[str]
) -> Iterator[str]:
    """The problems of `score`.

    Args:
        score: the section.
        tasks: the tasks that are trained.
        has_lists: whether the logs have requests or groups.
        derives: whether the model may have outputs beside those of the tasks' names; such names are checked with the model.
        columns: columns that are features; a propensity must not be one.
    """
    for name, formula in score.formulas.items():
        for output in dict.fromkeys(formula.outputs):
            if output not in tasks and not derives:
                yield f"score.formulas.{name} names `{output}`, {not_a_task(output, tasks)}"
        if isinstance(formula, PowerProduct):
            for output in formula.powers:
                low = tasks[output].traits.labels.low if output in tasks else 0.0
                if low is None or low < 0:
                    yield (
                        f"score.formulas.{name} raises `{output}` to a power, but a `{tasks[output].kind}` task may predict "
                        f"numbers below 0; use a formula of type `sum`, or set tasks.{output}.transform to `log1p`"
                    )
        coefficients = getattr(formula, "weights", None) or getattr(formula, "powers", None)
        if coefficients and not any(coefficients.values()):
            yield f"score.formulas.{name} has only zeros, so all rows have one score; give an output a number other than 0"
    for task in score.gain:
        if task not in tasks:
            yield f"score.gain names `{task}`, {not_a_task(task, tasks)}"
    if score.gain and not any(score.gain.values()):
        yield "score.gain has only zeros; give a task a number other than 0"
    if score.gain and not has_lists:
        yield (
            "score.gain is measured in lists, the rows of a request or of a group; set data.request, data.impressions or "
            "data.group"
        )
    if score.explored is not None and not score.gain:
        yield "score.explored estimates the gain of a formula, but score.gain is empty; say what each task's label is worth"
    if score.explored is not None and score.explored.propensity in columns:
        yield (
            f"score.explored.propensity is `{score.explored.propensity}`, a column of a feature; the model must not read it: "
            "remove the feature"
        )


def unknown_output(formula: str, output: str, outputs: Collection[str]) -> str:
    """The problem of a formula that names no output of the model."""
    return (
        f"score.formulas.{formula} names `{output}`, which is not one of the outputs {quoted(outputs)}"
        f"{did_you_mean(output, outputs)}; name one of them"
    )
