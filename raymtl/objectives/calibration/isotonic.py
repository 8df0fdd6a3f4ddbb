"""Isotonic regression of the label on the logit, in bounded memory.

Shapes: M bins, K knots.
"""

import torch
from torch import Tensor

from raymtl.objectives.calibration.maps import KNOTS


def pool_adjacent_violators(negatives: Tensor, positives: Tensor) -> list[tuple[int, int]]:
    """Ranges [first, last) of bins, in order, whose shares of positives ascend: the least squares and the maximum likelihood fit.

    Ayer et al., Annals of Mathematical Statistics 26 (1955), section 2; Zadrozny & Elkan, KDD 2002, section 3. Bins without
    weight belong to the range before them, those at the start to the first. One pass over a stack: a range with a share not above
    that of the one before joins it.
    """
    stack: list[tuple[int, float, float]] = []  # first bin, positives, weight
    for place in (negatives + positives).nonzero().flatten().tolist():
        first, hits, mass = place, float(positives[place]), float(negatives[place] + positives[place])
        while stack and stack[-1][1] * mass >= hits * stack[-1][2]:
            first, more, other = stack.pop()
            hits, mass = hits + more, mass + other
        stack.append((first, hits, mass))
    firsts = [0, *(first for first, _, _ in stack[1:])]
    return list(zip(firsts, [*firsts[1:], len(negatives)], strict=True)) if stack else []


def fit_isotonic(logits: Tensor, negatives: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """The curve as K knots, logits x [K] -> calibrated logits y [K], both strictly ascending, to be joined by straight lines.

    A knot stands at the mean logit of each range of `pool_adjacent_violators`; where there are more than K, neighbours are joined
    into K groups of about equal mass, half of it that of the positives. A curve of straight lines keeps the order of rows that
    the steps of the regression would tie. Every bin with weight must have both negatives and positives, which a prior adds
    (`fit.py`), so that all logits are finite.
    """
    weight = negatives + positives
    ranges = pool_adjacent_violators(negatives, positives)
    sums = torch.stack(
        [torch.stack([part[a:b].sum() for a, b in ranges]) for part in (weight * logits, weight, positives)]
    )
    if len(ranges) > KNOTS:
        share = sums[1] / sums[1].sum() + sums[2] / sums[2].sum().clamp(min=1e-300)
        place = (share.cumsum(0) - 0.5 * share) / share.sum()
        group = (place * KNOTS).long().clamp(0, KNOTS - 1)
        sums = sums.new_zeros(3, KNOTS).index_add_(1, group, sums)
        sums = sums[:, sums[1] > 0]
    mean, mass, hits = sums[0] / sums[1], sums[1], sums[2]
    return _padded(mean, torch.log(hits / (mass - hits)))


def _padded(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """K strictly ascending knots: more beyond the last one, on the line of slope 1 that continues the curve."""
    more = torch.arange(1, KNOTS - len(x) + 1, dtype=x.dtype)
    x, y = torch.cat([x, x[-1] + more]), torch.cat([y, y[-1] + more])
    return x, y
