"""The head that knows how labels arrive: it weights early ones in training, and nothing else reads it.

Shapes: B rows, T tasks, N tasks with the correction `es_dfm`, k width of a tower.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raymtl.config.tasks import Task
from raymtl.models.layers import HEAD_STD, GroupedMLP, full_precision

_HIDDEN = 32


class LateHead(nn.Module):
    """Log odds that a label which is 0 at the cutoff still turns into 1: [B, N], in fp32, from the tower of each task.

    One minus this probability is f_rn of ES-DFM (Yang et al., AAAI 2021, section 4.3), there a model of its own.
    """

    def __init__(self, tasks: Mapping[str, Task], width: int, base_rates: Mapping[str, float]):
        """`width` is that of the towers. It starts at half the base rate, or at even odds without one."""
        super().__init__()
        self._columns = columns_of(tasks)
        self.mlps = GroupedMLP(len(self._columns), width, [_HIDDEN])
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(len(self._columns), _HIDDEN), std=HEAD_STD))
        names = list(tasks)
        rates = [base_rates.get(names[c], tasks[names[c]].base_rate) for c in self._columns]
        self.bias = nn.Parameter(torch.tensor([0.0 if r is None else math.log(r / (2 - r)) for r in rates]))

    def forward(self, h: Tensor) -> Tensor:
        """From the towers h [B, T, k]."""
        with full_precision(h):
            own = h[:, self._columns].float().transpose(0, 1)
            return (self.mlps(own).transpose(0, 1) * self.weight).sum(-1) + self.bias


def columns_of(tasks: Mapping[str, Task]) -> list[int]:
    """The columns of the tasks with the correction `es_dfm`."""
    early = [task.early_labels for task in tasks.values()]
    return [t for t, section in enumerate(early) if section is not None and section.correction == "es_dfm"]
