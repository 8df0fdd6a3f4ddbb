"""The heads of the outputs that a task has beside its main one.

Shapes: B rows, T tasks, D derived outputs, X extra outputs, k width of a tower.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.models.layers import HEAD_STD, full_precision
from raymtl.objectives.outputs import Outputs


class ExtraHeads(nn.Module):
    """Linear heads on the towers of the tasks that have several outputs, and the kind's link: [B, X], in fp32.

    They read the tower itself: a coupler passes information between main outputs only.
    """

    def __init__(self, outputs: Outputs, width: int, base_rates: Mapping[str, float]):
        """`width` is that of the towers; without a base rate the heads start at 0."""
        super().__init__()
        self._outputs = outputs
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()  # by the number of the main column
        for column in outputs.several:
            objective, rate = outputs.objectives[column], base_rates.get(list(outputs.tasks)[column])
            extra = objective.outputs - 1
            start = torch.zeros(extra) if rate is None else torch.tensor(objective.start_extras(rate))
            self.biases[str(column)] = nn.Parameter(start)
            if not objective.constant_extras:
                self.weights[str(column)] = nn.Parameter(nn.init.normal_(torch.empty(extra, width), std=HEAD_STD))

    def forward(self, h: Tensor, main: Tensor) -> Tensor:
        """From the towers h [B, T, k] and the coupler's outputs [B, T + D]."""
        found = []
        for column in self._outputs.several:
            bias = self.biases[str(column)]
            extra = bias.expand(h.shape[0], -1)
            if str(column) in self.weights:
                with full_precision(h):
                    extra = F.linear(h[:, column].float(), self.weights[str(column)], bias)
            found.append(self._outputs.objectives[column].link(main[:, column], extra))
        return torch.cat(found, 1)
