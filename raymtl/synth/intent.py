"""Hidden intent, with `hidden_intent`: what a visitor came for, which no column shows.

One standard normal number h per request adds `hidden_intent` · LOADS · h to the scores of click, cart and buy. Visitors who click
are therefore those who came to buy: P(buy | click) is above the probability that a visitor buys who is made to click. The true
probabilities in the logs are those given the columns, means over h; they are integrals against the normal density, computed by
Gauss-Hermite quadrature.

Shapes: N rows, R requests, O outputs.
"""

import numpy as np

from raymtl.synth.truth import BUY, CART, CLICK, chances

LOADS = np.array([0.8, 0.6, 0.8], dtype=np.float32)
"""Effect of h on the scores of click, cart and buy at `hidden_intent` 1."""
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(11)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def draw(requests: int, width: int, random: np.random.Generator) -> np.ndarray:
    """The intent of the rows of R requests of `width` rows, [N, 1] float32; the rows of a request share theirs."""
    return np.repeat(random.standard_normal((requests, 1), dtype=np.float32), width, axis=0)


def shifted(scores: np.ndarray, strength: float, intent: np.ndarray | float) -> np.ndarray:
    """Scores of the funnel [N, 3] of visitors with this intent, from scores [N, O]."""
    return scores[:, [CLICK, CART, BUY]] + np.float32(strength) * LOADS * intent


def mean_chances(scores: np.ndarray, strength: float) -> np.ndarray:
    """P(click), P(cart), P(buy) given the columns alone, [N, 3], from scores without intent [N, O]."""
    return _mean(scores, strength, chances)


def bought_if_clicked(scores: np.ndarray, strength: float) -> np.ndarray:
    """P(buy) of a visitor who is made to click, whatever the intent, given the columns, [N]."""
    return _mean(scores, strength, lambda funnel: np.prod(1 / (1 + np.exp(-funnel[:, 1:])), axis=1))


def _mean(scores: np.ndarray, strength: float, function) -> np.ndarray:
    parts = (w * function(shifted(scores, strength, float(h))) for h, w in zip(_POINTS, _WEIGHTS, strict=True))
    return sum(parts).astype(np.float32)
