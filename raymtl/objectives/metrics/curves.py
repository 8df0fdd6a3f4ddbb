"""Calibration curves out of a histogram: what was predicted against what happened, bucket by bucket.

Shapes: M bins.
"""

import torch
from torch import Tensor

BUCKETS = 20
"""Points of a curve at most."""


def reliability(
    predicted: Tensor, label: Tensor, weight: Tensor, mass: Tensor | None = None, buckets: int = BUCKETS
) -> list[dict[str, float]]:
    """Group the bins of a histogram, ascending in the score, into at most `buckets` buckets and give the mean of each.

    Args:
        predicted: [M] sum of weight · prediction of each bin.
        label: [M] sum of weight · label.
        weight: [M] sum of weights.
        mass: [M] what the buckets share equally; none: the weight. A task with rare positives does better with a mass that gives
            the positives their half, or all of them would sit in the last bucket.

    Returns:
        One `{"prediction", "label", "count"}` per bucket that has rows: mean prediction, mean label, and the sum of the weights
        (the number of rows where every row weighs 1). A single bin is never split, so there may be fewer buckets.
    """
    mass = weight if mass is None else mass
    total = mass.sum()
    place = (mass.cumsum(0) - 0.5 * mass) / total.clamp(min=torch.finfo(total.dtype).tiny)
    bucket = (place * buckets).long().clamp(0, buckets - 1)
    sums = torch.zeros(buckets, 3, dtype=torch.float64, device=weight.device)
    sums.index_add_(0, bucket, torch.stack([predicted, label, weight], dim=1))
    return [{"prediction": p / w, "label": y / w, "count": w} for p, y, w in sums.tolist() if w > 0]
