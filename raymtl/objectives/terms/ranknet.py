"""`ranknet`: pairwise logistic loss (Burges et al., ICML 2005)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.objectives.terms.base import ListLoss, register, sum_by_list


@register("ranknet")
class RankNet(ListLoss):
    """Mean over the pairs of a list with y_i > y_j of log(1 + e^(a_j − a_i)), each with the weight w_i·w_j.

    That is RankNet's cross entropy (equation 3) with the target probability 1 that i ranks above j. Its pairs and their weights
    are those of GAUC: the loss of a list is at least (1 − AUC)·log 2.

    Shapes: K = `window`. A row meets the K rows after it, so time and memory are B·K, never B².
    """

    def __init__(self, window: int):
        self._window = window

    def loss(self, logit: Tensor, label: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        higher = label.unsqueeze(1) - self._after(label)  # [B, K], and so on
        pairs = weight.unsqueeze(1) * self._after(weight) * (index.unsqueeze(1) == self._after(index)) * (higher != 0)
        lead = torch.where(higher > 0, 1.0, -1.0) * (logit.unsqueeze(1) - self._after(logit))
        total = sum_by_list((pairs * F.softplus(-lead)).sum(1), index)
        count = sum_by_list(pairs.sum(1), index)
        return total / torch.where(count > 0, count, 1.0)

    def start_loss(self) -> float:
        return math.log(2)

    def _after(self, values: Tensor) -> Tensor:
        """[B, K] the values of the K rows after each row; beyond the last one zeros, whose weight is 0."""
        return F.pad(values, (0, self._window)).unfold(0, self._window, 1)[1:]
