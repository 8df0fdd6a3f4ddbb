"""Logs from which negatives were dropped at random, and the probability with which the others were kept."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated

from pydantic import Field, model_validator

from raymtl.config.base import Section, not_a_task
from raymtl.config.roles import Role
from raymtl.config.tasks import Task


class Sampling(Section):
    """The probability with which a row was kept when the logs were written, set by `rate` or by `column`. A row counts for all
    tasks with the weight 1 / probability, times `data.weight`: in training, metrics and base rates. So predictions are on the
    scale of the complete logs."""

    task: Annotated[str | None, Role.LEARNING | Role.READ] = None
    """Binary task whose negatives, the rows with a 0 in its label column, were sampled; all other rows were kept. Null: `column`
    holds the probability of every row."""
    rate: Annotated[Annotated[float, Field(gt=0, le=1)] | None, Role.LEARNING | Role.READ] = None
    """Probability with which a negative was kept, in the training and in the evaluation days. Null: `column` has it."""
    column: Annotated[str | None, Role.LEARNING | Role.READ] = None
    """Column with the probability, above 0 and at most 1; with `task` only that of negatives is read. No feature
    may read it."""

    @model_validator(mode="after")
    def _complete(self) -> "Sampling":
        if (self.rate is None) == (self.column is None):
            raise ValueError(
                "has neither or both of `rate` and `column`; set one: the rate of all negatives, or the column with that of each "
                "row"
            )
        if self.rate is not None and self.task is None:
            raise ValueError("has a `rate` but no `task`; set `task` to the binary task whose negatives were sampled")
        return self


def sampling_problems(sampling: Sampling | None, tasks: Mapping[str, Task]) -> Iterator[str]:
    """The problems of `data.sampling` with the tasks."""
    if sampling is None or sampling.task is None:
        return
    if sampling.task not in tasks:
        yield f"data.sampling.task is `{sampling.task}`, {not_a_task(sampling.task, tasks)}"
    elif not tasks[sampling.task].is_event:
        yield (
            f"data.sampling.task is `{sampling.task}`, a `{tasks[sampling.task].kind}` task; only a `binary` one has negatives: "
            "set it to one, or set data.sampling.column to the probability of every row and leave `task` out"
        )


def leak_problems(sampling: Sampling | None, columns: Collection[str]) -> Iterator[str]:
    """The problem of a probability that the model reads; `columns` are those of the features."""
    if sampling is not None and sampling.column in columns:
        yield (
            f"data.sampling.column is `{sampling.column}`, a column of a feature, but a probability below 1 can tell that the "
            "row is a negative; remove the feature"
        )
