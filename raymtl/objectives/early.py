"""The loss of labels that may not have arrived yet, and that of the head that knows how many have.

Shapes: B rows of this worker, T tasks, O outputs, E tasks with `early_labels`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.early_labels import Arrival
from raymtl.config.tasks import Task
from raymtl.objectives.algebra import logit_prod


class ArrivedLabels(nn.Module):
    """What the label at the cutoff is: 1 with probability f · a, where f is the predicted probability of the final label and a
    that of a label of 1 to have arrived by then.

    Its likelihood has its maximum at f = p, the true probability, if a is right: the expected label at the cutoff is p · a. Its
    gradient is that of the expectation step of Chapelle (KDD 2014), who has an exponential delay for a; a comes from
    `ArrivalHead`, an estimate at the cutoff as in ES-DFM (Yang et al., AAAI 2021), and counts without gradient.
    """

    def __init__(self, tasks: Mapping[str, Task]):
        super().__init__()
        self._columns = [t for t, task in enumerate(tasks.values()) if task.early_labels is not None]

    def forward(self, logits: Tensor, arrival: Tensor, odds: Tensor) -> Tensor:
        """The logits [B, O] of the labels at the cutoff, where they are early, from those of final labels.

        `arrival` [B, E] is that of `Batch`, `odds` [B, E] are the log odds of the arrival head.
        """
        columns = list(logits.unbind(1))
        for e, t in enumerate(self._columns):
            is_open = _has(arrival[:, e], Arrival.OPEN)
            # Elsewhere, as on padding, they may be NaN, and so would be the gradient of the other branch
            own, arrived = (torch.where(is_open, x, 0.0) for x in (columns[t], odds[:, e].detach()))
            columns[t] = torch.where(is_open, logit_prod(own, arrived), columns[t])
        return torch.stack(columns, 1)

    def arrival_loss(self, odds: Tensor, arrival: Tensor, weights: Tensor, normalizer: Tensor) -> Tensor:
        """Σ over the tasks of the cross entropy of the arrival head [], this worker's share.

        It learns from labels that are final and 1. `weights` [B, T] are those of the labels, 0 where they do not count, and
        `normalizer` [T] what the loss of the task is divided by.
        """
        total = odds.new_zeros(())
        for e, t in enumerate(self._columns):
            in_time = _has(arrival[:, e], Arrival.IN_TIME)
            known = (in_time | _has(arrival[:, e], Arrival.LATE)) & (weights[:, t] > 0)
            own = torch.where(known, odds[:, e], 0.0)
            rows = F.binary_cross_entropy_with_logits(own, in_time.to(own.dtype), reduction="none")
            total = total + torch.where(known, rows * weights[:, t], 0.0).sum() / normalizer[t]
        return total


def _has(arrival: Tensor, flag: Arrival) -> Tensor:
    return (arrival & int(flag)) > 0
