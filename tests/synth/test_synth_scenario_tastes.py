"""Tastes of scenarios: each weighs the same traits by its own numbers, from a random stream of their own."""

import numpy as np
import pytest

from raymtl.synth import SynthSpec
from raymtl.synth.calibrate import calibrate
from raymtl.synth.chance import generator
from raymtl.synth.scenario_tastes import LOADS, TRAITS, ScenarioTastes
from raymtl.synth.shard import Shard
from raymtl.synth.truth import BUY, CART, CLICK

SCENARIOS = [{"name": f"s{n}", "share": 1 / (n + 1), "click_rate": 0.15} for n in range(6)]
SPEC = SynthSpec(
    users=2000,
    items=500,
    days=1,
    rows_per_day=60_000,
    scenarios=SCENARIOS,
    cart_not_logged=(),
    scenario_tastes=2.0,
)


def test_scores_by_hand():
    spec = SPEC.model_copy(update={"signal": 0.5})
    draw = generator(spec.seed, 13)
    weights = draw.normal(size=(6, TRAITS))
    category, match = draw.normal(size=(spec.categories, TRAITS)), draw.normal(size=(spec.categories, TRAITS))
    segment = draw.normal(size=(spec.segments, TRAITS))
    scenario, who, shown = np.array([4, 1]), np.array([7, 0]), np.array([[3, 29, 0], [3, 12, 12]])
    found = ScenarioTastes(spec).scores(scenario, who, shown)
    for r in range(2):
        w = weights[scenario[r]] / np.sqrt((weights[scenario[r]] ** 2).sum())
        for k in range(3):
            c = shown[r, k]
            total = sum(w[f] * (category[c, f] + segment[who[r], f] * match[c, f]) / 2**0.5 for f in range(TRAITS))
            np.testing.assert_allclose(found[r, k], 2.0 * 0.5 * LOADS * total, rtol=1e-4, atol=1e-6)


def test_effects_are_as_strong_in_every_scenario_and_differ_between_them():
    tastes, draw = ScenarioTastes(SPEC), np.random.default_rng(0)
    who, shown = draw.integers(SPEC.segments, size=4000), draw.integers(SPEC.categories, size=(4000, 5))
    effects = np.stack([tastes.scores(np.full(4000, s), who, shown)[:, :, 0].ravel() for s in range(6)])
    np.testing.assert_allclose(effects.std(axis=1), SPEC.scenario_tastes, rtol=0.35)
    correlation = np.corrcoef(effects)
    np.testing.assert_allclose(correlation, tastes.weights @ tastes.weights.T, atol=0.3)
    assert correlation.min() < 0


def test_rates_hold_and_labels_follow_the_probabilities():
    blocks = list(Shard(SPEC, 0, calibrate(SPEC)).rows(0))
    labels = np.concatenate([block.labels[: block.count] for block in blocks])
    truth = np.concatenate([block.truth[: block.count, :3] for block in blocks])
    assert truth.mean(axis=0) == pytest.approx([0.15, SPEC.cart_rate, SPEC.buy_rate], rel=0.15)
    np.testing.assert_allclose(labels.mean(axis=0), truth.mean(axis=0), rtol=0.08)
    plain = SPEC.model_copy(update={"scenario_tastes": 0.0})
    without = np.concatenate([block.truth[: block.count, CLICK] for block in Shard(plain, 0, calibrate(plain)).rows(0)])
    assert _logits(truth[:, CLICK]).std() > 1.5 * _logits(without).std()
    assert (truth[:, BUY] <= truth[:, CART]).all()


def _logits(chance: np.ndarray) -> np.ndarray:
    return np.log(chance / (1 - chance))


def test_no_other_draw_changes():
    plain = SPEC.model_copy(update={"scenario_tastes": 0.0, "rows_per_day": 3000, "refreshes_per_day": 1})
    other = plain.model_copy(update={"scenario_tastes": 1e-12})
    intercepts = calibrate(plain)
    first, second = (next(Shard(spec, 0, intercepts).rows(0)) for spec in (plain, other))
    for name in ("user", "scenario", "item", "time_ms", "labels", "page_views"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
