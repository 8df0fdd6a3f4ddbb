"""The losses that compare rows, summed over the lists of a worker's batch.

Shapes: B rows of this worker, T tasks, C entries of `compared_lists`, W entries of `Config.list_columns`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from raymtl.config.losses import ListTerm
from raymtl.config.tasks import Task
from raymtl.config.wiring import compared_lists
from raymtl.objectives.terms.base import ListLoss, build, sum_by_list


class _Compared(NamedTuple):
    """The losses of one task over one kind of list."""

    task: int
    column: int
    """Of the W columns of lists."""
    losses: list[tuple[float, ListLoss]]
    """Each with its weight."""


class _Sorted(NamedTuple):
    """The rows [B] of one kind of list in the order of their lists."""

    order: Tensor
    index: Tensor
    """The number of the list of each, ascending from 0 on."""


class ListLosses:
    """Sum over a task's losses of weight · Σ_g w_g ℓ_g, where w_g is the weight of the rows of list g.

    Only rows in the same worker's batch are in one list, and only lists with two different labels of rows that count are summed.
    `TaskLosses` divides by the number of their rows over all workers, and their mean weight. Lists are found by sorting: there is
    no loop over them, no shape depends on them, and the host waits for nothing.
    """

    def __init__(self, tasks: Mapping[str, Task]):
        names, pairs = list(tasks), compared_lists(tasks)
        columns = list(dict.fromkeys(within for _, within in pairs))
        self._compared = [
            _Compared(
                names.index(name),
                columns.index(within),
                [
                    (term.weight, _list_loss(key, term))
                    for key, term in tasks[name].losses.chosen().items()
                    if isinstance(term, ListTerm) and term.within == within
                ],
            )
            for name, within in pairs
        ]

    @property
    def tasks(self) -> list[int]:
        """[C] the task of each sum."""
        return [each.task for each in self._compared]

    def sums(self, scores: Tensor, labels: Tensor, weights: Tensor, lists: Tensor) -> Tensor:
        """The sums [C] of a batch, from scores, labels and weights [B, T], 0 where a row does not count, and lists [B, W]."""
        return self._sums(scores, labels, weights, lists)

    def lower_bounds(self, labels: Tensor, weights: Tensor, lists: Tensor) -> Tensor:
        """What the sums cannot fall below."""
        return self._sums(None, labels, weights, lists)

    def _sums(self, scores: Tensor | None, labels: Tensor, weights: Tensor, lists: Tensor) -> Tensor:
        ways = [_sorted(ids) for ids in lists.unbind(1)]
        found = []
        for task, column, losses in self._compared:
            order, index = ways[column]
            y, w = labels[order, task], weights[order, task]
            share = _comparable(y, w, index)
            total = torch.zeros_like(w)
            for factor, term in losses:
                if scores is None:
                    loss = term.lower_bound(y, w, index)
                else:
                    loss = term.loss(scores[order, task], y, w, index)
                total = total + factor * torch.where(share > 0, loss, 0.0)
            found.append((share * total).sum())
        return torch.stack(found) if found else labels.new_zeros(0)


def _list_loss(key: str, term: ListTerm) -> ListLoss:
    loss = build(key, term)
    assert isinstance(loss, ListLoss)
    return loss


def _sorted(ids: Tensor) -> _Sorted:
    ids, order = ids.sort(stable=True)
    opens = torch.zeros_like(ids)
    opens[1:] = ids[1:] != ids[:-1]
    return _Sorted(order, opens.cumsum(0))


def _comparable(label: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """The weight of each list [B] that has two different labels of rows that count, 0 of the others."""
    counts = weight > 0
    least, most = (
        torch.full_like(label, -start).scatter_reduce(0, index, label.masked_fill(~counts, -start), how)
        for start, how in ((-torch.inf, "amin"), (torch.inf, "amax"))
    )
    return torch.where(most > least, sum_by_list(weight, index), 0.0)
