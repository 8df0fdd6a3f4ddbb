"""Losses of all tasks over the global batch, AITM's order penalty and Meituan's bound. `docs/losses.md` has the reasons.

Shapes: B rows of this worker, T tasks, O outputs (`Outputs`), W workers; C entries of `compared_lists`.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raymtl.config.losses import OwnLoss
from raymtl.config.slots.penalties import KLBound, OrderLoss
from raymtl.config.tasks import Task
from raymtl.config.wiring import bounds, order_pairs
from raymtl.objectives.algebra import logit_prod, sym_kl
from raymtl.objectives.early import ArrivedLabels
from raymtl.objectives.outputs import Outputs
from raymtl.objectives.tasks import TaskObjective
from raymtl.objectives.terms.base import RowLoss, build
from raymtl.objectives.terms.lists import ListLosses


class Losses(NamedTuple):
    """The losses of one batch. Each number is this worker's share times W, so its mean over the workers is the global one."""

    total: Tensor
    """[] Σ_t weight_t · loss_t + order + bound + arrival; backward starts here."""
    per_task: Tensor
    """[T] loss of each task before its weight; without gradient."""
    order: Tensor
    """[] order penalty with its α; without gradient."""
    bound: Tensor
    """[] KL bound with its λ; without gradient."""
    arrival: Tensor
    """[] loss of the arrival head; without gradient."""
    per_task_with_grad: Tensor
    """[T] `per_task` with its gradient, for `train.balance`."""
    penalties: Tensor
    """[] order + bound + arrival, with their gradient."""


