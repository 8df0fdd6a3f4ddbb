"""The head that knows how labels arrive: training on early labels needs it, and no prediction reads it.

Shapes: B rows, T tasks, E tasks with `early_labels`, k width of a tower.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raymtl.config.tasks import Task
from raymtl.models.layers import HEAD_STD, GroupedMLP, full_precision

_HIDDEN = 32


class ArrivalHead(nn.Module):
    """Log odds that a label of 1 has arrived by the cutoff: [B, E], in fp32, from the tower of each task. They start at 0."""

    def __init__(self, tasks: Mapping[str, Task], width: int):
        """`width` is that of the towers."""
        super().__init__()
        self._columns = [t for t, task in enumerate(tasks.values()) if task.early_labels is not None]
        self.mlps = GroupedMLP(len(self._columns), width, [_HIDDEN])
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(len(self._columns), _HIDDEN), std=HEAD_STD))
        self.bias = nn.Parameter(torch.zeros(len(self._columns)))

    def forward(self, h: Tensor) -> Tensor:
        """From the towers h [B, T, k]."""
        with full_precision(h):
            own = h[:, self._columns].float().transpose(0, 1)
            return (self.mlps(own).transpose(0, 1) * self.weight).sum(-1) + self.bias
