"""The loss that a task starts from: what its best constant prediction costs."""

import math

import torch
from torch import Tensor, nn

from raymtl.config.tasks import Task
from raymtl.objectives.balance.base import Facts

MIN_RATE = 1e-6
"""Least base rate and least distance to 1, as for the heads' biases: no task may start from a loss of zero."""
LEAST_LOSS = 1e-8
"""What divides a loss is at least this."""
START_STEPS = 100
"""Losses that a start loss is the mean of: enough to even out the batches, too few for the model to have learned much."""


def entropy(rate: float) -> float:
    """Cross entropy in nats of labels with this mean, if every prediction is the mean."""
    p = min(max(rate, MIN_RATE), 1 - MIN_RATE)
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


def start_loss(name: str, task: Task, facts: Facts) -> float | None:
    """The start loss where the base rate alone tells it: for binary tasks."""
    rate = facts.base_rates.get(name, task.base_rate)
    return entropy(rate) if task.kind == "binary" and rate is not None else None


class StartLosses(nn.Module):
    """Start loss of every task, [T]: known for binary tasks, else the mean over the first `START_STEPS` steps that have labels.

    The heads start at the base rates (`docs/losses.md`), so the first losses are about those of the best constant.
    """

    def __init__(self, facts: Facts):
        super().__init__()
        found = [start_loss(name, task, facts) for name, task in facts.tasks.items()]
        self.known = None not in found
        """Whether nothing is left to measure."""
        self.register_buffer("level", torch.tensor([1.0 if loss is None else loss for loss in found]))
        self.register_buffer("seen", torch.tensor([0.0 if loss is None else float(START_STEPS) for loss in found]))

    def forward(self, losses: Tensor | None, active: Tensor) -> Tensor:
        """Take the losses [T] of a step in, and return the start losses so far; a task never seen yet has 1."""
        if losses is not None and not self.known:
            take = active & (self.seen < START_STEPS)
            self.seen.add_(take)
            first = torch.where(self.seen > 1, self.level, losses)  # what stood there before was no loss
            mean = first + (losses - first) / self.seen.clamp_min(1.0)
            self.level.copy_(torch.where(take, mean, self.level))
        return self.level.clamp_min(LEAST_LOSS)
