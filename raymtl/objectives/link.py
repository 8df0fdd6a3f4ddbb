"""From the heads' outputs to logits in the unit of the labels, and the correction of `log1p` tasks.

Shapes: B rows, T tasks, O outputs (`Outputs`), L tasks with a factor.
"""

from collections.abc import Mapping
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raymtl.objectives.outputs import Outputs

_ETA = 3
"""Exponent of the running mean of `OutputScale`: the weight of step k grows as k^η, as Shamir & Zhang recommend."""
_PRIOR_STEPS = 10
"""Steps that the sample counts for in that mean at the start."""
_MEMORY_STEPS = 10_000
"""From here on the mean forgets exponentially, so that daily training follows the data."""


class OutputScale(nn.Module):
    """What the labels' scale sets in a model with count or real tasks; buffers, so that it is saved with the weights.

    Logit of output o: offset_o + scale_o · head_o. Loss of task t: divided by `units`_t. The tasks with a factor
    (`TaskObjective.factor_output`) predict c times what their outputs say: exp of a mean logarithm is about a median, far below
    the mean of a skewed label (`log1p`), and exp of a noisy logarithm is too large on average (`ziln`). The factor
    c = Σ w·y / Σ w·prediction over the training rows, each with the prediction before its own step, makes the predictions
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
        self._outputs = outputs
        logs = [t for t, kind in enumerate(kinds) if kind.factor_output is not None]
        self._logs = logs
        changed = [
            t if kinds[t].factor_output == 0 else outputs.extras(t).start + kinds[t].factor_output - 1 for t in logs
        ]
        self.register_buffer("_columns", torch.tensor(logs, dtype=torch.int64), persistent=False)
        self.register_buffer("_changed", torch.tensor(changed, dtype=torch.int64), persistent=False)
        if logs:
            means = torch.ones(2, len(logs))
            for i, t in enumerate(logs):
                if (rate := rates[t]) is not None:
                    means[0, i], means[1, i] = rate, kinds[t].start_prediction(rate)
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
        if not self._logs:
            return logits
        own = [(self._outputs.objectives[t], self._outputs.of(logits, t)) for t in self._logs]
        scaled = [kind.scaled(outputs, c) for (kind, outputs), c in zip(own, self.factor.unbind(), strict=True)]
        a = logits[:, self._changed]
        return logits.index_copy(1, self._changed, torch.where(a.isfinite(), torch.stack(scaled, 1), a))

    @property
    def factor(self) -> Tensor:
        """The factor of each `log1p` and `ziln` task, [L]; 1 where every prediction was 0."""
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
        task with a factor this does nothing.
        """
        if not self._logs:
            return
        own = [(self._outputs.objectives[t], self._outputs.of(logits.float(), t)) for t in self._logs]
        predicted = torch.stack([kind.predict(kind.score(outputs)) for kind, outputs in own], 1)
        weight = weight.unsqueeze(1).expand(labels.shape) if weight.dim() == 1 else weight
        y, counted, w = (values[:, self._columns] for values in (labels.float(), counted, weight.float()))
        w = torch.where(counted, w, 0.0)
        pair = torch.stack([torch.where(counted, y, 0.0), torch.where(counted, predicted, 0.0)])
        sums = (pair * w).sum(1)
        if group is not None and dist.get_world_size(group) > 1:
            dist.all_reduce(sums, group=group)
        self.steps.add_(1).clamp_(max=_MEMORY_STEPS)
        self.means.lerp_(sums / valid_rows.clamp(min=1.0), (_ETA + 1) / (self.steps + _ETA))
