"""Platt scaling: a logistic regression of the label on the logit.

Shapes: M bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_SLOPE = 0.1
"""Least slope: a map that falls would reverse the order of the rows."""
_STEPS = 100
_LEAST_STEP = 1e-9


def fit_platt(logits: Tensor, negatives: Tensor, positives: Tensor) -> tuple[float, float]:
    """Slope and intercept (s, c) with s ≥ MIN_SLOPE that maximise the likelihood of the labels under σ(s·a + c).

    Platt, "Probabilistic outputs for support vector machines" (Advances in Large Margin Classifiers, 1999), section 2.2, on the
    logit of the model. His targets (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2) are a prior against separable data; here the
    histograms hold one instead (`fit.py`). The loss is convex, so Newton steps that are halved until the loss falls find its
    least value; if that has a smaller slope, the least value within the bound lies on it, and one number is left to find. Logits
    that are all equal tell no slope: it is 1.

    Args:
        logits: [M] float64.
        negatives: [M] float64, the weight of negatives at each logit; the sum is above 0.
        positives: [M] likewise.
    """
    weight = negatives + positives
    mean = (weight @ logits / weight.sum()).item()
    spread = (weight @ (logits - mean) ** 2 / weight.sum()).sqrt().item()
    slope = 1.0
    if spread > 0:
        # Standardized, so that the size of the logits does not matter
        x = (logits - mean) / spread
        slope = float(_minimise(torch.stack([torch.ones_like(x), x]), negatives, positives)[1]) / spread
    slope = max(slope, MIN_SLOPE)
    offset = slope * (logits - mean)
    intercept = float(_minimise(torch.ones_like(logits).unsqueeze(0), negatives, positives, offset)[0])
    return slope, intercept - slope * mean


def _minimise(design: Tensor, negatives: Tensor, positives: Tensor, offset: Tensor | float = 0.0) -> Tensor:
    """The point [P] at which Σ n₋·softplus(z) + n₊·softplus(−z) with z = point · design [P, M] + offset is least."""
    total = (negatives + positives).sum()

    def loss(point: Tensor) -> Tensor:
        z = point @ design + offset
        return (negatives * F.softplus(z) + positives * F.softplus(-z)).sum() / total

    at = design.new_zeros(len(design))
    now = loss(at)
    for _ in range(_STEPS):
        p = torch.sigmoid(at @ design + offset)
        gradient = design @ (negatives * p - positives * (1 - p)) / total
        curvature = (design * ((negatives + positives) * p * (1 - p) / total)) @ design.T
        ridge = 1e-12 * curvature.diagonal().max().clamp(min=1e-300)
        step = torch.linalg.solve(curvature + ridge * torch.eye(len(at), dtype=at.dtype), gradient)
        size = 1.0
        while not (following := loss(at - size * step)) <= now and size > _LEAST_STEP:
            size /= 2
        if not following < now:
            break
        at, now = at - size * step, following
    return at
