"""Runs the method of `train.balance` in each training step, on losses and gradients of the global batch.

Shapes: T tasks, W workers.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

import raymtl.objectives.balance
from raymtl.config.balance import Balance as Section
from raymtl.config.tasks import Task
from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, build
from raymtl.objectives.balance.cut import SharedGradients
from raymtl.objectives.balance.window import BalanceWindow, Report

for _module in pkgutil.iter_modules(raymtl.objectives.balance.__path__, "raymtl.objectives.balance."):
    importlib.import_module(_module.name)  # importing a method's module is what registers its class


class Balancer(nn.Module):
    """Losses of the tasks -> the total that backward starts from; built by `build_balancer`."""

    def __init__(
        self, method: Balance, names: Sequence[str], group: dist.ProcessGroup | None, cosine_every_steps: int | None
    ):
        """`group` is of all workers, with the backend of the losses' device; None: a single worker."""
        super().__init__()
        self.method = method
        self._group = group
        self._workers = 1 if group is None else dist.get_world_size(group)
        self._cosine_every = cosine_every_steps
        self._steps = 0  # of this process, the same on all workers; says only when to measure for the log
        self._window = BalanceWindow(list(names))

    def forward(self, shares: Tensor, penalties: Tensor, active: Tensor, cut: Sequence[Tensor]) -> Tensor:
        """The total [] of one step.

        `shares` [T] are the losses as `TaskLosses` gives them (this worker's share times W) with their gradient, minus their
        lower bound; `penalties` [] is added to the tasks' total; `active` [T] tells the tasks that any worker has a
        label for; `cut` are the looked-up embeddings.
        """
        measured = self.method.at_embeddings or self._is_due()
        gradients = SharedGradients(shares, cut) if measured else None
        step = self._global(active, shares.detach() if self.method.needs_losses else None, gradients)
        choice = self.method(step)
        total = (choice.weights * shares).sum() + penalties
        if choice.extra is not None:
            total = total + choice.extra
        if choice.at_embeddings is not None:
            assert gradients is not None
            gradients.add(choice.at_embeddings - choice.weights)
        self._window.add(choice.weights if choice.at_embeddings is None else choice.at_embeddings, active, step.gram)
        return total

    def report(self) -> Report:
        """What the steps since the last call gave, for the log: the same on all workers."""
        return self._window.report()

    def _is_due(self) -> bool:
        self._steps += 1
        return self._cosine_every is not None and (self._steps - 1) % self._cosine_every == 0

    def _global(self, active: Tensor, shares: Tensor | None, gradients: SharedGradients | None) -> StepStats:
        """Losses and Gram matrix over all workers, by one all-reduce.

        A loss is the mean over the workers of share · W, and a worker's rows get 1/W of the gradient of that; so the Gram matrix
        of the whole batch is the sum over the workers of what they have of their own rows, over W².
        """
        tasks, workers = len(active), self._workers
        parts = [] if shares is None else [shares / workers]
        if gradients is not None:
            parts.append(gradients.gram().flatten() / workers**2)
        if not parts:
            return StepStats(active)
        packed = torch.cat(parts)
        if self._group is not None and workers > 1:
            dist.all_reduce(packed, group=self._group)
        losses = None if shares is None else packed[:tasks].clamp_min(0.0)
        return StepStats(active, losses, None if gradients is None else packed[-(tasks**2) :].view(tasks, tasks))


def build_balancer(
    section: Section,
    tasks: Mapping[str, Task],
    base_rates: Mapping[str, float],
    seed: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Balancer | None:
    """The balancer of a configuration; None for `fixed` weights without `cosine_every_steps`."""
    cosine = getattr(section, "cosine_every_steps", None)
    if section.type == "fixed" and cosine is None:
        return None
    return Balancer(build(section, BalanceContext(tasks, base_rates, seed)), list(tasks), group, cosine)
