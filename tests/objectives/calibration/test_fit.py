"""The fits against scikit-learn and by hand: Platt, isotonic, and what the prior does where positives are few."""

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from raymtl.objectives.calibration.counts import ScoreCounts
from raymtl.objectives.calibration.fit import fit_maps
from raymtl.objectives.calibration.isotonic import KNOTS, fit_isotonic, pool_adjacent_violators
from raymtl.objectives.calibration.maps import apply_map, identity_of
from raymtl.objectives.calibration.platt import MIN_SLOPE, fit_platt


def draw(
    count: int, slope: float = 1.0, intercept: float = 0.0, seed: int = 0, mean: float = -3.0
) -> tuple[Tensor, Tensor]:
    """Logits of a model, and labels that follow σ(slope · logit + intercept)."""
    make = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, generator=make, dtype=torch.float64) * 1.5 + mean
    labels = torch.rand(count, generator=make, dtype=torch.float64) < torch.sigmoid(slope * logits + intercept)
    return logits, labels.double()


def counted(
    logits: Tensor, labels: Tensor, scenario: Tensor | None = None, scenarios: int = 1, weight: Tensor | None = None
) -> ScoreCounts:
    counts = ScoreCounts(1, scenarios)
    rows = len(logits)
    counts.update(
        logits.float().unsqueeze(1),
        labels.float().unsqueeze(1),
        torch.ones(rows, 1, dtype=torch.bool),
        torch.ones(rows) if weight is None else weight,
        torch.zeros(rows, dtype=torch.int64) if scenario is None else scenario,
    )
    return counts


def test_platt_is_the_logistic_regression_of_scikit_learn() -> None:
    logits, labels = draw(3_000, slope=0.6, intercept=0.8)
    weight = torch.rand(3_000, dtype=torch.float64) + 0.5
    found = fit_platt(logits, weight * (1 - labels), weight * labels)
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000)
    other.fit(logits.numpy()[:, None], labels.numpy(), sample_weight=weight.numpy())
    assert found == pytest.approx((other.coef_[0, 0], other.intercept_[0]), abs=1e-6)


def test_at_the_platt_fit_both_derivatives_of_the_likelihood_are_zero() -> None:
    """Σ (y − σ(s·a + c)) = 0 and Σ a · (y − σ(s·a + c)) = 0, by autograd in fp64 and by hand."""
    logits, labels = draw(2_000, slope=1.7, intercept=-0.5, seed=1)
    slope, intercept = fit_platt(logits, 1 - labels, labels)
    point = torch.tensor([slope, intercept], dtype=torch.float64, requires_grad=True)
    z = point[0] * logits + point[1]
    torch.nn.functional.binary_cross_entropy_with_logits(z, labels).backward()
    assert point.grad is not None
    assert point.grad.abs().max() < 1e-9
    rest = labels - torch.sigmoid(slope * logits + intercept)
    assert rest.sum().abs() < 1e-5
    assert (rest * logits).sum().abs() < 1e-5


def test_a_model_that_is_upside_down_keeps_its_order() -> None:
    """The best falling line is refused; the best of the least slope still predicts the mean label."""
    logits, labels = draw(4_000, slope=-1.0, intercept=-3.0, mean=0.0)
    slope, intercept = fit_platt(logits, 1 - labels, labels)
    assert slope == MIN_SLOPE
    assert torch.sigmoid(slope * logits + intercept).sum().item() == pytest.approx(labels.sum().item(), rel=1e-6)


@pytest.mark.parametrize("far", [1e-3, 30.0, 5_000.0])
def test_platt_stands_logits_of_any_size(far: float) -> None:
    logits, labels = draw(2_000, mean=0.0)
    slope, intercept = fit_platt(logits * far, 1 - labels, labels)
    same, offset = fit_platt(logits, 1 - labels, labels)
    assert slope == pytest.approx(max(same / far, MIN_SLOPE), rel=1e-5)
    assert far > 1 / MIN_SLOPE or intercept == pytest.approx(offset, abs=1e-5)


