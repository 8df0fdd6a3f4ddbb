"""From the heads' outputs to logits, and from logits to predictions in the label's own unit.

Shapes: B rows, T tasks, O outputs (the tasks, then the derived ones), L `log1p` tasks.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raymtl.config.task_kinds import LogReal
from raymtl.config.tasks import Task
from raymtl.objectives.tasks import OBJECTIVES, objective_of

_ETA = 3
"""Exponent of the running mean of `OutputScale`: the weight of step k grows as k^η, as Shamir & Zhang recommend."""
_PRIOR_STEPS = 10
"""Steps that the sample counts for in that mean at the start."""
_MEMORY_STEPS = 10_000
"""From here on the mean forgets exponentially, so that daily training follows the data."""


def predict(logit: Tensor, task: Task) -> Tensor:
    """Turn the logits of one task, of any shape, into predictions in the label's unit, in 32-bit floats or wider."""
    return objective_of(task).predict(logit if logit.dtype == torch.float64 else logit.float())


def predictions(logits: Tensor, tasks: Iterable[Task]) -> Tensor:
    """Turn logits [B, T] into predictions [B, T], each column by its task (see `predict`); `tasks` in column order."""
    return torch.stack([predict(a, task) for a, task in zip(logits.unbind(dim=1), tasks, strict=True)], dim=1)


class OutputScale(nn.Module):
    """What the labels' scale sets in a model with count or real tasks; buffers, so that it is saved with the weights.

    Logit of output o: offset_o + scale_o · head_o. Loss of task t: divided by `units`_t. A `log1p` task predicts
    c · max(0, exp(a) − 1): exp of a mean logarithm is about a median, far below the mean of a skewed label. The factor
    c = Σ w·y / Σ w·max(0, exp(a) − 1) over the training rows, each with the prediction before its own step, makes the predictions
    sum to the labels: the ratio estimator of the retransformation bias, in place of Duan's smearing (JASA 78, 1983), whose
    residuals would have to be kept, and which assumes that they are distributed alike in all rows. Both sums are
    polynomial-decay averages over the steps (Shamir & Zhang, ICML 2013, section 4).
    """

    def __init__(self, tasks: Sequence[Task], base_rates: Sequence[float | None], derived: int):
        """The tasks in column order with their base rates (None: unknown), and the number of derived outputs."""
        super().__init__()
        kinds = [objective_of(task) for task in tasks]
        pairs = [(kind, rate) for kind, rate in zip(kinds, base_rates, strict=True)]
        scales = [(0.0, 1.0) if rate is None else kind.head_scale(rate) for kind, rate in pairs]
        offset, scale = torch.tensor([*scales, *[(0.0, 1.0)] * derived]).unbind(1)
        self.register_buffer("offset", offset.clone())
        self.register_buffer("scale", scale.clone())
        self.register_buffer(
            "units", torch.tensor([1.0 if rate is None else kind.loss_unit(rate) for kind, rate in pairs])
        )
        logs = [t for t, task in enumerate(tasks) if issubclass(task.traits, LogReal)]
        self._has_logs = bool(logs)
        self.register_buffer("_columns", torch.tensor(logs, dtype=torch.int64), persistent=False)
        if logs:
            means = torch.ones(2, len(logs))
            for i, t in enumerate(logs):
                if (rate := base_rates[t]) is not None:
                    means[0, i], means[1, i] = rate, kinds[t].predict(offset[t])
            self.register_buffer("means", means)  # [2, L]: of the labels, of the uncorrected predictions
            self.register_buffer("steps", torch.tensor(float(_PRIOR_STEPS)))

    @classmethod
    def of(cls, tasks: Mapping[str, Task], base_rates: Mapping[str, float], derived: int) -> Self | None:
        """None for a model whose tasks are all binary: it needs no scale."""
        if all(task.is_event for task in tasks.values()):
            return None
        return cls(list(tasks.values()), [base_rates.get(n, t.base_rate) for n, t in tasks.items()], derived)

    def forward(self, heads: Tensor) -> Tensor:
        """The heads' outputs [B, O] as logits."""
        return heads.float() * self.scale + self.offset

    def corrected(self, logits: Tensor) -> Tensor:
        """Logits [B, O] whose `predictions` include the factor; those that are not finite stay so."""
        if not self._has_logs:
            return logits
        a = logits[:, self._columns]
        return logits.index_copy(1, self._columns, torch.where(a.isfinite(), _scaled(a, self.factor), a))

    @property
    def factor(self) -> Tensor:
        """The factor of each `log1p` task, [L]; 1 where every prediction was 0."""
        label, prediction = self.means
        return torch.where(prediction > 0, label / prediction, 1.0)

    @torch.no_grad()
    def learn(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor,
        counted: Tensor,
        valid_rows: Tensor,
        group: dist.ProcessGroup | None,
    ) -> None:
        """Take a training step in: logits, labels and counted (observed, of a valid row) [B, T], weight [B] or [B, T].

        `valid_rows` [] is over all workers of `group` (None: one worker), which sum by one all-reduce of 2·L numbers. Without a
        `log1p` task this does nothing.
        """
        if not self._has_logs:
            return
        weight = weight.unsqueeze(1).expand(labels.shape) if weight.dim() == 1 else weight
        a, y, counted, w = (
            values[:, self._columns] for values in (logits.float(), labels.float(), counted, weight.float())
        )
        w = torch.where(counted, w, 0.0)
        pair = torch.stack([torch.where(counted, y, 0.0), torch.where(counted, _uncorrected(a), 0.0)])
        sums = (pair * w).sum(1)
        if group is not None and dist.get_world_size(group) > 1:
            dist.all_reduce(sums, group=group)
        self.steps.add_(1).clamp_(max=_MEMORY_STEPS)
        self.means.lerp_(sums / valid_rows.clamp(min=1.0), (_ETA + 1) / (self.steps + _ETA))


def _uncorrected(logit: Tensor) -> Tensor:
    return OBJECTIVES[LogReal].predict(logit)


def _scaled(logit: Tensor, factor: Tensor) -> Tensor:
    """The logit whose `log1p` prediction is `factor` times that of the given one."""
    return torch.log1p(factor * _uncorrected(logit))
