"""`focal`: cross entropy that counts a row less the better it is predicted (Lin et al., ICCV 2017)."""

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from raymtl.objectives.tasks import MIN_RATE
from raymtl.objectives.terms.base import RowLoss, register


@register("focal")
class Focal(RowLoss):
    """−α_t (1 − p_t)^γ log p_t, where p_t is the probability of the label (equation 5).

    It has its least at a probability that is nearer to ½ than the true one: its predictions are ranks, not rates.
    """

    def __init__(self, gamma: float, alpha: float | None):
        self._gamma = gamma
        self._positive, self._negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        # Both classes in terms of log σ, which is exact and has finite gradients for any logit
        yes, no = logsigmoid(logit), logsigmoid(-logit)
        positive = -self._positive * (self._gamma * no).exp() * yes
        negative = -self._negative * (self._gamma * yes).exp() * no
        return label * positive + (1 - label) * negative

    def start_loss(self, base_rate: float) -> float:
        p = min(max(base_rate, MIN_RATE), 1 - MIN_RATE)
        positive = -self._positive * (1 - p) ** self._gamma * math.log(p)
        negative = -self._negative * p**self._gamma * math.log1p(-p)
        return p * positive + (1 - p) * negative
