"""Score histograms that give AUC to 1e-4 at any scale of the logits, from a fixed number of additive counters.

One histogram of reasonable size cannot do it: the probabilities of rare events share a few bins, and even over logits a fresh
model, whose outputs differ in the third decimal, falls into one bin. Here each logit becomes one order-preserving integer, its
*key*, and the key is counted four times, at four resolutions (`LEVELS`):

    level   step     bins        what is counted
    0       2^-10    38 912      the key itself: the whole line
    1       2^-14    2 · 8 192   the key within its bin of level 0, in two tables
    2       2^-18    2 · 8 192   the key within its bin of width 2^-14, in two tables
    3       2^-22    2 · 8 192   the key within its bin of width 2^-18, in two tables

Level 0 compares all pairs that fall into different bins of width 0.001. Of the pairs that share a bin, level 1 says which came
first: it cuts each bin into 16. But a table has room for 512 bins, the *classes*, and bins of one class are counted together.
Which class a bin has differs between the two tables: in the first it is the number of the bin modulo 512, so that bins of one
window of half a logit never meet; in the second a multiplicative hash, so that bins at equal distances do not meet either. For
every bin `auc` takes the table in which the pairs of the bin are the greater part of those of its class, and what it finds
there is cut again by level 2, and so on downwards. A bin that meets others in both tables is left at one half, as if its scores
were tied; `auc` returns how much that can matter. Scores that are spread out are resolved by level 0 and need no more;
scores in clusters, wherever these lie, are resolved down to logits that differ by 2^-22 (2.4e-7, the spacing of 32-bit floats
between 2 and 4); what is closer counts as tied, half a pair. Since everything is a count in a bin that never moves, the states of
any number of workers are summed, and no worker has to agree with the others on a range first.

Magnitudes of 16 and more run on a logarithmic scale (256 bins of level 0 and 2^20 keys per doubling, so steps of a millionth
of the logit) up to 65 536, where they saturate.

What is left is the order of pairs inside one bin, which is as good as random: with K bins in play and n positives the error of
AUC has a standard deviation near 1 / (K·sqrt(12·n)). `docs/metrics.md` has the measured errors.

Shapes: M bins, C bins of a level that are looked into further.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

_FINEST = 2.0**22  # keys per unit of logit, where |logit| < LINEAR
_LINEAR = 16.0
_LINEAR_BITS = 0x41800000  # the bit pattern of 16.0
_LOG_SHIFT = 3  # 2^23 bit patterns per doubling become 2^20 keys
_HALF = 19 * 1024  # bins of level 0 on either side of zero: 16 · 1024 linear ones, then 12 doublings of 256
_CLASSES = 512  # of a finer table, of 16 bins each
_SPLIT = 16
_HASH = 0x9E3779B1  # 2^32 over the golden ratio (Knuth): multiples of any step are spread evenly
_HASH_SHIFT = 32 - 9

_SHIFTS = (12, 8, 4, 0)
_TABLES = 2
LEVELS = (2 * _HALF, *[_SPLIT * _CLASSES] * (_TABLES * (len(_SHIFTS) - 1)))
"""Bins of level 0, and of each table of the finer levels."""
COARSE = LEVELS[0]
"""Bins of level 0, which alone are enough for calibration curves."""
BINS = sum(LEVELS)
"""Counters of one histogram."""

_TRUST = 0.8
"""A bin is resolved if its own pairs are this share of those of its class."""
_MOST = 4096
"""Bins of a level that are looked into further, those with the most pairs; more share too few to matter."""


def keys(logits: Tensor) -> Tensor:
    """Map finite float32 logits of any shape to int32 keys ≥ 0 of the same shape; a larger logit never has a smaller key.

    Below 16 the key counts steps of 2^-22. From 16 on it follows the bit pattern of the float, which is a logarithm made of
    straight pieces: integer arithmetic only, so equal logits get equal keys on every device.
    """
    size = logits.abs()
    straight = (size.clamp(max=_LINEAR) * _FINEST).to(torch.int32)
    beyond = (size.contiguous().view(torch.int32) - _LINEAR_BITS).clamp_(min=0).bitwise_right_shift_(_LOG_SHIFT)
    size_key = (straight + beyond).clamp_(max=(_HALF << _SHIFTS[0]) - 1)
    # Below zero the order turns round: ~k is -1 - k, so that the first bins on the two sides do not merge.
    signed = torch.where(logits < 0, size_key.bitwise_not(), size_key)
    return signed + (_HALF << _SHIFTS[0])


def slots(key: Tensor, levels: int = len(_SHIFTS)) -> list[Tensor]:
    """Give the counters of the first levels for every key: tensors of the keys' shape, in [0, BINS), one per table."""
    found = [key >> _SHIFTS[0]]
    start = LEVELS[0]
    for coarse, fine in itertools.pairwise(_SHIFTS):
        inside = (key >> fine) & (_SPLIT - 1)
        for classes in _classes(key >> coarse):
            found.append(classes * _SPLIT + inside + start)
            start += _SPLIT * _CLASSES
    return found


