"""The labels of the loss where a 0 may still turn into a 1, and the loss of the head that knows how often.

Shapes: B rows of this worker, T tasks, E tasks with `early_labels`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.early_labels import Arrival
from raymtl.config.tasks import Task


class ExpectedLabels(nn.Module):
    """The expected final label, given what had arrived at the cutoff: 1 of a 1, of a 0 the probability g that it turns into 1.

    With p the probability of the final label and r that of a 0 at the cutoff, the expected cross entropy on such labels,
    (1 − r)·(−log f) + r·(g·(−log f) + (1 − g)·(−log(1 − f))), is the one on final labels, for any prediction f, since r·(1 − g)
    is 1 − p.

    1 − g is the weight that ES-DFM gives to zeros (f_rn of Yang et al., AAAI 2021). There the 1s that come late are added when
    they come, here their expectation is added at once, as in label correction (Wang et al., KDD 2023). g comes from `LateHead`,
    without gradient.
    """

    def __init__(self, tasks: Mapping[str, Task]):
        super().__init__()
        early = {t: task for t, task in enumerate(tasks.values()) if task.early_labels is not None}
        self._columns, self._task_weights = [*early], [task.weight for task in early.values()]

    def forward(self, labels: Tensor, arrival: Tensor, late: Tensor) -> Tensor:
        """Labels [B, T] from those at the cutoff, `Batch.arrival` [B, E] and the log odds of the late head [B, E]."""
        columns = list(labels.unbind(1))
        for e, t in enumerate(self._columns):
            is_open = _has(arrival[:, e], Arrival.OPEN) & (columns[t] == 0)
            # Only where it is needed: elsewhere, as on padding, it may be NaN
            comes = torch.sigmoid(torch.where(is_open, late[:, e].detach(), 0.0))
            columns[t] = torch.where(is_open, comes, columns[t])
        return torch.stack(columns, 1)

    def late_loss(self, late: Tensor, arrival: Tensor, weights: Tensor, normalizer: Tensor) -> Tensor:
        """Σ over the tasks of weight_t · the mean cross entropy of the late head [], this worker's share.

        It learns from labels that were 0 at the cutoff and are final now. `weights` [B, T] are those of the labels, 0 where they
        do not count, and `normalizer` [T] what the loss of the task is divided by.
        """
        total = late.new_zeros(())
        for e, t in enumerate(self._columns):
            known = _has(arrival[:, e], Arrival.KNOWN) & (weights[:, t] > 0)
            logit, came = torch.where(known, late[:, e], 0.0), _has(arrival[:, e], Arrival.CAME).to(late.dtype)
            rows = F.binary_cross_entropy_with_logits(logit, came, reduction="none")
            total = total + self._task_weights[e] * torch.where(known, rows * weights[:, t], 0.0).sum() / normalizer[t]
        return total


def _has(arrival: Tensor, flag: Arrival) -> Tensor:
    return (arrival & int(flag)) > 0
