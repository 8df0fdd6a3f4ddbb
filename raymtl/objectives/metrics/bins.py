"""Score histograms that give AUC to 1e-4 at any scale of the logits, from a fixed number of additive counters.

One histogram of reasonable size cannot do it: the probabilities of rare events share a few bins, and even over logits a fresh
model, whose outputs differ in the third decimal, falls into one bin. Here each logit becomes one order-preserving integer, its
*key*, and the key is counted four times, at four resolutions (`LEVELS`):

    level   step     bins     what is counted
    0       2^-10    38 912   the key itself: the whole line
    1       2^-14     8 192   the key modulo 1/2 (in logits)
    2       2^-18     8 192   the key modulo 1/32
    3       2^-22     8 192   the key modulo 1/512

Level 0 compares all pairs that fall into different bins of width 0.001. Of the pairs that share a bin, level 1 says which came
first, but it is folded: bins that lie a whole window apart are counted together. So for each of the 512 fold classes `auc` asks
level 0 whether most of the pairs in the class come from one and the same bin; and uses level 1 only then, and so on
downwards. Scores that are spread out are resolved by level 0 and need no more; scores that lie within one window of each other
have that window to themselves, and the next level resolves them 16 times finer. So at every scale hundreds of bins or more are
in play, down to logits that differ by 2^-22 (2.4e-7, the spacing of 32-bit floats between 2 and 4); what is closer counts as
tied, half a pair. Since everything is a count in a bin that never moves, the states of any number of workers are summed, and no
worker has to agree with the others on a range first.

Magnitudes of 16 and more run on a logarithmic scale (256 bins of level 0 and 2^20 keys per doubling, so steps of a millionth
of the logit) up to 65 536, where they saturate.

What is left is the order of pairs inside one bin, which is as good as random: with K bins in play and n positives the error of
AUC has a standard deviation near 1 / (K·sqrt(12·n)). `docs/metrics.md` has the measured errors.

Shapes: M bins; `...` any leading dims.
"""

import torch
from torch import Tensor

_FINEST = 2.0**22  # keys per unit of logit, where |logit| < LINEAR
_LINEAR = 16.0
_LINEAR_BITS = 0x41800000  # the bit pattern of 16.0
_LOG_SHIFT = 3  # 2^23 bit patterns per doubling become 2^20 keys
_HALF = 19 * 1024  # bins of level 0 on either side of zero: 16 · 1024 linear ones, then 12 doublings of 256
_CLASSES = 512  # bins of the coarser level that one window holds

_SHIFTS = (12, 8, 4, 0)
LEVELS = (2 * _HALF, 16 * _CLASSES, 16 * _CLASSES, 16 * _CLASSES)
"""Bins of each level."""
COARSE = LEVELS[0]
"""Bins of level 0, which alone are enough for calibration curves."""
BINS = sum(LEVELS)
"""Counters of one histogram."""

_TRUST = 4.0
"""A fold class is believed if pairs of one and the same coarser bin outnumber the others in it by this factor."""


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


def slots(key: Tensor, levels: int = len(LEVELS)) -> list[Tensor]:
    """Give the counter of each level for every key: `levels` int32 tensors of the keys' shape, in [0, BINS)."""
    found = [key >> _SHIFTS[0]]
    start = LEVELS[0]
    for shift, bins in zip(_SHIFTS[1:levels], LEVELS[1:levels], strict=True):
        found.append(((key >> shift) & (bins - 1)) + start)
        start += bins
    return found


def centres(device: torch.device | str = "cpu") -> Tensor:
    """Give the logit in the middle of every bin of level 0: float64 [COARSE], ascending."""
    middle = (torch.arange(_HALF, device=device) * 2 + 1) << (_SHIFTS[0] - 1)
    edge = int(_LINEAR * _FINEST)
    bits = ((middle - edge).clamp(min=0) << _LOG_SHIFT) + _LINEAR_BITS
    size = torch.where(middle < edge, middle.double() / _FINEST, bits.to(torch.int32).view(torch.float32).double())
    return torch.cat([-size.flip(0), size])


def auc(negatives: Tensor, positives: Tensor) -> Tensor:
    """Area under the ROC curve from two histograms [..., BINS] or [..., COARSE] of weights, as float64 [...].

    Ties count one half. NaN where either side is empty: there is no such area, and 0.5 would be a lie.
    """
    wins = torch.zeros(negatives.shape[:-1], dtype=torch.float64, device=negatives.device)
    belongs: Tensor | None = None  # [..., C] weight of the pairs of class c that share their bin on the level above
    start = 0
    for bins in LEVELS:
        if start >= negatives.shape[-1]:
            break
        n, p = negatives[..., start : start + bins], positives[..., start : start + bins]
        start += bins
        if belongs is None:
            wins += _wins(n, p)
            pairs = n * p
        else:
            n, p = n.unflatten(-1, (_CLASSES, -1)), p.unflatten(-1, (_CLASSES, -1))
            total = n.sum(-1) * p.sum(-1)
            trusted = (total > 0) & (total <= belongs * (1 + 1 / _TRUST) * (1 + 1e-9))
            # The level above gave these pairs one half each; put what this level found in its place.
            wins += torch.where(trusted, _wins(n, p) - 0.5 * total, 0.0).sum(-1)
            pairs = torch.where(trusted.unsqueeze(-1), n * p, 0.0).flatten(-2)
        belongs = pairs.unflatten(-1, (-1, _CLASSES)).sum(-2)
    total = negatives[..., :COARSE].sum(-1) * positives[..., :COARSE].sum(-1)
    return torch.where(total > 0, wins / total, torch.nan)


def _wins(negatives: Tensor, positives: Tensor) -> Tensor:
    """Weight of the pairs [...] whose positive lies in a higher bin, plus half of those that share one; bins on the last dim."""
    below = negatives.cumsum(-1) - 0.5 * negatives
    return (positives * below).sum(-1)
