"""The score histogram against sklearn's exact AUC, at every scale of the logits."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from raymtl.config.tasks import Task
from raymtl.objectives.metrics import bins
from raymtl.objectives.metrics.evaluate import EvalMetrics

torch.set_num_threads(1)


def histogram(logits: torch.Tensor, positive: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    weight = torch.ones(len(logits), dtype=torch.float64) if weight is None else weight.double()
    counts = torch.zeros(2, bins.BINS, dtype=torch.float64)
    for slot in bins.slots(bins.keys(logits)):
        counts.view(-1).scatter_add_(0, positive.long() * bins.BINS + slot, weight)
    return counts


def binned_auc(logits: torch.Tensor, positive: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    return bins.auc(*histogram(logits, positive, weight)).auc


def scores(rows: int, rate: float, centre: float, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    positive = torch.rand(rows, generator=g) < rate
    return centre + spread * (torch.randn(rows, generator=g) + 0.7 * positive), positive


@pytest.mark.parametrize(
    ("centre", "spread"),
    [(-8.0, spread) for spread in (3.0, 1.0, 0.3, 0.17, 0.1, 0.03, 0.01, 0.004, 1e-3, 1e-4, 1e-5)]
    + [(0.0, spread) for spread in (1.0, 0.01, 1e-4)]
    + [(25.0, spread) for spread in (3.0, 0.1, 3e-3)],
)
def test_any_scale_of_the_logits_is_within_1e_4(centre: float, spread: float) -> None:
    logits, positive = scores(200_000, 0.002, centre, spread)
    assert abs(binned_auc(logits, positive) - roc_auc_score(positive, logits)) < 1e-4


def test_two_million_rows_at_a_base_rate_of_2e_4() -> None:
    logits, positive = scores(2_000_000, 2e-4, -8.5, 1.2)
    assert abs(binned_auc(logits, positive) - roc_auc_score(positive, logits)) < 2e-5


@pytest.mark.parametrize("seed", range(5))
def test_untrained_model_whose_logits_lie_within_a_fiftieth(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    positive = torch.rand(500_000, generator=g) < 5e-4
    logits = -8.01 + 0.02 * (
        0.7 * torch.rand(500_000, generator=g) + 0.3 * torch.rand(500_000, generator=g).where(positive, 0.0)
    )
    assert abs(binned_auc(logits, positive) - roc_auc_score(positive, logits)) < 1e-4


def test_a_tight_cluster_amid_spread_scores() -> None:
    """Half of the rows from a model that has learnt nothing, half from one that has: level 0 alone would err by 0.01."""
    tight, spread = scores(200_000, 0.01, -8.0, 0.002), scores(200_000, 0.01, -5.0, 1.5, seed=1)
    logits, positive = torch.cat([tight[0], spread[0]]), torch.cat([tight[1], spread[1]])
    assert abs(binned_auc(logits, positive) - roc_auc_score(positive, logits)) < 1e-4


def test_saturated_logits() -> None:
    g = torch.Generator().manual_seed(0)
    positive = torch.rand(100_000, generator=g) < 0.3
    right = torch.rand(100_000, generator=g) < 0.8
    logits = torch.where(right == positive, 30.0, -30.0) + 0.5 * torch.randn(100_000, generator=g)
    assert abs(binned_auc(logits, positive) - roc_auc_score(positive, logits)) < 1e-5


def test_far_beyond_any_sane_logit() -> None:
    logits, positive = scores(100_000, 0.05, 0.0, 5_000.0)
    assert abs(binned_auc(logits, positive) - roc_auc_score(positive, logits)) < 1e-5
    assert binned_auc(torch.tensor([-3e38, 3e38]), torch.tensor([False, True])) == 1.0


@pytest.mark.parametrize("value", [0.0, -0.0, -8.123, 30.0, 1e-9, -1e20])
def test_constant_scores_are_exactly_one_half(value: float) -> None:
    positive = torch.arange(1001) % 7 == 0
    assert binned_auc(torch.full((1001,), value), positive) == 0.5


def test_many_ties() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randint(-6, 3, (50_000,), generator=g).float() / 3
    positive = torch.rand(50_000, generator=g) < torch.sigmoid(logits)
    assert binned_auc(logits, positive) == pytest.approx(roc_auc_score(positive, logits), abs=1e-12)


def test_weights_equal_repetition() -> None:
    logits, positive = scores(20_000, 0.1, -3.0, 1.0)
    weight = torch.arange(20_000) % 4
    again = torch.repeat_interleave(torch.arange(20_000), weight)
    assert torch.equal(histogram(logits, positive, weight), histogram(logits[again], positive[again]))
    exact = roc_auc_score(positive, logits, sample_weight=weight)
    assert abs(binned_auc(logits, positive, weight) - exact) < 1e-5


def test_perfect_and_reversed_order() -> None:
    logits = torch.linspace(-4, 4, 1000)
    assert binned_auc(logits, logits > 1) == 1.0
    assert binned_auc(logits, logits < 1) == 0.0


def test_one_class_has_no_area() -> None:
    logits = torch.randn(100)
    assert np.isnan(binned_auc(logits, torch.ones(100, dtype=torch.bool)))
    assert np.isnan(binned_auc(logits, torch.zeros(100, dtype=torch.bool)))


def test_keys_keep_the_order_and_stay_inside() -> None:
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(20_000, generator=g) * scale for scale in (1e-30, 1e-6, 1e-3, 0.1, 1, 10, 100, 1e4, 1e30)]
    edges = torch.tensor([0.0, 2.0**-22, 1.0, 16.0, 32.0, 65536.0])
    edges = torch.cat([edges, torch.nextafter(edges, edges - 1), torch.nextafter(edges, edges + 1)])
    ordered = torch.cat([*parts, edges, -edges]).sort().values
    found = bins.keys(ordered)
    assert (found.diff() >= 0).all()
    for slot, start, size in zip(bins.slots(found), np.cumsum([0, *bins.LEVELS]), bins.LEVELS, strict=False):
        assert slot.min() >= start
        assert slot.max() < start + size


def test_every_float_of_a_trained_model_has_its_own_key() -> None:
    step = torch.arange(4096, dtype=torch.int32)
    start = torch.tensor([-8.0, -5.0, 4.5, 12.0])
    near = torch.stack([(s.view(torch.int32) + step).view(torch.float32) for s in start])
    assert all(len(bins.keys(row).unique()) == len(step) for row in near)


def test_the_centre_of_a_bin_lies_in_it() -> None:
    middle = bins.centres()
    assert (middle.diff() > 0).all()
    assert torch.equal(bins.slots(bins.keys(middle.float()), levels=1)[0], torch.arange(bins.COARSE, dtype=torch.int32))


def clusters(distance: float, spread: float, count: int, rate: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres at equal distances, to multiples of 2^-22; the positives lie higher, both between and within the clusters."""
    g = torch.Generator().manual_seed(seed)
    rows = 60_000
    positive = torch.rand(rows, generator=g) < rate
    place = torch.rand(rows, generator=g).pow(torch.where(positive, 0.8, 1.2)).mul(count).long()
    within = torch.randn(rows, generator=g) + 1.5 * positive
    logits = distance * (place - count / 2).double() + spread * within
    return ((logits * 2**22).round() / 2**22).float(), positive


