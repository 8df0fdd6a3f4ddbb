"""Products, mixtures and distances of probabilities, from logits to logits.

A product as p·q underflows or is clipped, and a clipped row has no gradient, so the most informative positives do not
contribute to training. As a logit every composite probability goes into the ordinary cross entropy, without a clipping constant.

All functions broadcast, compute in fp32 (fp64 stays fp64) and are finite, with finite gradients, for logits of ±1e4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def logit_prod(a: Tensor, b: Tensor) -> Tensor:
    """logit(σ(a)·σ(b)) = −log(e^−a + e^−b + e^−(a+b)); never above a or b, not even by rounding."""
    a, b = torch.broadcast_tensors(_wide(a), _wide(b))
    return -torch.logsumexp(torch.stack((-a, -b, -a - b)), 0)


def logit_mix(gate: Tensor, on: Tensor, off: Tensor) -> Tensor:
    """logit(g·σ(on) + (1 − g)·σ(off)) with g = σ(gate)."""
    gate, on, off = _wide(gate), _wide(on), _wide(off)
    g, not_g = F.logsigmoid(gate), F.logsigmoid(-gate)
    log_p = torch.logaddexp(g + F.logsigmoid(on), not_g + F.logsigmoid(off))
    log_not_p = torch.logaddexp(g + F.logsigmoid(-on), not_g + F.logsigmoid(-off))
    return log_p - log_not_p


def sym_kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(p‖q) + KL(q‖p) = (p − q)·(a − b) of two Bernoulli variables with p = σ(a), q = σ(b)."""
    a, b = torch.broadcast_tensors(_wide(a), _wide(b))
    # Near 1 the difference of the probabilities is lost to rounding; that of their complements, the same number, is not.
    flip = a + b > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    return (a.sigmoid() - b.sigmoid()) * (a - b)