def test_pooled_ranges_are_the_isotonic_regression_of_scikit_learn() -> None:
    generator = np.random.default_rng(5)
    negatives, positives = generator.integers(0, 9, (2, 400)).astype(float) * (generator.random(400) < 0.7)
    ranges = pool_adjacent_violators(torch.tensor(negatives), torch.tensor(positives))
    weight = negatives + positives
    there = weight > 0
    expected = IsotonicRegression().fit_transform(
        np.arange(400)[there], (positives / np.maximum(weight, 1))[there], sample_weight=weight[there]
    )
    found = np.concatenate([np.full(b - a, positives[a:b].sum() / weight[a:b].sum()) for a, b in ranges])
    assert found[there] == pytest.approx(expected, abs=1e-12)
    assert [a for a, _ in ranges[1:]] == [b for _, b in ranges[:-1]]


def test_the_curve_runs_through_the_shares_of_its_ranges() -> None:
    """By hand: shares 1/4, 3/4 and 1/2 at the logits −1, 0 and 1; the last two violate the order and become 5/8 at ½."""
    negatives = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    positives = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    x, y = fit_isotonic(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), negatives, positives)
    assert x[:3].tolist() == pytest.approx([-1, 0.5, 1.5])
    assert torch.sigmoid(y[:2]).tolist() == pytest.approx([0.25, 0.625])
    curve = torch.stack([x, y])
    at = apply_map("isotonic", curve, torch.tensor([-3.0, -1.0, -0.25, 0.5, 2.5], dtype=torch.float64))
    low, high = y[0].item(), y[1].item()
    assert at.tolist() == pytest.approx([low - 2, low, (low + high) / 2, high, high + 2])


def test_a_long_regression_becomes_few_ascending_knots_near_it() -> None:
    logits, labels = draw(200_000, slope=0.5, intercept=-0.3, seed=2)
    maps = fit_maps(counted(logits, labels), "isotonic", by_scenario=False, prior_positives=1.0)
    assert maps.shape == (1, 1, 2, KNOTS)
    assert (maps.diff(dim=-1) > 0).all()
    inside = logits[(logits > -6) & (logits < 0)]
    found = torch.sigmoid(apply_map("isotonic", maps[0, 0].double(), inside))
    true = torch.sigmoid(0.5 * inside - 0.3)
    assert (found - true).abs().mean() < 0.01
    regression = IsotonicRegression(out_of_bounds="clip").fit(logits.numpy(), labels.numpy()).predict(inside.numpy())
    assert np.abs(found.numpy() - regression).mean() < 0.01


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_without_rows_a_map_changes_nothing(method: str) -> None:
    a = torch.linspace(-30, 30, 601)
    maps = fit_maps(ScoreCounts(1, 3), method, by_scenario=True, prior_positives=50.0)
    for s in range(3):
        torch.testing.assert_close(apply_map(method, maps[s, 0], a), a, rtol=0, atol=1e-5)
    torch.testing.assert_close(apply_map(method, identity_of(method).float(), a), a, rtol=0, atol=1e-5)


def test_the_histogram_costs_no_accuracy() -> None:
    logits, labels = draw(100_000, slope=0.7, intercept=0.4, seed=3)
    found = fit_maps(counted(logits, labels), "platt", by_scenario=False, prior_positives=1e-6)[0, 0]
    assert found.tolist() == pytest.approx(fit_platt(logits, 1 - labels, labels), abs=2e-4)