class _Run(NamedTuple):
    """Consecutive tasks of equal objectives, which are computed together."""

    objective: TaskObjective
    tasks: slice
    extras: slice
    """Their extra outputs, all of a task side by side."""

    def loss(self, logits: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Loss of every row [B, n] of the n tasks, from logits [B, O], mask and labels [B, T]."""
        mask, labels, main = mask[:, self.tasks], labels[:, self.tasks], logits[:, self.tasks]
        if self.objective.outputs > 1:
            extra = logits[:, self.extras].unflatten(1, (-1, self.objective.outputs - 1))
            main, mask = torch.cat((main.unsqueeze(2), extra), 2), mask.unsqueeze(2)
        return self.objective.loss(torch.where(mask, main, 0.0), labels)


def _runs(outputs: Outputs) -> list[_Run]:
    found = []
    for objective, run in groupby(range(len(outputs.tasks)), lambda t: outputs.objectives[t]):
        first, *_, last = *(places := list(run)), places[-1]
        extras = slice(outputs.extras(first).start, outputs.extras(last).stop)
        found.append(_Run(objective, slice(first, last + 1), extras))
    return found


class TaskLosses(nn.Module):
    """Masked, weighted loss of every task, divided by the label count of all workers (`docs/losses.md`).

    L_t = W · Σ_i m_ti w_ti ℓ_t(a_ti, y_ti) / max(N_t, floor_t), where m is 1 on observed labels of valid rows and N_t is the
    number of these labels with w > 0 over all workers, times a constant mean weight. ℓ is the weighted sum of the losses of rows
    that the task has (`tasks.<name>.losses`); losses that compare rows are added with normalisers of their own, max(N_tl,
    floor_t) for the lists l. `Optimizers.step` and TorchRec average gradients over the W workers, which takes the factor W
    out again. The losses of values are also divided by the task's `units` (`TaskObjective.loss_unit`). A task that no worker
    has a label for contributes an exact zero that stays connected to the autograd graph, so that every worker takes part in
    every collective. All arithmetic is in fp32.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        order: OrderLoss,
        bound: KLBound | None = None,
        predecessors: Mapping[str, Sequence[str]] | None = None,
        outputs: Outputs | None = None,
    ):
        """`predecessors` are those of the coupler `ait`: the order penalty holds for them as for the parents. `outputs` are the
        columns of the logits; None: those of the tasks, without derived ones."""
        super().__init__()
        names = list(tasks)
        self._runs = _runs(Outputs(tasks) if outputs is None else outputs)
        self._pairs = [(names.index(a), names.index(b)) for a, b in order_pairs(tasks, predecessors or {})]
        self._order = order
        self._bounds = [tuple(names.index(name) for name in triple) for triple in bounds(tasks)]
        self._bound_weight = bound.weight if bound else 0.0
        self._added = [
            (names.index(name), term.weight, loss)
            for name, task in tasks.items()
            for key, term in task.losses.chosen().items()
            if not isinstance(term, OwnLoss) and isinstance(loss := build(key, term), RowLoss)
        ]
        self._lists = ListLosses(tasks)
        self._arrived = ArrivedLabels(tasks)
        own = [task.losses.own for task in tasks.values()]
        self._is_plain = all(term == OwnLoss() for term in own)
        self.register_buffer(
            "_added_tasks", torch.tensor([t for t, _, _ in self._added], dtype=torch.int64), persistent=False
        )
        self.register_buffer("_own", torch.tensor([term.weight if term else 0.0 for term in own]), persistent=False)
        self.register_buffer(
            "_smoothing", torch.tensor([term.smoothing if term else 0.0 for term in own]), persistent=False
        )
        self.register_buffer("_list_tasks", torch.tensor(self._lists.tasks, dtype=torch.int64), persistent=False)
        self.register_buffer("_weights", torch.tensor([t.weight for t in tasks.values()]), persistent=False)
        self.register_buffer("_floors", torch.tensor([t.normalizer_floor for t in tasks.values()]), persistent=False)

    @staticmethod
    def counts(observed: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
        """This worker's part of the normalisers of single rows, [T + 1]: the labels of each task that count, then the valid rows.

        Their sum over the workers is what `forward` wants as `normalizer` and `valid_rows` if labels weigh 1 on average, without
        losses that compare rows.
        """
        per_task = (_counted(observed, valid, weight)[1] > 0).sum(0)
        return torch.cat((per_task, valid.sum().unsqueeze(0))).float()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        observed: Tensor,
        weight: Tensor,
        valid: Tensor,
        normalizer: Tensor,
        valid_rows: Tensor,
        workers: int = 1,
        units: Tensor | None = None,
        lists: Tensor | None = None,
        early: tuple[Tensor, Tensor] | None = None,
    ) -> Losses:
        """Loss of one batch: logits [B, O], labels and observed [B, T], weight [B] or [B, T], valid [B], normalizer [T + C],
        valid_rows [].

        `valid` is false on padding rows, which count nowhere. Labels may hold anything where they are not observed.
        `normalizer` and `valid_rows` are summed over the `workers`. `units` [T] divide the losses of rows; None: by 1. `lists`
        [B, W] are those of `Batch`; None only if no loss compares rows. `early` are `Batch.arrival` and the output of the arrival
        head; None: all labels are final.
        """
        logits = logits.float()
        mask, weights = _counted(observed, valid, weight)
        # Not observed: logit 0 and label 0, whose loss is finite, so that the weight 0 makes it an exact 0. Masking the
        # losses alone would not do: 0 · NaN is NaN, and so is the gradient of a `where` whose other branch is not finite.
        y = torch.where(mask, labels.float(), 0.0)
        of_labels = logits if early is None else self._arrived(logits, *early)
        rows = torch.cat([run.loss(of_labels, mask, self._smoothed(y)) for run in self._runs], 1)
        # A task that has other losses than its kind's has one output
        a = torch.where(mask, logits[:, : mask.shape[1]], 0.0)
        added = [factor * loss.loss(a[:, t], y[:, t]) for t, factor, loss in self._added]
        sums = self._sums(rows, added, weights, normalizer, units)
        if self._lists.tasks:
            assert lists is not None, "the batch has no lists"
            sums = self._with_lists(sums, self._lists.sums(a, y, weights, lists), normalizer)
        per_task = sums * workers
        order = self._order_penalty(logits, valid, valid_rows, workers)
        bound = self._kl_bound(logits, valid, valid_rows, workers)
        arrival = logits.new_zeros(())
        if early is not None:
            divisor = _at_least(normalizer[: len(self._floors)], self._floors)
            arrival = self._arrived.arrival_loss(early[1], early[0], weights, divisor) * workers
        penalties = order + bound + arrival
        total = (per_task * self._weights).sum() + penalties
        return Losses(total, per_task.detach(), order.detach(), bound.detach(), arrival.detach(), per_task, penalties)

    def lower_bound(
        self,
        labels: Tensor,
        observed: Tensor,
        weight: Tensor,
        valid: Tensor,
        normalizer: Tensor,
        workers: int = 1,
        units: Tensor | None = None,
        lists: Tensor | None = None,
    ) -> Tensor:
        """What the losses [T] of this batch cannot fall below, without gradient; the arguments are those of `forward`."""
        mask, weights = _counted(observed, valid, weight)
        y = torch.where(mask, labels.float(), 0.0)
        smoothed = self._smoothed(y)
        least = torch.cat([run.objective.lower_bound(smoothed[:, run.tasks]) for run in self._runs], 1)
        added = [factor * loss.lower_bound(y[:, t]) for t, factor, loss in self._added]
        sums = self._sums(least, added, weights, normalizer, units)
        if self._lists.tasks:
            assert lists is not None, "the batch has no lists"
            sums = self._with_lists(sums, self._lists.lower_bounds(y, weights, lists), normalizer)
        return sums * workers

    def _smoothed(self, labels: Tensor) -> Tensor:
        """The labels [B, T] of the own losses: (1 − ε)·y + ε/2 (Szegedy et al., CVPR 2016, section 7, for two classes)."""
        return labels if self._is_plain else labels.lerp(torch.full_like(labels, 0.5), self._smoothing)

    def _sums(
        self, own: Tensor, added: Sequence[Tensor], weights: Tensor, normalizer: Tensor, units: Tensor | None
    ) -> Tensor:
        """The share of this worker in the losses [T] of rows: own ones [B, T], and [B] each of those in `_added`."""
        sums = (own * weights).sum(0)
        sums = sums if self._is_plain else sums * self._own
        if added:
            more = [(rows * weights[:, t]).sum() for (t, _, _), rows in zip(self._added, added, strict=True)]
            sums = sums.index_add(0, self._added_tasks, torch.stack(more))
        sums = sums / _at_least(normalizer[: len(self._floors)], self._floors)
        return sums if units is None else sums / units

    def _with_lists(self, sums: Tensor, of_lists: Tensor, normalizer: Tensor) -> Tensor:
        """The sums [T] with those of lists [C], each over its normaliser."""
        divisor = _at_least(normalizer[len(self._floors) :], self._floors[self._list_tasks])
        return sums.index_add(0, self._list_tasks, of_lists / divisor)

    def _order_penalty(self, logits: Tensor, valid: Tensor, valid_rows: Tensor, workers: int) -> Tensor:
        """α · Σ over ordered pairs of the mean over all valid rows of max(lower - upper, 0): AITM's calibrator.

        It needs no label, so it counts every valid row, whatever its weight.
        """
        if not self._order.alpha or not self._pairs:
            return logits.new_zeros(())
        scores = torch.where(valid.unsqueeze(1), logits, 0.0)  # padding: all alike, no gap
        if self._order.space == "probability":
            scores = scores.sigmoid()
        columns = scores.unbind(1)
        gaps = torch.stack([columns[lower] - columns[upper] for lower, upper in self._pairs], 1)
        return self._order.alpha * gaps.relu().sum() * _per_row(valid_rows, workers)

    def _kl_bound(self, logits: Tensor, valid: Tensor, valid_rows: Tensor, workers: int) -> Tensor:
        """λ · Σ over bounds of the mean over all valid rows of the symmetric KL divergence of p(g)·p(c | g) and p(o).

        Meituan's bound. It needs no label either: it is the conditional head's only training signal on rows without a click.
        """
        if not self._bound_weight or not self._bounds:
            return logits.new_zeros(())
        columns = torch.where(valid.unsqueeze(1), logits, 0.0).unbind(1)
        given, conversion, order = (
            torch.stack([columns[t] for t in part], 1) for part in zip(*self._bounds, strict=True)
        )
        rows = sym_kl(logit_prod(given, conversion), order)
        return self._bound_weight * torch.where(valid.unsqueeze(1), rows, 0.0).sum() * _per_row(valid_rows, workers)


def _counted(observed: Tensor, valid: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Where a label counts, and its weight, [B, T] each."""
    mask = observed & valid.unsqueeze(1)
    weight = weight.float()
    return mask, torch.where(mask, weight.unsqueeze(1) if weight.dim() == 1 else weight, 0.0)


def _at_least(normalizer: Tensor, floors: Tensor) -> Tensor:
    n = torch.maximum(normalizer.float(), floors)
    return torch.where(n > 0, n, 1.0)  # floor 0 and no label: 0 / 1, not 0 / 0


def _per_row(valid_rows: Tensor, workers: int) -> Tensor:
    return workers / valid_rows.float().clamp(min=1.0)
