"""The layout of the model's outputs: which columns of its logits, and of its predictions, belong to which task.

Shapes: B rows, T tasks, D derived outputs, X extra outputs, O = T + D + X outputs, k outputs of one task, P predictions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.objectives.tasks import objective_of


class Part(NamedTuple):
    """Where a column of predictions comes from."""

    task: str
    """The task; of a derived output the child."""
    part: str | None = None
    """One of `TaskKind.parts`; None: the main prediction."""
    given: str | None = None
    """The condition of a derived output."""


class Outputs:
    """Columns of the logits [B, O], in fp32: the main output of every task, the coupler's derived outputs, then the extra outputs
    of the tasks whose kind has several, in the order of the tasks.

    Couplers, order losses and funnels read main outputs alone, so a task with extra ones changes nothing for the others. The
    predictions [B, P] have the main prediction of every task, those of the derived outputs, and then the parts of the tasks.
    """

    def __init__(self, tasks: Mapping[str, Task], derived: Mapping[str, tuple[str, str]] | None = None):
        """`derived` are outputs P(child | given) by name, each (child, given), both tasks of one output.

        Raises ConfigError if a derived output has the name of a part of a task.
        """
        self.tasks = dict(tasks)
        self.derived = dict(derived or {})
        for name, task in self.tasks.items():
            for part in task.traits.parts(task):
                if (column := f"{name}_{part}") in self.derived:
                    raise ConfigError(
                        f"tasks.{name} predicts `{column}`, which is also the name of an output of model.coupler; rename the task"
                    )
        children = [self.tasks[child] for child, _ in self.derived.values()]
        self.objectives = [objective_of(task) for task in (*self.tasks.values(), *children)]
        """Of every main and derived output."""
        self._extras: list[slice] = []
        start = len(self.objectives)
        for objective in self.objectives:
            self._extras.append(slice(start, start + objective.outputs - 1))
            start += objective.outputs - 1
        self.width = start
        """O."""

    @property
    def several(self) -> list[int]:
        """The main columns of the tasks with more than one output."""
        return [column for column, objective in enumerate(self.objectives) if objective.outputs > 1]

    def extras(self, column: int) -> slice:
        """The columns of the extra outputs whose main output is `column`."""
        return self._extras[column]

    def of(self, logits: Tensor, column: int) -> Tensor:
        """The outputs that belong to the main or derived output `column`: [B], or [B, k] if the kind has several."""
        main = logits[:, column]
        if self.objectives[column].outputs == 1:
            return main
        return torch.cat((main.unsqueeze(1), logits[:, self._extras[column]]), 1)

    @property
    def parts(self) -> dict[str, Part]:
        """Every column of predictions by its name: a task's own, and `<task>_<part>` for what it predicts beside it."""
        named = {name: Part(name) for name in self.tasks}
        named |= {name: Part(child, given=given) for name, (child, given) in self.derived.items()}
        return named | {
            f"{name}_{part}": Part(name, part) for name, task in self.tasks.items() for part in task.traits.parts(task)
        }

    @property
    def names(self) -> list[str]:
        """Names of the columns of predictions."""
        return list(self.parts)

    def predictions(self, logits: Tensor) -> Tensor:
        """Predictions [B, P] of the logits [B, O], in 32-bit floats or wider."""
        if logits.shape[1] != self.width:
            raise ValueError(f"{logits.shape[1]} columns for {self.width} outputs")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        every = [objective.predictions(self.of(logits, c)) for c, objective in enumerate(self.objectives)]
        parts = [found[:, 1:] for found in every if found.shape[1] > 1]
        return torch.cat([*(found[:, :1] for found in every), *parts], 1)


def with_derived(
    labels: Tensor, observed: Tensor, children: Tensor | Sequence[int], givens: Tensor | Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Labels and whether they count [B, T + D]: of a derived output those of the child, on rows where `given` is observed and 1.

    `children` and `givens` are the columns of the two tasks of each derived output.
    """
    seen = observed[:, children] & observed[:, givens] & (labels[:, givens] > 0)
    return torch.cat((labels, labels[:, children]), 1), torch.cat((observed, seen), 1)