@pytest.mark.parametrize("count", [2, 3, 10, 20, 50])
@pytest.mark.parametrize("distance", [1 / 2, 1 / 32, 1 / 512, 1 / 3, 0.1])
@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_clusters_at_equal_distances(distance: float, spread: float, count: int) -> None:
    for rate in (0.3, 0.005):
        logits, positive = clusters(distance, spread, count, rate, seed=count)
        found, exact = bins.auc(*histogram(logits, positive)), roc_auc_score(positive, logits)
        assert abs(found.auc - exact) < max(1e-4, min(found.error, 1e-3))


@pytest.mark.parametrize("spread", [1e-4, 1e-5])
def test_the_error_is_told_where_large_logits_share_a_key(spread: float) -> None:
    logits, positive = scores(100_000, 0.3, -20.0, spread)
    found, exact = bins.auc(*histogram(logits, positive)), roc_auc_score(positive, logits)
    assert 1e-4 < abs(found.auc - exact) <= found.error < 0.5


def test_the_error_is_told_where_a_bin_meets_others_in_both_tables() -> None:
    linear = torch.arange(bins.COARSE // 2, bins.COARSE // 2 + 16 * 1024)
    first, second = bins._classes(linear)
    both = first * 2**9 + second
    meeting = linear[(both == both.mode().values)][:2]
    assert len(meeting) == 2
    middle = bins.centres()[meeting].float()
    logits, positive = torch.cat([middle - 1e-4, middle + 1e-4]), torch.arange(4) >= 2
    found, exact = bins.auc(*histogram(logits, positive)), roc_auc_score(positive, logits)
    assert found.error == pytest.approx(0.25)
    assert exact - found.auc == pytest.approx(0.25)
    binned = EvalMetrics({"t": Task()}, [])
    ones = torch.ones(4)
    binned.update(logits.unsqueeze(1), positive.float().unsqueeze(1), ones.bool().unsqueeze(1), ones, ones.bool())
    assert binned.compute()["tasks"]["t"]["auc_error"] == pytest.approx(0.25)
