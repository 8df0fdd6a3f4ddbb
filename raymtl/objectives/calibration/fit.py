"""Fit the maps of all outputs and scenarios from score histograms; scenarios with few positives stay near the map of all rows.

The prior is made of rows: every row counts once more, with the label that is expected before the fit as a fraction, at a weight
that makes these rows worth `prior_positives` positives. The expectation is the model's own prediction for the map of all rows,
and that map's for the map of a scenario. So without rows, the map of all rows is the identity and that of a scenario the map of
all rows; with P positives the prior has the weight prior_positives / (P + prior_positives), about.

Shapes: U outputs, S scenarios, M bins, K knots.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raymtl.objectives.calibration.counts import NEGATIVE, POSITIVE, ScoreCounts
from raymtl.objectives.calibration.isotonic import fit_isotonic
from raymtl.objectives.calibration.maps import Method, apply_map, identity_of
from raymtl.objectives.calibration.platt import fit_platt
from raymtl.objectives.metrics import bins

_FAR = 500.0
Map = Callable[[Tensor], Tensor]
"""Logits [M] -> calibrated logits [M]."""


def fit_maps(counts: ScoreCounts, method: Method, by_scenario: bool, prior_positives: float) -> Tensor:
    """The parameters of all maps in float32: [S or 1, U, 2] for `platt`, [S or 1, U, 2, K] for `isotonic`."""
    weights, squares = counts.weights.cpu(), counts.squares.cpu()
    found = [_fit_output(weights[u], squares[u], method, by_scenario, prior_positives) for u in range(weights.shape[0])]
    return torch.stack(found, 1).float()


def _fit_output(weights: Tensor, squares: Tensor, method: Method, by_scenario: bool, prior_positives: float) -> Tensor:
    """The parameters of the maps of one output, from weights [S, 2, M] and squares [S, 2]."""
    everywhere = _fit(weights.sum(0), squares.sum(0), method, lambda a: a, identity_of(method), prior_positives)
    if not by_scenario:
        return everywhere.unsqueeze(0)

    def of_all(a: Tensor) -> Tensor:
        return apply_map(method, everywhere, a)

    parts = zip(weights, squares, strict=True)
    return torch.stack([_fit(w, q, method, of_all, everywhere, prior_positives) for w, q in parts])


def _fit(
    weights: Tensor, squares: Tensor, method: Method, expected: Map, otherwise: Tensor, prior_positives: float
) -> Tensor:
    """The parameters of one map, `otherwise` where there are no rows; weights [2, M], squares [2]."""
    there = weights.sum(0).nonzero().flatten()
    if not len(there):
        return otherwise
    a = bins.centres()[there]
    negatives, positives = weights[NEGATIVE, there], weights[POSITIVE, there]
    # The prior must leave no bin without a share of both labels, so p and 1 − p must not underflow
    mass, z = negatives + positives, expected(a).clamp(-_FAR, _FAR)
    p, not_p = torch.sigmoid(z), torch.sigmoid(-z)
    # Weights have a scale of their own, so a positive of the prior weighs as much as those that are there
    side = POSITIVE if positives.sum() > 0 else NEGATIVE
    of_one = squares[side] / weights[side].sum()
    share = prior_positives * of_one / (mass @ p)
    negatives = negatives + share * mass * not_p
    positives = positives + share * mass * p
    if method == "platt":
        return torch.tensor(fit_platt(a, negatives, positives), dtype=torch.float64)
    return torch.stack(fit_isotonic(a, negatives, positives))
