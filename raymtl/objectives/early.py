"""The losses of labels that are not final: a 0 that may still turn into a 1, and a 1 that came late.

Shapes: B rows of this worker, T tasks, E tasks with `early_labels`, N of them with the correction `es_dfm`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.early_labels import Arrival, Correction
from raymtl.config.tasks import Task


class EarlyLosses(nn.Module):
    """The loss of each row where labels are early, by `tasks.<name>.early_labels.correction`; other rows keep theirs.

    Every impression is read twice, at the cutoff and when its label is final, and its loss is the sum of what both give. With p
    the true and f the predicted probability of the label, g that of a 0 at the cutoff to turn into 1, r the rate of those zeros:

        es_dfm   y · (−log f) + (1 − y) · (1 − g) · (−log(1 − f))     of the label y at the cutoff; −log f of a 1 that came late
        fnw      (1 − f) · (−log(1 − f)), and −log f of every 1, early or late
        fnc      −log(1 − b), and −log b of every 1, with b = f / (1 + f)

    Where a day that was not trained on early stands in for one that was (`Arrival.TWICE`), a 1 that came late adds its loss to
    that of the final label.

    The factors (1 − g) and (1 − f) have no gradient. The expectations of all three have their minimum at f = p. For `es_dfm`
    r · (1 − g) is 1 − p, so the sum is the cross entropy on final labels. Yang et al. (AAAI 2021) and Ktena et al. (RecSys 2019)
    multiply both terms of a row by 1 + the probability that it is read as a 1 a second time; without that factor each
    impression counts once. `fnc` is the fake negative calibration of Ktena et al., with its probability b / (1 − b) as the
    model's own output.
    """

    def __init__(self, tasks: Mapping[str, Task]):
        super().__init__()
        self._tasks: list[tuple[int, Correction, int]] = []
        """Column, correction and column of the late head."""
        for column, task in enumerate(tasks.values()):
            if task.early_labels is not None:
                before = sum(correction == "es_dfm" for _, correction, _ in self._tasks)
                self._tasks.append((column, task.early_labels.correction, before))

    def forward(self, own: Tensor, logits: Tensor, labels: Tensor, arrival: Tensor, late: Tensor) -> Tensor:
        """The loss of every row [B, T] from that of the kind, logits and labels [B, T], `arrival` [B, E] and `late` [B, N]."""
        columns = list(own.unbind(1))
        for e, (t, correction, n) in enumerate(self._tasks):
            is_open, trained, came, twice = (
                _has(arrival[:, e], flag) for flag in (Arrival.OPEN, Arrival.TRAINED, Arrival.CAME, Arrival.TWICE)
            )
            one, zero = F.softplus(-logits[:, t]), F.softplus(logits[:, t])
            if correction == "es_dfm":
                # Only where it is needed: elsewhere, as on padding, it may be NaN
                stays = torch.sigmoid(-torch.where(is_open, late[:, n].detach(), 0.0))
                early = torch.where(labels[:, t] > 0, one, stays * zero)
            else:
                if correction == "fnc":
                    counted = torch.log1p(torch.sigmoid(logits[:, t]))  # −log(1 − b)
                    one = one + counted
                else:
                    counted = torch.sigmoid(-logits[:, t].detach()) * zero
                early = counted + torch.where(labels[:, t] > 0, one, 0.0)
            final = torch.where(trained, 0.0, own[:, t])
            columns[t] = torch.where(is_open, early, final) + torch.where(came & (trained | twice), one, 0.0)
        return torch.stack(columns, 1)

    def late_loss(self, late: Tensor, arrival: Tensor, weights: Tensor, normalizer: Tensor) -> Tensor:
        """Σ over the tasks with a late head of its weighted mean cross entropy [], this worker's share.

        It learns from labels that were 0 at the cutoff and are final now. `weights` [B, T] are 0 where a label does not count,
        `normalizer` [T] is their sum over all workers.
        """
        total = late.new_zeros(())
        for e, (t, correction, n) in enumerate(self._tasks):
            if correction == "es_dfm":
                known = _has(arrival[:, e], Arrival.KNOWN) & (weights[:, t] > 0)
                logit = torch.where(known, late[:, n], 0.0)
                came = _has(arrival[:, e], Arrival.CAME).to(late.dtype)
                rows = F.binary_cross_entropy_with_logits(logit, came, reduction="none")
                total = total + torch.where(known, rows * weights[:, t], 0.0).sum() / normalizer[t]
        return total


def _has(arrival: Tensor, flag: Arrival) -> Tensor:
    return (arrival & int(flag)) > 0
