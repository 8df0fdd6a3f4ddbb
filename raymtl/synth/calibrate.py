"""Calibrate the intercepts so that the logs have the rates of the spec."""

import numpy as np

from raymtl.synth import engagement
from raymtl.synth.shard import Shard, start_intercepts
from raymtl.synth.spec import SynthSpec
from raymtl.synth.truth import CART, CLICK, OUTPUTS

_CALIBRATION_REQUESTS = 6000


def calibrate(spec: SynthSpec) -> np.ndarray:
    """Intercepts [S, O] that give the rates of `spec` on its first day, from a sample of requests."""
    intercepts = start_intercepts(spec)
    single_shard = spec.model_copy(update={"shards": 1})
    shard = Shard(single_shard, 0, intercepts)
    scores, scenario = shard.sample(_CALIBRATION_REQUESTS)
    shares = np.array([s.share for s in spec.scenarios])
    shares = shares / shares.sum()
    weight = np.zeros(len(scores))
    for number, kind in enumerate(spec.scenarios):
        here = scenario == number
        if not here.any():
            here[:] = True  # the scenario is too rare for the sample: calibrate on all of it
        intercepts[number, CLICK] = _solve(scores[here, CLICK], np.ones(here.sum()), kind.click_rate)
        weight[here] = shares[number] / here.sum()
    weight /= weight.mean()
    reached = weight / (1 + np.exp(-scores[:, CLICK] - intercepts[scenario, CLICK]))
    if spec.engagement:
        for output, rate in enumerate(engagement.RATES, start=len(OUTPUTS)):
            intercepts[:, output] = _solve(scores[:, output], reached, rate)
    for output, rate in ((CART, spec.cart_rate), (CART + 1, spec.buy_rate)):
        intercepts[:, output] = _solve(scores[:, output], reached, rate)
        reached = reached / (1 + np.exp(-scores[:, output] - intercepts[0, output]))
    return intercepts


def _solve(scores: np.ndarray, reached: np.ndarray, rate: float) -> float:
    """The intercept with which mean(reached · σ(scores + intercept)) is `rate`, by bisection; ±20 if impossible."""
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if (reached / (1 + np.exp(-scores - middle))).mean() < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2