def _classes(number: Tensor) -> tuple[Tensor, Tensor]:
    """The class of a bin in each of the two tables, from its number on its level."""
    hashed = (number.long() * _HASH & 0xFFFFFFFF) >> _HASH_SHIFT
    return number & (_CLASSES - 1), hashed


def centres(device: torch.device | str = "cpu") -> Tensor:
    """Give the logit in the middle of every bin of level 0: float64 [COARSE], ascending."""
    middle = (torch.arange(_HALF, device=device) * 2 + 1) << (_SHIFTS[0] - 1)
    edge = int(_LINEAR * _FINEST)
    bits = ((middle - edge).clamp(min=0) << _LOG_SHIFT) + _LINEAR_BITS
    size = torch.where(middle < edge, middle.double() / _FINEST, bits.to(torch.int32).view(torch.float32).double())
    return torch.cat([-size.flip(0), size])


class Area(NamedTuple):
    """The area under a ROC curve; NaN where one side is empty: there is no such area, and 0.5 would be a lie."""

    auc: float
    error: float
    """What the exact area can differ by, because some bins were not resolved."""


def auc(negatives: Tensor, positives: Tensor) -> Area:
    """Area under the ROC curve from two histograms [BINS] or [COARSE] of weights. Ties count one half."""
    n, p = negatives[:COARSE], positives[:COARSE]
    total = (n.sum() * p.sum()).item()
    if total <= 0:
        return Area(torch.nan, torch.nan)
    wins = (p * (n.cumsum(0) - 0.5 * n)).sum()
    error = torch.zeros_like(wins)
    number = torch.arange(COARSE, device=n.device)
    start = COARSE
    while start < len(negatives):
        tables = [_table(side, start) for side in (negatives, positives)]
        start += _TABLES * _SPLIT * _CLASSES
        pairs = n * p
        kept = pairs.topk(min(_MOST, len(pairs))).indices
        error += 0.5 * (pairs.sum() - pairs[kept].sum())
        number, n, p, pairs = number[kept], n[kept], p[kept], pairs[kept]
        place = torch.stack(_classes(number))
        fine_n, fine_p = (table.gather(1, place.unsqueeze(2).expand(-1, -1, _SPLIT)) for table in tables)  # [2, C, 16]
        class_n, class_p = fine_n.sum(2), fine_p.sum(2)
        # How much of its class a bin is, at most 1 but for rounding; without pairs there is nothing to resolve
        own, best = torch.where(pairs > 0, pairs / (class_n * class_p).clamp(min=pairs), 0.0).max(0)
        pick = best.unsqueeze(0)
        fine_n, fine_p = (
            torch.where((size > 0).unsqueeze(2), fine / size.unsqueeze(2), 0.0).gather(
                0, pick.unsqueeze(2).expand(-1, -1, _SPLIT)
            )[0]
            for fine, size in ((fine_n, class_n), (fine_p, class_p))
        )  # [C, 16] shares of the bin
        solved = own > _TRUST
        share = (fine_p * (fine_n.cumsum(1) - 0.5 * fine_n)).sum(1)
        wins += (pairs * (share - 0.5))[solved].sum()
        error += torch.where(solved, 1 - own, 0.5) @ pairs
        number = (number[solved, None] * _SPLIT + torch.arange(_SPLIT, device=n.device)).flatten()
        n, p = ((side[:, None] * fine)[solved].flatten() for side, fine in ((n, fine_n), (p, fine_p)))
    return Area((wins / total).item(), (error / total).item())


def _table(histogram: Tensor, start: int) -> Tensor:
    """The two tables of a level, [2, classes, 16]."""
    return histogram[start : start + _TABLES * _SPLIT * _CLASSES].view(_TABLES, _CLASSES, _SPLIT)
