"""`kind: multiclass`: one of several classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.task_kinds import Multiclass
from raymtl.config.tasks import Task
from raymtl.objectives.tasks.base import MIN_RATE, TaskObjective, terms_of
from raymtl.objectives.tasks.classes import TOP, class_details, shares_entropy


@dataclass(frozen=True)
class MulticlassObjective(TaskObjective):
    """Cross entropy in nats of the softmax of k logits, v_y · (logsumexp(a) - a_y), with a weight v of each class; predicts the
    probability of each class, and as the main prediction the most probable class.

    The main output is the logit of the first class. Metrics leave the weights of the classes out.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    kind = Multiclass

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(task.class_names, tuple(task.class_weights) if task.class_weights else None)

    @property
    def outputs(self) -> int:
        return len(self.names)

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        rows = _cross_entropy(logit, label)
        if self.weights is None:
            return rows
        return rows * rows.new_tensor(self.weights)[label.long()]

    def score(self, logit: Tensor) -> Tensor:
        """Log probability of the most probable class: how sure the model is. Classes have no order to rank rows by."""
        return logit.amax(-1) - logit.logsumexp(-1)

    def predict(self, score: Tensor) -> Tensor:
        return score.exp()

    def predictions(self, logit: Tensor) -> Tensor:
        return torch.cat((logit.argmax(-1, keepdim=True).to(logit.dtype), logit.softmax(-1)), -1)

    def start_logit(self, base_rate: float) -> float:
        return self._start(base_rate)[0]

    def start_extras(self, base_rate: float) -> Sequence[float]:
        return self._start(base_rate)[1:]

    def _start(self, base_rate: float) -> list[float]:
        """Log shares of the classes, weighted as the loss weights them."""
        shares = terms_of(base_rate) or [1.0] * self.outputs
        weights = self.weights or [1.0] * self.outputs
        return [math.log(max(share, MIN_RATE) * weight) for share, weight in zip(shares, weights, strict=True)]

    def start_loss(self, base_rate: float) -> float | None:
        shares = terms_of(base_rate)
        return shares_entropy(shares) if shares and self.weights is None else None

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        own = logit.gather(-1, label.long().unsqueeze(-1))
        rank = (logit > own).sum(-1)
        found = torch.stack(
            (_cross_entropy(logit, label), (rank < 1).to(logit.dtype), (rank < TOP).to(logit.dtype)), -1
        )
        return torch.cat((found, F.one_hot(label.long(), self.outputs).to(logit.dtype), logit.softmax(-1)), -1)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        return class_details(self.names, means[3:], self.kind.own)


def _cross_entropy(logit: Tensor, label: Tensor) -> Tensor:
    return logit.logsumexp(-1) - logit.gather(-1, label.long().unsqueeze(-1)).squeeze(-1)
