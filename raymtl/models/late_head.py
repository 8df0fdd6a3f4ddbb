"""The head that knows how labels arrive: it completes early ones in training, and no prediction reads it.

Shapes: B rows, T tasks, E tasks with `early_labels`, k width of a tower.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raymtl.config.tasks import Task
from raymtl.models.layers import HEAD_STD, GroupedMLP, full_precision

_HIDDEN = 32


class LateHead(nn.Module):
    """Log odds that a label which is 0 at the cutoff still turns into 1: [B, E], in fp32, from the tower of each task."""

    def __init__(self, tasks: Mapping[str, Task], width: int, base_rates: Mapping[str, float]):
        """`width` is that of the towers. It starts at half the base rate, or at even odds without one."""
        super().__init__()
        early = {t: name for t, (name, task) in enumerate(tasks.items()) if task.early_labels is not None}
        self._columns = [*early]
        self.mlps = GroupedMLP(len(early), width, [_HIDDEN])
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(len(early), _HIDDEN), std=HEAD_STD))
        rates = [base_rates.get(name, tasks[name].base_rate) for name in early.values()]
        self.bias = nn.Parameter(torch.tensor([0.0 if r is None else math.log(r / (2 - r)) for r in rates]))

    def forward(self, h: Tensor) -> Tensor:
        """From the towers h [B, T, k]."""
        with full_precision(h):
            own = h[:, self._columns].float().transpose(0, 1)
            return (self.mlps(own).transpose(0, 1) * self.weight).sum(-1) + self.bias
