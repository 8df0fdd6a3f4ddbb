"""`kind: quantile`: quantiles of any number."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.task_kinds import BaseRate, Quantile
from raymtl.config.tasks import Task
from raymtl.objectives.tasks.base import TaskObjective, inverse_softplus


@dataclass(frozen=True)
class QuantileObjective(TaskObjective):
    """Pinball loss max(τ·(y − q), (τ − 1)·(y − q)) (Koenker & Bassett, Econometrica 46 (1978), equation 3.1), the mean over the
    quantiles; predicts the quantile nearest to one half, and each of them.

    The main output is that quantile. The others lie below and above it at distances that are sums of softplus(g), so that no two
    cross, whatever the row. Outputs are in standard deviations from where normal labels would have the main quantile; the loss is
    divided by the standard deviation.
    """

    levels: tuple[float, ...]
    """Ascending."""

    kind = Quantile

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(tuple(task.quantiles or ()))

    @property
    def outputs(self) -> int:
        return len(self.levels)

    @property
    def _middle(self) -> int:
        """The place of the main quantile."""
        return min(range(len(self.levels)), key=lambda place: abs(self.levels[place] - 0.5))

    def link(self, main: Tensor, extra: Tensor) -> Tensor:
        gaps, main = F.softplus(extra), main.unsqueeze(-1)
        below = main - gaps[..., : self._middle].flip(-1).cumsum(-1).flip(-1)
        return torch.cat((below, main + gaps[..., self._middle :].cumsum(-1)), -1)

    def _ordered(self, logit: Tensor) -> Tensor:
        """The quantiles [..., k], ascending."""
        if self.outputs == 1:
            return logit.unsqueeze(-1)
        middle = self._middle
        return torch.cat((logit[..., 1 : middle + 1], logit[..., :1], logit[..., middle + 1 :]), -1)

    def _pinball(self, logit: Tensor, label: Tensor) -> Tensor:
        """The loss of each quantile, [..., k]."""
        error, level = label.unsqueeze(-1) - self._ordered(logit), logit.new_tensor(self.levels)
        return torch.maximum(level * error, (level - 1) * error)

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return self._pinball(logit, label).mean(-1)

    def score(self, logit: Tensor) -> Tensor:
        return logit if self.outputs == 1 else logit[..., 0]

    def predict(self, score: Tensor) -> Tensor:
        return score

    def predictions(self, logit: Tensor) -> Tensor:
        return torch.cat((super().predictions(logit), self._ordered(logit)), -1)

    def start_logit(self, base_rate: float) -> float:
        return self.head_scale(base_rate)[0]

    def start_extras(self, base_rate: float) -> Sequence[float]:
        """The distances of the quantiles of a normal distribution."""
        normal = [NormalDist().inv_cdf(level) for level in self.levels]
        return [inverse_softplus(b - a) for a, b in pairwise(normal)]

    def head_scale(self, base_rate: float) -> tuple[float, float]:
        center, spread = (base_rate.center, base_rate.spread) if isinstance(base_rate, BaseRate) else (None, None)
        spread = spread or 1.0
        return (base_rate if center is None else center) + spread * NormalDist().inv_cdf(
            self.levels[self._middle]
        ), spread

    def extra_scales(self, base_rate: float) -> Sequence[tuple[float, float]]:
        return [self.head_scale(base_rate)] * (self.outputs - 1)

    def loss_unit(self, base_rate: float) -> float:
        return self.head_scale(base_rate)[1]

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        """The mean pinball loss, the coverage, then of each quantile its loss and whether the label is at or below it."""
        pinball, ordered = self._pinball(logit, label), self._ordered(logit)
        label = label.unsqueeze(-1)
        under = (label <= ordered).to(logit.dtype)
        inside = under[..., -1:] * (label >= ordered[..., :1]) if self.outputs > 1 else under
        return torch.cat((pinball.mean(-1, keepdim=True), inside, pinball, under), -1)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        """The coverage to expect, and of each quantile its pinball loss and the share of the labels at or below it."""
        losses, under = means[2 : 2 + self.outputs], means[2 + self.outputs :]
        rows = zip(self.levels, losses, under, strict=True)
        lowest = self.levels[0] if self.outputs > 1 else 0.0
        return {
            "nominal_coverage": self.levels[-1] - lowest,
            "quantiles": [{"quantile": q, "pinball": loss, "share_below": share} for q, loss, share in rows],
        }
