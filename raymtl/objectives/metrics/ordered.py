"""Metrics of the order that predictions bring rows into, exact on the rows of the sample, with the effects of groups on them.

All are ratios of sums over pairs or prefixes of rows. The derivative with respect to the weight of a row, times the weight, is
the row's effect (the infinitesimal jackknife; `intervals.py`). Rows of equal scores have no order: half of their pairs count as
right, as in AUC.

Shapes: N rows, G groups; `index` [N] is the group of each row.
"""

import torch
from torch import Tensor

from raymtl.objectives.metrics.curves import reliability

DECILES = 10


def average_precision(
    scores: Tensor, positive: Tensor, weight: Tensor, index: Tensor, groups: int
) -> tuple[float | None, Tensor]:
    """PR-AUC as the average precision, Σ (R_k − R_k−1)·P_k over the thresholds k, and the effects [G]; None without a positive.

    A threshold lies below all rows of one score, so no tie is broken; Davis & Goadrich, ICML 2006, say why not to interpolate.
    """
    scores, order = scores.sort(descending=True)
    w, p, index = weight[order].double(), (weight * positive)[order].double(), index[order]
    run, runs = _runs(scores)
    of_run = torch.zeros(2, runs, dtype=torch.float64, device=w.device)
    of_run[0].index_add_(0, run, p)
    of_run[1].index_add_(0, run, w)
    hits, seen = of_run.cumsum(1)
    total = p.sum()
    if total <= 0:
        return None, p.new_zeros(groups)
    precision = hits / seen
    value = (of_run[0] * precision).sum() / total
    # What a row adds to the precision of its own threshold and of all below
    below = torch.stack((of_run[0] * (seen - hits) / seen**2, -of_run[0] * hits / seen**2)).flip(1).cumsum(1).flip(1)
    moved = torch.where(p > 0, precision[run] + below[0][run] - value, below[1][run]) * w / total
    return float(value), moved.new_zeros(groups).index_add_(0, index, moved)


def gini(scores: Tensor, labels: Tensor, weight: Tensor, index: Tensor, groups: int) -> tuple[float | None, Tensor]:
    """Normalised Gini coefficient and the effects [G]; None if all labels are equal.

    The Gini coefficient of the labels in the order of the scores over that in their own order, Σ_ij (y_i − y_j)·sgn(s_i − s_j)
    over Σ_ij |y_i − y_j|: areas between the Lorenz curve and the diagonal (Wang et al. 2019, section 4.2). 1 for the right order,
    0 for a random one, and 2·AUC − 1 for labels 0 and 1.
    """
    y, w = labels.double(), weight.double()
    above, below = w * _signed_gaps(scores, y, w), w * _signed_gaps(y, y, w)
    return _pairs_ratio(above, below, index, groups)


def concordance(
    scores: Tensor, labels: Tensor, weight: Tensor, index: Tensor, groups: int
) -> tuple[float | None, Tensor]:
    """Share of the pairs of rows with different labels whose scores are in the order of the labels, ties one half, and the
    effects [G]; None if all labels are equal.

    It is Harrell's C without censoring, and the XAUC of Zhan et al., KDD 2022, over all pairs in place of a sample of them.
    """
    w = weight.double()
    _, code = labels.unique(return_inverse=True)
    of_label = torch.zeros(int(code.max()) + 1 if len(code) else 0, dtype=torch.float64, device=w.device)
    of_label.index_add_(0, code, w)
    comparable = w * (w.sum() - of_label[code])
    right = w * _concordant(scores, code, w)
    return _pairs_ratio(right, comparable, index, groups)


