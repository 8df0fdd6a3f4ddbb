"""From logits to predictions in the label's own unit: the one place that says what a head's output means.

Shapes: B rows, T tasks.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from raymtl.config.tasks import Task

MAX_LOG_COUNT = 15.0
"""Largest log of a predicted count, e^15 ≈ 3.3 million: beyond it exp would let one row rule the loss."""
MAX_LOG_REAL = 80.0
"""Largest log of a `log1p` prediction; exp of 88.8 no longer fits a 32-bit float."""


def predict(logit: Tensor, task: Task) -> Tensor:
    """Turn the logits of one task, of any shape, into predictions in the label's unit, in 32-bit floats or wider.

    `binary`: the probability σ(a). `count`: the mean exp(min(a, 15)). `real`: a itself, or exp(min(a, 80)) − 1 where the task
    trains on log(1+y).
    """
    logit = logit if logit.dtype == torch.float64 else logit.float()
    if task.kind == "binary":
        return torch.sigmoid(logit)
    if task.kind == "count":
        return torch.exp(logit.clamp(max=MAX_LOG_COUNT))
    if task.transform == "log1p":
        return torch.expm1(logit.clamp(max=MAX_LOG_REAL))
    return logit


def predictions(logits: Tensor, tasks: Iterable[Task]) -> Tensor:
    """Turn logits [B, T] into predictions [B, T], each column by its task (see `predict`); `tasks` in column order."""
    return torch.stack([predict(a, task) for a, task in zip(logits.unbind(dim=1), tasks, strict=True)], dim=1)
