"""`kind: ordinal`: one of several levels with an order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.task_kinds import Ordinal
from raymtl.config.tasks import Task
from raymtl.objectives.tasks.base import MIN_RATE, TaskObjective, inverse_softplus, terms_of
from raymtl.objectives.tasks.classes import class_details, shares_entropy

_MIN_GAP = 1e-3
"""Least distance of two thresholds, so that no level has the probability 0."""


@dataclass(frozen=True)
class OrdinalObjective(TaskObjective):
    """Log loss in nats of the cumulative logit model P(y > k) = σ(a − θ_k) (McCullagh, JRSS B 42 (1980), equation 2.4); predicts
    the expected level, and the probability of each of K.

    The main output is a − θ_0, the logit of a level above the first. All rows have the same thresholds (proportional odds), and
    their distances are softplus(g_k) + 0.001, so that they keep their order. `link` gives the logits a − θ_k of the others.
    """

    names: tuple[str, ...]

    kind = Ordinal
    constant_extras = True

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(task.class_names)

    @property
    def outputs(self) -> int:
        return len(self.names) - 1

    def link(self, main: Tensor, extra: Tensor) -> Tensor:
        return main.unsqueeze(-1) - (F.softplus(extra) + _MIN_GAP).cumsum(-1)

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        return -self._log_chances(logit).gather(-1, label.long().unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def _log_chances(logit: Tensor) -> Tensor:
        """Log probabilities [..., K] of the levels; σ(b) − σ(c) = σ(b)·σ(−c)·(1 − e^(c − b)), without cancellation."""
        above, below = F.logsigmoid(logit), F.logsigmoid(-logit)
        gap = (logit[..., :-1] - logit[..., 1:]).clamp(min=_MIN_GAP / 2)  # less than that only where all is masked to 0
        between = above[..., :-1] + below[..., 1:] + torch.log(-torch.expm1(-gap))
        return torch.cat((below[..., :1], between, above[..., -1:]), -1)

    def score(self, logit: Tensor) -> Tensor:
        """The logit of the expected level as a share of the highest: that level is Σ_k P(y > k)."""
        return F.logsigmoid(logit).logsumexp(-1) - F.logsigmoid(-logit).logsumexp(-1)

    def predict(self, score: Tensor) -> Tensor:
        return self.outputs * torch.sigmoid(score)

    def predictions(self, logit: Tensor) -> Tensor:
        return torch.cat((super().predictions(logit), self._log_chances(logit).exp()), -1)

    def start_logit(self, base_rate: float) -> float:
        return self._start(base_rate)[0]

    def start_extras(self, base_rate: float) -> Sequence[float]:
        logits = self._start(base_rate)
        gaps = [max(b - c, 2 * _MIN_GAP) for b, c in pairwise(logits)]
        return [inverse_softplus(gap - _MIN_GAP) for gap in gaps]

    def _start(self, base_rate: float) -> list[float]:
        """The logits of the shares of rows above each threshold."""
        shares = terms_of(base_rate) or [1 / len(self.names)] * len(self.names)
        above = [min(max(sum(shares[k + 1 :]), MIN_RATE), 1 - MIN_RATE) for k in range(self.outputs)]
        return [math.log(rate) - math.log1p(-rate) for rate in above]

    def start_loss(self, base_rate: float) -> float | None:
        shares = terms_of(base_rate)
        return shares_entropy(shares) if shares else None

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        chances = self._log_chances(logit)
        level = label.long().unsqueeze(-1)
        right = (chances.argmax(-1, keepdim=True) == level).to(logit.dtype)
        found = (
            -chances.gather(-1, level),
            right,
            F.one_hot(level.squeeze(-1), len(self.names)).to(logit.dtype),
            chances.exp(),
        )
        return torch.cat(found, -1)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        return class_details(self.names, means[2:], self.kind.own)
