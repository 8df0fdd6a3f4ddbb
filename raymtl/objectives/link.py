"""From the heads' outputs to logits in the unit of the labels, and the correction of `log1p` tasks.

Shapes: B rows, T tasks, O outputs (`Outputs`), L `log1p` tasks.
"""

from collections.abc import Mapping
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raymtl.objectives.outputs import Outputs
from raymtl.objectives.tasks.real import LogRealObjective

_ETA = 3
"""Exponent of the running mean of `OutputScale`: the weight of step k grows as k^η, as Shamir & Zhang recommend."""
_PRIOR_STEPS = 10
"""Steps that the sample counts for in that mean at the start."""
_MEMORY_STEPS = 10_000
"""From here on the mean forgets exponentially, so that daily training follows the data."""


class OutputScale(nn.Module):
    """What the labels' scale sets in a model with count or real tasks; buffers, so that it is saved with the weights.

    Logit of output o: offset_o + scale_o · head_o. Loss of task t: divided by `units`_t. A `log1p` task predicts
    c · max(0, exp(a) − 1): exp of a mean logarithm is about a median, far below the mean of a skewed label. The factor
    c = Σ w·y / Σ w·max(0, exp(a) − 1) over the training rows, each with the prediction before its own step, makes the predictions
    sum to the labels: the ratio estimator of the retransformation bias, in place of Duan's smearing (JASA 78, 1983), whose
    residuals would have to be kept, and which assumes that they are distributed alike in all rows. Both sums are
    polynomial-decay averages over the steps (Shamir & Zhang, ICML 2013, section 4).
    """

    def __init__(self, outputs: Outputs, base_rates: Mapping[str, float]):
        """Without a base rate a task has the offset 0 and the scale 1."""
        super().__init__()
        tasks = outputs.tasks
        rates = [base_rates.get(name, task.base_rate) for name, task in tasks.items()]
        pairs = list(zip(outputs.objectives, rates, strict=False))  # without derived outputs
        kinds = [kind for kind, _ in pairs]
        scales = [(0.0, 1.0)] * outputs.width
        for t, (kind, rate) in enumerate(pairs):
            if rate is not None:
                scales[t], scales[outputs.extras(t)] = kind.head_scale(rate), kind.extra_scales(rate)
        offset, scale = torch.tensor(scales).unbind(1)
        self.register_buffer("offset", offset.clone())
        self.register_buffer("scale", scale.clone())
        self.register_buffer(
            "units", torch.tensor([1.0 if rate is None else kind.loss_unit(rate) for kind, rate in pairs])
        )
        logs = [t for t, kind in enumerate(kinds) if isinstance(kind, LogRealObjective)]
        self._has_logs = bool(logs)
        self.register_buffer("_columns", torch.tensor(logs, dtype=torch.int64), persistent=False)
        if logs:
            means = torch.ones(2, len(logs))
            for i, t in enumerate(logs):
                if (rate := rates[t]) is not None:
                    means[0, i], means[1, i] = rate, kinds[t].predict(offset[t])
            self.register_buffer("means", means)  # [2, L]: of the labels, of the uncorrected predictions
            self.register_buffer("steps", torch.tensor(float(_PRIOR_STEPS)))

    @classmethod
    def of(cls, outputs: Outputs, base_rates: Mapping[str, float]) -> Self | None:
        """None for a model whose tasks are all binary: it needs no scale."""
        return None if all(task.is_event for task in outputs.tasks.values()) else cls(outputs, base_rates)

    def forward(self, heads: Tensor) -> Tensor:
        """The heads' outputs [B, O] as logits."""
        return heads.float() * self.scale + self.offset

    def corrected(self, logits: Tensor) -> Tensor:
        """Logits [B, O] whose predictions include the factor; those that are not finite stay so."""
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
        """Take a training step in: logits, labels and counted (observed, of a valid row) [B, T], weight [B].

        `valid_rows` [] is over all workers of `group` (None: one worker), which sum by one all-reduce of 2·L numbers. Without a
        `log1p` task this does nothing.
        """
        if not self._has_logs:
            return
        a, y, counted = (values[:, self._columns] for values in (logits.float(), labels.float(), counted))
        w = torch.where(counted, weight.float().unsqueeze(1), 0.0)
        pair = torch.stack([torch.where(counted, y, 0.0), torch.where(counted, _uncorrected(a), 0.0)])
        sums = (pair * w).sum(1)
        if group is not None and dist.get_world_size(group) > 1:
            dist.all_reduce(sums, group=group)
        self.steps.add_(1).clamp_(max=_MEMORY_STEPS)
        self.means.lerp_(sums / valid_rows.clamp(min=1.0), (_ETA + 1) / (self.steps + _ETA))


def _uncorrected(logit: Tensor) -> Tensor:
    return LogRealObjective().predict(logit)


def _scaled(logit: Tensor, factor: Tensor) -> Tensor:
    """The logit whose `log1p` prediction is `factor` times that of the given one."""
    return torch.log1p(factor * _uncorrected(logit))
