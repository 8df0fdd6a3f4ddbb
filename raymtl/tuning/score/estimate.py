"""What a formula would have earned, from a slice of the logs in which chance decided what was shown.

For every row i of a list, e_i is the probability with which the policy that wrote the logs shows it, o_i whether it did, g_i its
gain, and s_i the chance to be seen under the formula. If the gain of a row that is shown does not depend on its place and on the
other rows, these are unbiased estimates of the gain of a list, whatever the model is worth:

    IPS    Σ s_i · o_i · g_i / e_i                        Horvitz & Thompson, JASA 47 (1952)
    DR     Σ s_i · (m_i + o_i · (g_i − m_i) / e_i)        Dudík, Langford & Li, ICML 2011, section 3
    SNIPS  IPS · Σ s_i / (Σ s_i · o_i / e_i)              Swaminathan & Joachims, NIPS 2015: sums over all lists; biased by O(1/n)

m_i is the gain that the model predicts (`Sessions.expected`). DR varies less the better the model is. Sums over all lists are
weighted by the lists. Shapes: N rows, L lists.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raymtl.config.score import Formula
from raymtl.tuning.score.sessions import Sessions


@dataclass(frozen=True)
class OffPolicy:
    """Estimates of the gain of a list."""

    by_list: dict[str, Tensor]
    """[L] float64, by method; the estimate is the mean weighted by the lists, and the interval that of the mean."""
    effective_rows: float
    """(Σ w)² / Σ w² of the weights w = s · o / e, times those of the lists: so many rows without weights would tell as much."""


def off_policy(sessions: Sessions, formula: Formula) -> OffPolicy:
    """The estimates of a formula on the randomised slice."""
    assert sessions.propensity is not None
    assert sessions.shown is not None
    share = sessions.shares(formula)
    weight = share * sessions.shown / sessions.propensity
    gain = sessions.labels @ sessions.weights
    predicted = torch.stack(list(sessions.expected.values()), 1).double() @ sessions.weights
    ips = sessions.sum(weight * gain)
    doubly_robust = sessions.sum(share * predicted + weight * (gain - predicted))
    snips = _self_normalised(sessions, ips, sessions.sum(weight), sessions.sum(share))
    weight = weight * sessions.weight[sessions.lists]
    return OffPolicy(
        {"IPS": ips, "SNIPS": snips, "DR": doubly_robust},
        float(weight.sum().square() / weight.square().sum().clamp(min=1e-300)),
    )


def _self_normalised(sessions: Sessions, ips: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    """Numbers of the lists whose mean is SNIPS, and whose spread is that of the ratio to first order."""
    scale = sessions.means(weight).clamp(min=1e-300)
    ratio = sessions.means(ips) / scale
    return sessions.means(share) * (ratio + (ips - ratio * weight) / scale)
