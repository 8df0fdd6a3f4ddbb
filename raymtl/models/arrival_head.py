"""The head that knows how labels arrive: training on early labels needs it, and no prediction reads it.

Shapes: B rows, T tasks, E tasks with `early_labels`, d width of the trunk's input.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raymtl.config.tasks import Task
from raymtl.models.layers import HEAD_STD, GroupedMLP, full_precision

_HIDDEN = (64, 32)


class ArrivalHead(nn.Module):
    """Log odds that a label of 1 has arrived by the cutoff: [B, E], in fp32, from the input of the trunk. They start at 0.

    Nothing below learns from it: delays follow other features than the labels, and the labels must not move what they are
    compared with.
    """

    def __init__(self, tasks: Mapping[str, Task], width: int):
        """`width` is d."""
        super().__init__()
        self._columns = [t for t, task in enumerate(tasks.values()) if task.early_labels is not None]
        self.mlps = GroupedMLP(len(self._columns), width, _HIDDEN)
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(len(self._columns), _HIDDEN[-1]), std=HEAD_STD))
        self.bias = nn.Parameter(torch.zeros(len(self._columns)))

    def forward(self, x: Tensor) -> Tensor:
        """From x [B, d], or [B, T, d] where each task has its own."""
        x = x.detach().float()
        with full_precision(x):
            own = x[:, self._columns].transpose(0, 1) if x.dim() == 3 else x
            return (self.mlps(own).transpose(0, 1) * self.weight).sum(-1) + self.bias
