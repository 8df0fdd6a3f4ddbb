"""`listwise`: softmax cross entropy over a list (Cao et al., ICML 2007; Bruch et al., ICTIR 2019)."""

import torch
from torch import Tensor

from raymtl.objectives.terms.base import ListLoss, register, sum_by_list


@register("listwise")
class Listwise(ListLoss):
    """−Σ_i t_i log q_i, with t_i = w_i y_i / Σ_j w_j y_j and q_i = e^a_i / Σ_j v_j e^a_j.

    v_j is the weight of a row relative to the mean of its list, so that a weight of all rows of a list changes nothing inside it.
    Shares of the labels, as Bruch et al. have them (equation 4): ListNet's top-one probabilities (Cao et al., equation 6) would
    be their softmax, which gives the only click of a list of 20 rows no more than an eighth of the mass.
    """

    def loss(self, logit: Tensor, label: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        counts = weight > 0
        seen = logit.detach().masked_fill(~counts, -torch.inf)
        top = torch.full_like(seen, -torch.inf).scatter_reduce(0, index, seen, "amax")[index]
        top = torch.where(top.isfinite(), top, 0.0)  # a list without rows that count
        scaled = torch.where(counts, (logit - top).exp() * _relative(weight, index), 0.0)
        mass = sum_by_list(scaled, index)
        log_mass = torch.where(mass > 0, mass, 1.0).log()[index] + top
        return sum_by_list(_shares(label, weight, index) * (log_mass - logit), index)

    def lower_bound(self, label: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """With q_i = t_i / v_i."""
        shares = _shares(label, weight, index)
        ratio = torch.where(shares > 0, _relative(weight, index) / torch.where(shares > 0, shares, 1.0), 1.0)
        return sum_by_list(shares * ratio.log(), index)


def _relative(weight: Tensor, index: Tensor) -> Tensor:
    """The weight [B] of each row over the mean of its list."""
    rows, total = sum_by_list((weight > 0).to(weight.dtype), index), sum_by_list(weight, index)
    return weight * (rows / torch.where(total > 0, total, 1.0))[index]


def _shares(label: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """The share [B] of each row in the labels of its list."""
    total = sum_by_list(weight * label, index)
    return weight * label / torch.where(total > 0, total, 1.0)[index]
