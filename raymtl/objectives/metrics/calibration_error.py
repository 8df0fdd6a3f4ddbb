"""The expected calibration error, from a score histogram.

Shapes: M bins, Q buckets.
"""

import math

import torch
from torch import Tensor

from raymtl.objectives.metrics import bins

BUCKETS = 20
"""Buckets of equal mass."""


def calibration_error(scores: Tensor) -> float | None:
    """Σ_q w_q · |mean prediction − mean label| / Σ_q w_q over 20 buckets of equal weight; None without rows.

    Naeini et al., AAAI 2015, section 3, with buckets of equal mass in place of equal width, since rare events would share one. A
    bin on the border of two buckets is split, as if its rows were alike, so the buckets are equal whatever the scores are.

    Args:
        scores: [2, M] weights of negatives and positives, M = bins.COARSE; sums over workers.
    """
    buckets = _buckets(scores, scores.new_zeros(2))
    if buckets is None:
        return None
    weight, label, predicted, _ = buckets
    return float((predicted - label).abs().sum() / weight.sum())


def chance_error(scores: Tensor, squares: Tensor) -> float | None:
    """The error that a perfectly calibrated model has on as many rows by chance: the mean of |N(0, v_q)| is √(2 v_q / π).

    v_q = Σ w²·p·(1 − p) over the rows of the bucket is the variance of Σ w·(y − p). The weights of negatives and of positives are
    those of a mean row of their side, from the sums of the squared weights [2]: where negatives were sampled, all rows of a side
    weigh the same.
    """
    buckets = _buckets(scores, squares.double() / scores.double().sum(1).clamp(min=1e-300))
    if buckets is None:
        return None
    weight, _, _, variance = buckets
    return float((2 / math.pi * variance).sqrt().sum() / weight.sum())


def _buckets(scores: Tensor, of_one: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Of each bucket, [Q] each: weight, sum of labels, of predictions, and the variance of their difference; `of_one` [2] is the
    weight of a negative and of a positive."""
    scores = scores.double()
    mass = scores.sum(0)
    there = mass.nonzero().flatten()
    if not len(there):
        return None
    weight, positives = mass[there], scores[1, there]
    p = torch.sigmoid(bins.centres(scores.device)[there])
    variance = weight * p * (1 - p) * (of_one[1] * (1 - p) + of_one[0] * p)
    sums = torch.stack([weight, positives, weight * p, variance])
    # What lies below each border, where each bin is spread evenly over its own stretch of the mass
    borders = torch.linspace(0, 1, BUCKETS + 1, dtype=torch.float64, device=scores.device)[1:-1] * weight.sum()
    ends = weight.cumsum(0)
    place = torch.searchsorted(ends, borders).clamp(max=len(there) - 1)
    inside = ((borders - ends[place] + weight[place]) / weight[place]).clamp(0, 1)
    below = sums.cumsum(1)[:, place] - (1 - inside) * sums[:, place]
    edges = torch.cat([sums.new_zeros(4, 1), below, sums.sum(1, keepdim=True)], 1)
    found = edges.diff(dim=1)
    return found[0], found[1], found[2], found[3]
