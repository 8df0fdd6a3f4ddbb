"""95 % confidence intervals of metrics whose rows come in groups (usually the rows of a user).

Rows of one user resemble each other, so a formula for independent rows gives intervals that are too narrow. Here every metric is
taken apart into the *effects* of the groups: by how much the metric moves, to first order, per group. They sum to 0, and the
sum of their squares estimates the variance of the metric, whatever happens inside a group. For AUC this is the clustered DeLong
variance of Obuchowski, Biometrics 53 (1997), section 2, and with one row per group that of DeLong et al., Biometrics 44 (1988);
the midranks take one sort (Sun & Xu, IEEE Signal Processing Letters 21, 2014). For means and ratios it is the linearised
variance of cluster samples. `docs/metrics.md` has the formulas, and the coverage of the intervals in simulations.

Shapes: N rows, G groups.
"""

import math

import torch
from torch import Tensor

from raymtl.config.metrics import METRICS
from raymtl.objectives.metrics.changes import MIN_GROUPS, Interval, half_width

BUCKETS = 256
"""Into so many sums `fold` adds the effects of the groups."""


def auc_effects(logits: Tensor, positive: Tensor, weight: Tensor, index: Tensor, groups: int) -> Tensor:
    """Effects [G] of the groups on AUC, from rows [N] with their group `index`; both classes must have weight.

    A positive row counts w·(V − AUC) / Σw₊, V being the share of the negatives below it; a negative row likewise. Each class is
    corrected for the number of groups that have it; NaN if that is one.
    """
    logits, order = logits.sort()
    p = (weight * positive)[order].double()
    n = (weight * ~positive)[order].double()
    run = torch.cat([order.new_zeros(1), (logits[1:] != logits[:-1]).long().cumsum(0)])  # rows of one logit are ties
    run_p, run_n = (torch.zeros(int(run[-1]) + 1, dtype=p.dtype, device=p.device).index_add_(0, run, v) for v in (p, n))
    total_p, total_n = run_p.sum(), run_n.sum()
    below = (run_n.cumsum(0) - 0.5 * run_n) / total_n
    above = 1 - (run_p.cumsum(0) - 0.5 * run_p) / total_p
    auc = (run_p * below).sum() / total_p
    index = index[order]
    effects = torch.zeros(groups, dtype=p.dtype, device=p.device)
    for side, place, total in ((p, below, total_p), (n, above, total_n)):
        found = torch.zeros_like(effects).index_add_(0, index, side * (place[run] - auc) / total)
        having = (torch.zeros_like(effects).index_add_(0, index, side) > 0).sum().double()
        effects += found * (having / (having - 1)).sqrt()
    return effects


def ratio_effects(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Effects [G] of the groups on Σ numerator / Σ denominator, from the two sums [G] of every group."""
    total = denominator.sum()
    return (numerator - numerator.sum() / total * denominator) / total


def interval(metric: str, value: float, effects: Tensor, groups: int, share: float) -> Interval | None:
    """The 95 % interval of a metric; None if the data do not tell.

    Args:
        metric: its name, which says on what scale the interval is symmetric.
        value: the metric on all rows.
        effects: [≥ G] effects of the groups in the sample; zeros do no harm.
        groups: G, groups in the sample.
        share: rows of the sample over all rows.
    """
    return scaled_interval(METRICS[metric].is_bounded, value, effects, groups, share)


def scaled_interval(bounded: bool, value: float, effects: Tensor, groups: int, share: float) -> Interval | None:
    """The same of any number; `bounded`: it lies between 0 and 1."""
    spread = _spread(effects, groups)
    if groups < MIN_GROUPS or spread is None:
        return None
    half = spread * math.sqrt(share)
    if bounded:  # symmetric on the scale of log(a / (1 − a)), so that it stays between 0 and 1
        if not 0 < value < 1:
            return None  # no pair is in the wrong order, which says little about the next pair
        centre, half = math.log(value / (1 - value)), half / (value * (1 - value))
        return 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))
    if value > 0:  # symmetric on the log scale: errors and ratios are above 0 and skewed
        grown = math.exp(min(half / value, 300.0))
        return value / grown, value * grown
    return value - half, value + half


def fold(effects: Tensor, group: Tensor, share: float) -> list[float]:
    """Sum the effects [G] into `BUCKETS` numbers by the hash of the group [G], scaled to all rows.

    They are small enough to keep, and two evaluations of the same rows put a group into the same bucket, so
    `changes.difference` can compare them; groups that share a bucket add up like independent ones. Empty if an effect is not
    finite.
    """
    folded = torch.zeros(BUCKETS, dtype=torch.float64, device=effects.device)
    folded.index_add_(0, group & (BUCKETS - 1), effects)
    largest = float(folded.abs().max())
    if not math.isfinite(largest):
        return []
    decimals = 6 - math.floor(math.log10(largest)) if largest > 0 else 0
    return [round(v, decimals) for v in (folded * math.sqrt(share)).tolist()]


def _spread(effects: Tensor, groups: int) -> float | None:
    """Half the width of the interval; None if it is not finite."""
    squares = effects.double().square()
    return half_width(float(squares.sum()), float(squares.square().sum()), groups)
