"""The world behind synthetic logs: how hard it is, how it turns, how its parts relate; all from samples in memory."""

import numpy as np
import pytest

from raymtl.synth import ScenarioSpec, SynthSpec
from raymtl.synth.calibrate import calibrate
from raymtl.synth.chance import normal, uniform
from raymtl.synth.clock import DAY_MS, milliseconds
from raymtl.synth.population import Draw, Population
from raymtl.synth.shard import Shard
from raymtl.synth.truth import BUY, CART, CLICK, Effects, chances

SMALL = SynthSpec(users=2000, items=1000)


def best_auc(chance: np.ndarray) -> float:
    """AUC that the true probabilities themselves reach, in expectation over the labels."""
    chance = np.sort(chance.astype(float))
    negatives = np.cumsum(1 - chance) - (1 - chance) / 2
    return (chance * negatives).sum() / chance.sum() / (1 - chance).sum()


@pytest.mark.parametrize("seed", range(4))
def test_every_world_is_about_equally_hard(seed):
    spec = SMALL.model_copy(update={"seed": seed})
    scores, scenario = Shard(spec, 0, calibrate(spec)).sample(4000)
    reached = chances(scores)
    assert [0.73 < best_auc(reached[:, k]) < 0.86 for k in range(3)] == [True] * 3
    for n, kind in enumerate(spec.scenarios):
        assert reached[scenario == n, CLICK].mean() == pytest.approx(kind.click_rate, rel=0.05)
    assert reached[:, CART].mean() == pytest.approx(spec.cart_rate, rel=0.08)
    assert reached[:, BUY].mean() == pytest.approx(spec.buy_rate, rel=0.08)


def test_signal_says_how_far_rows_can_be_told_apart():
    aucs = []
    for signal in (0.3, 1.0, 2.0):
        spec = SMALL.model_copy(update={"signal": signal})
        aucs.append(best_auc(chances(Shard(spec, 0, calibrate(spec)).sample(2000)[0])[:, CLICK]))
    assert aucs[0] < 0.68 < aucs[1] < 0.82 < aucs[2]


def test_tasks_and_scenarios_agree_in_part():
    cross = Effects(SMALL, 0).cross  # [S, segments, categories, O]
    flat = cross.reshape(cross.shape[0], -1, cross.shape[3])
    between_tasks = [np.corrcoef(flat[0, :, CLICK], flat[0, :, o])[0, 1] for o in (CART, BUY)]
    between_scenarios = [np.corrcoef(flat[0, :, o], flat[1, :, o])[0, 1] for o in (CLICK, CART)]
    assert all(-0.3 < c < 0.9 for c in between_tasks)
    assert all(0.5 < c < 0.999 for c in between_scenarios)
    slopes = Effects(SMALL, 0).price_slope.mean(axis=(0, 1))
    assert slopes[BUY] < slopes[CART] < 0 < slopes[CLICK]


def test_tastes_turn_day_by_day_and_stand_still_without_drift():
    first, next_day, later = (Effects(SMALL, day).cross[..., CLICK].ravel() for day in (0, 1, 40))
    assert np.corrcoef(first, next_day)[0, 1] > 0.99
    assert np.corrcoef(first, later)[0, 1] < 0.9
    still = SMALL.model_copy(update={"drift": 0.0})
    np.testing.assert_array_equal(Effects(still, 0).cross, Effects(still, 40).cross)


def test_a_share_of_the_slots_changes_hands_every_day():
    people = Population(0, "user", 10_000, 0.02, 0.7)
    before = people.numbers(4)
    for day in range(5, 60):
        now = people.numbers(day)
        changed = np.flatnonzero(now != before)
        assert len(changed) == pytest.approx(200, abs=80)
        np.testing.assert_array_equal(changed, people.replaced(day))
        np.testing.assert_array_equal(np.flatnonzero(people.age_days(day) == 0), changed)
        assert (now[changed] == before[changed] + 10_000).all()
        before = now
    assert people.age_days(59).max() <= 50


def test_popularity_drifts_slowly():
    items = Population(0, "item", 5000, 0.0, 0.9)
    today, tomorrow, later = (np.log(items.weights(day)) for day in (0, 1, 8))
    assert 0 < np.abs(tomorrow - today).mean() < 0.15 < np.abs(later - today).mean()
    assert items.weights(3).sum() == pytest.approx(1)


def test_shards_divide_the_users_and_share_the_items():
    spec = SMALL.model_copy(update={"shards": 3})
    users = [set(Shard(spec, n).day(2).users.number.tolist()) for n in range(3)]
    assert sum(map(len, users)) == len(set().union(*users)) == spec.users
    items = [Shard(spec, n).day(2).items.number for n in range(3)]
    np.testing.assert_array_equal(items[0], items[2])


def test_draws_follow_the_weights():
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    drawn = np.bincount(Draw(weights)((np.arange(1000) + 0.5) / 1000), minlength=4)
    np.testing.assert_allclose(drawn / 1000, weights, atol=0.002)


def test_hashed_attributes_look_random_and_stay_the_same():
    numbers = np.arange(100_000)
    for stream in ("a", "b"):
        draws = uniform(0, stream, numbers)
        assert draws.min() >= 0
        assert draws.max() < 1
        assert abs(draws.mean() - 0.5) < 0.005
        assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.02
        values = normal(0, stream, numbers)
        assert abs(values.mean()) < 0.02
        assert values.std() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(uniform(0, "a", numbers), uniform(0, "b", numbers))[0, 1]) < 0.02
    assert abs(np.corrcoef(uniform(0, "a", numbers), uniform(1, "a", numbers))[0, 1]) < 0.02
    np.testing.assert_array_equal(uniform(7, "a", numbers[5:9]), uniform(7, "a", numbers)[5:9])


def test_the_clock_covers_the_day_with_a_peak_in_the_evening():
    times = milliseconds(np.linspace(0, 1, 100_001)[:-1])
    hours = np.bincount(times // 3_600_000, minlength=24)
    assert times[0] == 0
    assert times[-1] < DAY_MS
    assert (np.diff(times) >= 0).all()
    assert hours.argmax() == 21
    assert hours.min() > 0


def test_a_spec_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="distinct names"):
        SynthSpec(scenarios=(ScenarioSpec(name="all", share=1, click_rate=0.2),))
    with pytest.raises(ValueError, match="not one of the scenarios"):
        SynthSpec(cart_not_logged=("elsewhere",))
    with pytest.raises(
        ValueError,
        match=r"buy_rate is 0\.05, cart_rate 0\.04 and the lowest click_rate 0\.12 \(scenario `feed`\); change them",
    ):
        SynthSpec(buy_rate=0.05)
    with pytest.raises(ValueError, match="shards is 4, more than users = 3; lower shards"):
        SynthSpec(users=3, shards=4)
