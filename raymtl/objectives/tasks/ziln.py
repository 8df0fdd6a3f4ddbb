"""`kind: ziln`: an amount that is mostly 0, and else spans decades."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.task_kinds import Ziln
from raymtl.objectives.tasks.base import MAX_LOG, MIN_RATE, TaskObjective, inverse_softplus, terms_of
from raymtl.objectives.tasks.binary import entropy

_MIN_SIGMA = 0.05
"""Least standard deviation of the logarithm: without one, labels that are all alike would have an infinite likelihood."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class ZilnObjective(TaskObjective):
    """Negative log likelihood in nats of a zero-inflated log-normal label (Wang, Liu & Miao 2019, arXiv:1912.07753, equation 5).

        loss = BCE(a, y > 0) + [y > 0]·((log y − μ)² / (2σ²) + log σ + ½ log 2π)

    with three outputs, the logit a of an amount above 0, the mean μ and σ = 0.05 + softplus(s) of its logarithm. It is the
    density of log y: that of y has a further log y, which no output changes and which makes the loss depend on the currency.
    Predicts the mean c·σ(a)·exp(μ + σ²/2), and the probability σ(a). μ is learned from few rows, and the exponential of its noise
    is above 1 on average: the factor c of `OutputScale` makes the predictions sum to the labels.
    """

    kind = Ziln
    factor_output = 1

    @property
    def outputs(self) -> int:
        return 3

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        a, mu, sigma = _split(logit)
        positive = (label > 0).to(logit.dtype)
        rows = F.binary_cross_entropy_with_logits(a, positive, reduction="none")
        z = (_safe_log(label) - mu) / sigma
        return rows + positive * (0.5 * z.square() + sigma.log() + _HALF_LOG_2PI)

    def lower_bound(self, label: Tensor) -> Tensor:
        return torch.where(label > 0, math.log(_MIN_SIGMA) + _HALF_LOG_2PI, 0.0)

    def score(self, logit: Tensor) -> Tensor:
        """Log of the mean."""
        a, mu, sigma = _split(logit)
        return F.logsigmoid(a) + mu + 0.5 * sigma.square()

    def predict(self, score: Tensor) -> Tensor:
        return torch.exp(score.clamp(max=MAX_LOG))

    def predictions(self, logit: Tensor) -> Tensor:
        return torch.cat((super().predictions(logit), torch.sigmoid(logit[..., :1])), -1)

    def scaled(self, logit: Tensor, factor: Tensor) -> Tensor:
        return logit[..., 1] + factor.clamp(min=1e-12).log()

    def start_prediction(self, base_rate: float) -> float:
        rate, mean, spread = _moments(base_rate)
        return rate * math.exp(min(mean + 0.5 * spread**2, MAX_LOG))

    def start_logit(self, base_rate: float) -> float:
        rate = min(max(_moments(base_rate)[0], MIN_RATE), 1 - MIN_RATE)
        return math.log(rate) - math.log1p(-rate)

    def start_extras(self, base_rate: float) -> Sequence[float]:
        return [0.0, inverse_softplus(max(_moments(base_rate)[2] - _MIN_SIGMA, 0.01))]

    def extra_scales(self, base_rate: float) -> Sequence[tuple[float, float]]:
        _, mean, spread = _moments(base_rate)
        return [(mean, spread), (0.0, 1.0)]

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        """The loss, then what `Ziln.start_terms` has."""
        positive, log = (label > 0).to(logit.dtype), _safe_log(label)
        return torch.stack((self.loss(logit, label), positive, log, log.square()), -1)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        return {"constant_ziln_loss": _constant_loss(means[1:]), "positive_rate": means[1]}


def _split(logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, mu, s = logit.unbind(-1)
    return a, mu, _MIN_SIGMA + F.softplus(s)


def _safe_log(label: Tensor) -> Tensor:
    """The logarithm of a label above 0, and 0 for one of 0."""
    return torch.where(label > 0, label, 1.0).log()


def _moments(base_rate: float) -> tuple[float, float, float]:
    """The share of labels above 0, and the mean and the standard deviation of their logarithms."""
    terms = terms_of(base_rate)
    if not terms:
        return 0.5, 0.0, 1.0
    if not terms[0]:  # no amount in the sample: its base rate is half a label
        return min(max(base_rate, MIN_RATE), 0.5), 0.0, 1.0
    return _of_positives(terms)


def _of_positives(terms: Sequence[float]) -> tuple[float, float, float]:
    rate, total, squares = terms
    mean = total / rate
    return rate, mean, max(squares / rate - mean**2, _MIN_SIGMA**2) ** 0.5


def _constant_loss(terms: Sequence[float]) -> float:
    """The loss of the best constant, from the means of `Ziln.start_terms`."""
    if not terms[0]:
        return 0.0
    rate, _, spread = _of_positives(terms)
    return entropy(rate) + rate * (0.5 + math.log(spread) + _HALF_LOG_2PI)
