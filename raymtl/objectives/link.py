"""From logits to predictions in the label's own unit.

Shapes: B rows, T tasks.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from raymtl.config.tasks import Task
from raymtl.objectives.tasks import objective_of


def predict(logit: Tensor, task: Task) -> Tensor:
    """Turn the logits of one task, of any shape, into predictions in the label's unit, in 32-bit floats or wider."""
    return objective_of(task).predict(logit if logit.dtype == torch.float64 else logit.float())


def predictions(logits: Tensor, tasks: Iterable[Task]) -> Tensor:
    """Turn logits [B, T] into predictions [B, T], each column by its task (see `predict`); `tasks` in column order."""
    return torch.stack([predict(a, task) for a, task in zip(logits.unbind(dim=1), tasks, strict=True)], dim=1)
