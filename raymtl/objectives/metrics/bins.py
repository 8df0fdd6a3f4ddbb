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
Which class a bin has differs between the two tables: in the first it is the number of the bin modulo 509, a prime, so that
neither bins of one window of half a logit meet, nor bins at equal distances, unless these are multiples of 509; in the second
it is a hash. A bin that is alone in one of its classes is cut there, and what it holds is taken out of the other table, which
may leave another bin alone, and so on; what is found is cut again by level 2, and so on downwards. Bins that meet in both
tables are left at one half, as if their scores were tied; `auc` returns how much that can matter. Scores that are spread out
are resolved by level 0 and need no more; scores in clusters, wherever these lie, are resolved down to logits that differ by
2^-22 (2.4e-7, the spacing of 32-bit floats between 2 and 4); what is closer counts as tied, half a pair. Since everything is a
count in a bin that never moves, the states of any number of workers are summed, and no worker has to agree with the others on a
range first.

Magnitudes of 16 and more run on a logarithmic scale (256 bins of level 0 and 2^20 keys per doubling, so steps of a millionth
of the logit) up to 65 536, where they saturate.

What is left is the order of pairs inside one bin, which is as good as random: with K bins in play and n positives the error of
AUC has a standard deviation near 1 / (K·sqrt(12·n)). `docs/metrics.md` has the measured errors.

Shapes: M bins, C bins of a level that are looked into further.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

_FINEST = 2.0**22  # keys per unit of logit, where |logit| < LINEAR
_LINEAR = 16.0
_LINEAR_BITS = 0x41800000  # the bit pattern of 16.0
_LOG_SHIFT = 3  # 2^23 bit patterns per doubling become 2^20 keys
_HALF = 19 * 1024  # bins of level 0 on either side of zero: 16 · 1024 linear ones, then 12 doublings of 256
_CLASSES = 512  # of a finer table, of 16 bins each
_PRIME = 509
_SPLIT = 16

_SHIFTS = (12, 8, 4, 0)
_TABLES = 2
LEVELS = (2 * _HALF, *[_SPLIT * _CLASSES] * (_TABLES * (len(_SHIFTS) - 1)))
"""Bins of level 0, and of each table of the finer levels."""
_LEVEL = _TABLES * _SPLIT * _CLASSES  # counters of each level but the first
COARSE = LEVELS[0]
"""Bins of level 0, which alone are enough for calibration curves."""
BINS = sum(LEVELS)
"""Counters of one histogram."""

_TRUST = 0.8
"""A bin is resolved if its own pairs are this share of those of its class."""
_MOST = 4096
"""Bins of a level that are looked into further, those with the most pairs; more share too few to matter."""
_DUST = 1e-6
"""Share of a class that is rounding."""
_ROUNDS = 24
"""Of taking out bins that are alone in a class; each takes many."""


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
    for coarse, fine in pairwise(_SHIFTS[:levels]):
        inside = (key >> fine) & (_SPLIT - 1)
        for classes in _classes(key >> coarse):
            found.append(classes * _SPLIT + inside + start)
            start += _SPLIT * _CLASSES
    return found


def _classes(number: Tensor) -> tuple[Tensor, Tensor]:
    """The class of a bin in each of the two tables, from its number on its level."""
    # Multiply, fold, multiply, as in the finalizer of MurmurHash3; its constants, in 32 of 64 bits
    mixed = number.long() * 0x85EBCA6B & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return number % _PRIME, (mixed ^ (mixed >> 16)) & (_CLASSES - 1)


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
    """What the exact area can differ by, because some bins were not resolved, or logits of 16 and more share a key."""


def auc(negatives: Tensor, positives: Tensor) -> Area:
    """Area under the ROC curve from two histograms [BINS] or [COARSE] of weights. Ties count one half."""
    sides = torch.stack([negatives, positives]).double()
    size = sides[:, :COARSE]  # [2, C] the weight of negatives and positives in each bin
    total = size.sum(1).prod()
    if total <= 0:
        return Area(torch.nan, torch.nan)
    wins = (size[1] * (size[0].cumsum(0) - 0.5 * size[0])).sum()
    error = torch.zeros_like(wins)
    number = torch.arange(COARSE, device=sides.device)
    for start in range(COARSE, sides.shape[1], _LEVEL):
        pairs = size.prod(0)
        # Bins without pairs come last: to know what they hold tells their share of a class from that of the others
        rank = pairs / pairs.sum().clamp(min=_DUST) + _DUST * (size.sum(0) / size.sum())
        kept = rank.topk(min(_MOST, int((rank > 0).sum()))).indices
        error += 0.5 * (pairs.sum() - pairs[kept].sum())
        number, size, pairs = number[kept], size[:, kept], pairs[kept]
        fine, own = _cut(sides[:, start : start + _LEVEL].view(2, _TABLES, _CLASSES, _SPLIT), number, size)
        wins += (fine[1] * (fine[0].cumsum(1) - 0.5 * fine[0])).sum() - 0.5 * pairs[own > 0].sum()
        error += torch.where(own > 0, 1 - own, 0.5) @ pairs
        number = (number[:, None] * _SPLIT + torch.arange(_SPLIT, device=sides.device))[own > 0].flatten()
        size = fine[:, own > 0].flatten(1)
    if sides.shape[1] == BINS:
        # A key beyond the linear part stands for eight floats; elsewhere what shares a key is as good as tied
        logarithmic = (number - (_HALF << _SHIFTS[0]) + 0.5).abs() > _LINEAR * _FINEST
        error += 0.5 * size.prod(0)[logarithmic].sum()
    return Area((wins / total).item(), (error / total).item())


def _cut(tables: Tensor, number: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Cut bins [C] of known number and size [2, C] into 16, by the tables [2, tables, classes, 16] of the next level.

    What is found is taken out of both tables, which leaves others alone in their class, as in an invertible Bloom lookup table
    (Goodrich & Mitzenmacher, Allerton 2011). Returns the sizes [2, C, 16], and how much of its class each bin was, [C]: 0 for one
    that was not cut.
    """
    place = torch.stack(_classes(number))
    left, fine = tables.clone(), size.new_zeros(*size.shape, _SPLIT)
    own, trust = size.new_zeros(len(number)), 1 - _DUST
    dust = _DUST**2 * size.sum(1, keepdim=True)
    for _ in range(_ROUNDS):
        found = torch.stack([left[:, table, place[table]] for table in range(_TABLES)])  # [tables, 2, C, 16]
        total = found.sum(3)
        shares = ((size + dust) / (torch.maximum(total, size) + dust)).prod(1)
        alone, pick = torch.where(own > 0, 0.0, shares).max(0)
        new = (alone > trust).nonzero().squeeze(1)
        if len(new) == 0 and trust == _TRUST:
            break
        if len(new) == 0:
            trust = _TRUST
            continue
        own[new] = alone[new]
        scale = torch.where(total > 0, size / total, 0.0)
        fine[:, new] = found[pick[new], :, new].transpose(0, 1) * scale[pick[new], :, new].T.unsqueeze(2)
        for table in range(_TABLES):
            left[:, table].index_add_(1, place[table, new], fine[:, new], alpha=-1)
        left.clamp_(min=0)
    return fine, own
