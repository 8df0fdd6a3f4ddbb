"""The losses of labels that are not final: a 0 that may still turn into a 1, and a 1 that came late.

Shapes: B rows of this worker, T tasks, E tasks with `early_labels`, N of them with the correction `es_dfm`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.early_labels import Arrival, Correction
from raymtl.config.tasks import Task


class _Rows(NamedTuple):
    """The labels [B] of one task."""

    own: Tensor
    """Loss of the kind."""
    logit: Tensor
    label: Tensor
    is_open: Tensor
    is_late: Tensor
    """Came after the cutoff, in a row that was trained on early."""
    is_done: Tensor
    """Was trained on early, and nothing came since."""
    late: Tensor | None
    """Log odds of `LateHead`."""


class EarlyLosses(nn.Module):
    """The loss of each row where labels are early, by `tasks.<name>.early_labels.correction`; other rows keep theirs.

    Every impression is read twice, at the cutoff and when its label is final, and its loss is the sum of what both give. With p the
    true and f the predicted probability of the label, g that of a 0 at the cutoff to turn into 1, and r the rate of those zeros:

        es_dfm   y · (−log f) + (1 − y) · (1 − g) · (−log(1 − f))     of the label y at the cutoff; −log f of a 1 that came late
        fnw      (1 − f) · (−log(1 − f)), and −log f of every 1, early or late
        fnc      −log(1 − b), and −log b of every 1, with b = f / (1 + f)

    The factors (1 − g) and (1 − f) have no gradient. The expectations of all three have their minimum at f = p. For `es_dfm`
    r · (1 − g) is 1 − p, so the sum is the cross entropy on final labels. Yang et al. (AAAI 2021, equations 8 and 9) and Ktena et
    al. (RecSys 2019, equation 11) multiply both terms of a row by 1 + its probability of a second reading, which weights rows with
    late labels twice; it is left out here, so that each impression counts once. `fnc` is section 4.3 of Ktena et al., with the
    calibrated probability b / (1 − b) as the model's own output.
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
            trained, came = _has(arrival[:, e], Arrival.TRAINED), _has(arrival[:, e], Arrival.CAME)
            rows = _Rows(
                own[:, t],
                logits[:, t],
                labels[:, t],
                _has(arrival[:, e], Arrival.OPEN),
                trained & came,
                trained & ~came,
                late[:, n] if correction == "es_dfm" else None,
            )
            columns[t] = torch.where(rows.is_done, 0.0, _LOSSES[correction](rows))
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


def _es_dfm(rows: _Rows) -> Tensor:
    assert rows.late is not None
    zero = rows.is_open & (rows.label == 0)
    stays = torch.sigmoid(-torch.where(zero, rows.late.detach(), 0.0))  # elsewhere, as on padding, it may be NaN
    return torch.where(zero, rows.own * stays, rows.own)


def _fnw(rows: _Rows) -> Tensor:
    as_zero = torch.sigmoid(-rows.logit.detach()) * F.softplus(rows.logit)
    return torch.where(rows.is_open, as_zero + torch.where(rows.label > 0, rows.own, 0.0), rows.own)


def _fnc(rows: _Rows) -> Tensor:
    as_zero = torch.log1p(torch.sigmoid(rows.logit))  # −log(1 − b)
    as_one = F.softplus(-rows.logit) + as_zero
    early = as_zero + torch.where(rows.label > 0, as_one, 0.0)
    return torch.where(rows.is_open, early, torch.where(rows.is_late, as_one, rows.own))


_LOSSES = {"es_dfm": _es_dfm, "fnw": _fnw, "fnc": _fnc}
