"""The loss that a task starts from: what its best constant prediction costs."""

import torch
from torch import Tensor, nn

from raymtl.config.losses import LossTerm, OwnLoss
from raymtl.config.tasks import Task
from raymtl.objectives.balance.base import BalanceContext
from raymtl.objectives.tasks import objective_of
from raymtl.objectives.tasks.binary import entropy
from raymtl.objectives.terms.base import ListLoss, build

LEAST_LOSS = 1e-8
"""What divides a loss is at least this."""
START_STEPS = 100
"""Losses that a start loss is the mean of: enough to even out the batches, too few for the model to have learned much."""


def start_loss(name: str, task: Task, context: BalanceContext) -> float | None:
    """The start loss, less its lower bound, where the base rate alone tells it, as for binary tasks without listwise losses."""
    rate = context.base_rates.get(name, task.base_rate)
    if rate is None:
        return None
    total = 0.0
    for key, term in task.losses.chosen().items():
        if (loss := _of_term(key, term, task, rate)) is None:
            return None
        total += term.weight * loss
    return total


def _of_term(key: str, term: LossTerm, task: Task, rate: float) -> float | None:
    objective = objective_of(task)
    if isinstance(term, OwnLoss):
        if not term.smoothing:
            return objective.start_loss(rate)
        half = term.smoothing / 2
        return entropy((1 - term.smoothing) * rate + half) - entropy(half)
    loss = build(key, term)
    return loss.start_loss() if isinstance(loss, ListLoss) else loss.start_loss(rate)


class StartLosses(nn.Module):
    """Start loss of every task, [T]: known where the base rate tells it, else the mean of the first `START_STEPS` losses.

    The heads start at the base rates (`docs/losses.md`), so the first losses are about those of the best constant.
    """

    def __init__(self, context: BalanceContext):
        super().__init__()
        found = [start_loss(name, task, context) for name, task in context.tasks.items()]
        self.known = None not in found
        """Whether nothing is left to measure."""
        self.register_buffer("level", torch.tensor([1.0 if loss is None else loss for loss in found]))
        self.register_buffer("seen", torch.tensor([0.0 if loss is None else float(START_STEPS) for loss in found]))

    def forward(self, losses: Tensor | None, active: Tensor) -> Tensor:
        """Take the losses [T] of a step in, and return the start losses so far; a task never seen yet has 1."""
        if losses is not None and not self.known:
            take = active & (self.seen < START_STEPS)
            self.seen.add_(take)
            first = torch.where(self.seen > 1, self.level, losses)  # the initial 1.0 is a placeholder, not a loss
            mean = first + (losses - first) / self.seen.clamp_min(1.0)
            self.level.copy_(torch.where(take, mean, self.level))
        return self.level.clamp_min(LEAST_LOSS)