def test_a_scenario_moves_from_the_map_of_all_rows_to_its_own_with_its_positives() -> None:
    """Labels of the second scenario are three times as likely. At the fit the derivative by the intercept is 0, so predictions
    of its rows sum to (P + prior) / (1 + prior / M), where M is their sum by the map of all rows: near M with few positives,
    near P with many."""
    prior = 100.0
    base, own = draw(400_000, seed=4)
    moved = []
    for count in (0, 1_000, 50_000):
        a, y = draw(count, intercept=float(np.log(3)), seed=5)
        scenario = torch.cat([torch.zeros(len(base), dtype=torch.int64), torch.ones(count, dtype=torch.int64)])
        counts = counted(torch.cat([base, a]), torch.cat([own, y]), scenario, 2)
        overall = fit_maps(counts, "platt", by_scenario=False, prior_positives=prior)[0, 0]
        maps = fit_maps(counts, "platt", by_scenario=True, prior_positives=prior)[:, 0]
        if not count:
            assert torch.equal(maps[1], overall)
            continue
        before, after = (torch.sigmoid(apply_map("platt", of.double(), a)).sum().item() for of in (overall, maps[1]))
        positives = y.sum().item()
        assert after == pytest.approx((positives + prior) / (1 + prior / before), rel=1e-3)
        moved.append((after - before) / (positives - before))
    assert moved[0] < 0.7
    assert moved[1] > 0.97


def test_a_prior_stands_separable_rows_and_a_scenario_without_positives() -> None:
    a = torch.linspace(-6, 2, 2_000, dtype=torch.float64)
    maps = fit_maps(counted(a, (a > 0).double()), "platt", by_scenario=False, prior_positives=50.0)
    assert torch.isfinite(maps).all()
    assert maps[0, 0, 0] > 1
    maps = fit_maps(counted(a, torch.zeros_like(a)), "platt", by_scenario=False, prior_positives=50.0)
    assert torch.isfinite(maps).all()
    assert torch.sigmoid(apply_map("platt", maps[0, 0].double(), a)).sum() < 0.3 * torch.sigmoid(a).sum()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_logits_of_any_size_give_finite_maps(method: str) -> None:
    a = torch.tensor([-60_000.0, -800, -40, 0, 40, 800, 60_000], dtype=torch.float64).repeat(20)
    maps = fit_maps(counted(a, (torch.arange(140) % 3 == 0).double()), method, by_scenario=True, prior_positives=50.0)
    assert torch.isfinite(maps).all()
    found = apply_map(method, maps[0, 0], a[:7].float())
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_scale_of_the_weights_does_not_matter(method: str) -> None:
    logits, labels = draw(20_000, slope=0.8, intercept=0.5, seed=6)
    one, other = (
        fit_maps(
            counted(logits, labels, weight=torch.full((20_000,), w)), method, by_scenario=False, prior_positives=50.0
        )
        for w in (1.0, 0.01)
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_label_between_0_and_1_counts_for_both_sides() -> None:
    logits, _ = draw(50, seed=7)
    share = torch.rand(50, dtype=torch.float64)
    soft = counted(logits, share)
    hard = ScoreCounts(1, 1)
    for y, part in ((1.0, share), (0.0, 1 - share)):
        hard.update(
            logits.float().unsqueeze(1), torch.full((50, 1), y), torch.ones(50, 1, dtype=torch.bool), part.float(),
            torch.zeros(50, dtype=torch.int64),
        )  # fmt: skip
    torch.testing.assert_close(soft.weights, hard.weights, rtol=1e-6, atol=1e-6)


def test_rows_that_do_not_count_change_nothing() -> None:
    logits, labels = draw(1_000, seed=8)
    expected = counted(logits, labels)
    dirty = ScoreCounts(1, 1)
    bad = torch.tensor([float("nan"), float("inf"), 0.5])
    dirty.update(
        torch.cat([logits.float(), bad]).unsqueeze(1),
        torch.cat([labels.float(), torch.tensor([1.0, 0.0, float("nan")])]).unsqueeze(1),
        torch.cat([torch.ones(1_002, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)]).unsqueeze(1),
        torch.ones(1_003),
        torch.zeros(1_003, dtype=torch.int64),
    )
    assert torch.equal(dirty.weights, expected.weights)
    assert torch.equal(dirty.squares, expected.squares)