def decile_error(scores: Tensor, predictions: Tensor, labels: Tensor, weight: Tensor) -> float | None:
    """Calibration by decile: Σ_d |Σ predictions − Σ labels| / Σ_d |Σ labels| over ten groups of equal weight in the order of the
    scores; None if the labels sum to 0 in each.

    A decile weighs as its labels do: with 99 % zeros, the mean of the relative errors (the decile MAPE of Wang et al. 2019) has
    no value wherever a decile has no label above 0.
    """
    scores, order = scores.sort()
    run, runs = _runs(scores)
    w = weight[order].double()
    columns = torch.stack((w * predictions[order].double(), w * labels[order].double(), w))
    sums = torch.zeros(3, runs, dtype=torch.float64, device=w.device).index_add_(1, run, columns)
    found = reliability(*sums.unbind(), buckets=DECILES)
    size = sum(abs(bucket["label"]) * bucket["count"] for bucket in found)
    wrong = sum(abs(bucket["prediction"] - bucket["label"]) * bucket["count"] for bucket in found)
    return wrong / size if size > 0 else None


def _pairs_ratio(above: Tensor, below: Tensor, index: Tensor, groups: int) -> tuple[float | None, Tensor]:
    """Σ above / Σ below, each the sum over the pairs that a row is in, and the effects: a pair has two rows, hence the 2."""
    total = below.sum()
    effects = above.new_zeros(groups)
    if total <= 0:
        return None, effects
    value = above.sum() / total
    return float(value), effects.index_add_(0, index, 2 * (above - value * below) / total)


def _runs(ordered: Tensor) -> tuple[Tensor, int]:
    """The number of each row's run of equal values, and how many runs there are."""
    opens = torch.zeros_like(ordered, dtype=torch.int64)
    opens[1:] = ordered[1:] != ordered[:-1]
    run = opens.cumsum(0)
    return run, int(run[-1]) + 1 if len(run) else 0


def _signed_gaps(scores: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Σ_j w_j (y_i − y_j)·sgn(s_i − s_j) of every row i."""
    ordered, order = scores.sort()
    run, runs = _runs(ordered)
    sums = torch.zeros(2, runs, dtype=torch.float64, device=w.device)
    sums.index_add_(1, run, torch.stack((w, w * y))[:, order])
    upto = sums.cumsum(1)
    weight, label = (2 * upto - sums - upto[:, -1:])[:, run]  # of the rows below, less those above
    return torch.empty_like(w).scatter_(0, order, y[order] * weight - label)


def _concordant(scores: Tensor, code: Tensor, w: Tensor) -> Tensor:
    """Weight of the rows that are in the right order with each row, half of those with the same score and another label.

    The labels' codes are compared bit by bit: two rows differ first in one bit, and at that bit a cumulative sum counts, among
    the rows with the same bits above it, those with a 0 before each 1 and those with a 1 after each 0.
    """
    order = code.argsort(descending=True, stable=True)
    order = order[scores[order].argsort(stable=True)]  # a tie has the larger label first, so it counts as wrong
    found = torch.zeros_like(w)
    for bit in reversed(range(int(code.max()).bit_length() if len(code) else 0)):
        one, mass = (code[order] >> bit & 1).bool(), w[order]
        block, blocks = _runs(code[order] >> bit + 1)
        sums = torch.zeros(2, blocks, dtype=torch.float64, device=w.device)
        zeros, ones = mass * ~one, mass * one
        sums.index_add_(1, block, torch.stack((zeros, ones)))
        start, end = sums.cumsum(1) - sums, sums.cumsum(1)
        before, after = zeros.cumsum(0) - start[0][block], end[1][block] - ones.cumsum(0)
        found.index_add_(0, order, torch.where(one, before, after))
        order = order[(code[order] >> bit).argsort(stable=True)]
    ordered, by_score = scores.sort()
    run, runs = _runs(ordered)
    tied = torch.zeros(runs, dtype=torch.float64, device=w.device).index_add_(0, run, w[by_score])
    same_label = _tied_in_both(run, code[by_score], w[by_score])
    return found.index_add_(0, by_score, 0.5 * (tied[run] - same_label))


def _tied_in_both(run: Tensor, code: Tensor, w: Tensor) -> Tensor:
    """Weight of the rows with the run and the code of each row, itself included."""
    _, both = (run * (int(code.max()) + 1 if len(code) else 1) + code).unique(return_inverse=True)
    return torch.zeros_like(w).index_add_(0, both, w)[both]
