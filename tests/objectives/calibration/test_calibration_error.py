"""The calibration error by hand and against rows, what chance makes of it, and workers that add up."""

import numpy as np
import pytest
import torch

from raymtl.config.tasks import Task
from raymtl.objectives.metrics import bins
from raymtl.objectives.metrics.calibration_error import BUCKETS, calibration_error, chance_error
from raymtl.objectives.metrics.evaluate import EvalMetrics
from tests.objectives.calibration.test_fit import counted, draw


def histogram(logits: list[float], negatives: list[float], positives: list[float]) -> torch.Tensor:
    scores = torch.zeros(2, bins.COARSE, dtype=torch.float64)
    place = bins.slots(bins.keys(torch.tensor(logits)), levels=1)[0]
    for side, weights in enumerate((negatives, positives)):
        scores[side].index_add_(0, place, torch.tensor(weights, dtype=torch.float64))
    return scores


def test_by_hand() -> None:
    """Half of 40 rows at σ = ¼ and half at ¾: ten buckets of two rows each; 6 of 20 and 12 of 20 are positive."""
    a = float(np.log(3))
    scores = histogram([-a, a], [14, 8], [6, 12])
    expected = (abs(0.25 - 6 / 20) + abs(0.75 - 12 / 20)) / 2
    assert calibration_error(scores) == pytest.approx(expected, abs=2e-4)


def test_errors_within_a_bucket_cancel_and_between_buckets_do_not() -> None:
    scores = histogram([-2.0] * 1 + [2.0], [50, 50], [50, 50])
    p = 1 / (1 + np.exp(2))
    assert calibration_error(scores) == pytest.approx(0.5 - p, abs=2e-4)
    assert abs(scores[1].sum() - (100 * p + 100 * (1 - p))) < 1e-6  # the ratio of the sums sees nothing


def test_as_over_sorted_rows() -> None:
    """Against the definition on the rows: sort by score, cut into 20 equal parts."""
    logits, labels = draw(20_000, slope=0.6, intercept=0.7)
    order = logits.argsort()
    p, y = torch.sigmoid(logits)[order].view(BUCKETS, -1), labels[order].view(BUCKETS, -1)
    expected = (p.mean(1) - y.mean(1)).abs().mean().item()
    assert calibration_error(counted(logits, labels).weights[0, 0]) == pytest.approx(expected, rel=0.01)


def test_without_rows_there_is_none() -> None:
    assert calibration_error(torch.zeros(2, bins.COARSE)) is None
    assert chance_error(torch.zeros(2, bins.COARSE), torch.zeros(2)) is None


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_chance_is_the_mean_error_of_a_calibrated_model(rate: float) -> None:
    """Also where negatives were sampled, and weigh 1 / rate."""
    found, expected = [], []
    for seed in range(200):
        logits, labels = draw(20_000, seed=seed)
        kept = (labels > 0) | (torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < rate)
        weight = torch.where(labels > 0, 1.0, 1 / rate)[kept]
        counts = counted(logits[kept], labels[kept], weight=weight)
        found.append(calibration_error(counts.weights[0, 0]))
        expected.append(chance_error(counts.weights[0, 0], counts.squares[0, 0]))
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.06)  # 200 draws: 2 %


def test_it_is_a_metric_of_every_binary_task_and_adds_up_over_workers() -> None:
    logits, labels = draw(6_000, slope=0.5)
    scenario = torch.arange(6_000) % 2

    def feed(rows: slice) -> EvalMetrics:
        metrics = EvalMetrics({"click": Task()}, ["a", "other"])
        a, y = logits[rows].float().unsqueeze(1), labels[rows].float().unsqueeze(1)
        one = torch.ones(len(a))
        metrics.update(a, y, torch.ones_like(y, dtype=torch.bool), one, one.bool(), scenario[rows])
        return metrics

    whole = feed(slice(0, 6_000)).compute()
    first, *others = (feed(slice(n * 2_000, (n + 1) * 2_000)) for n in range(3))
    for other in others:
        total = feed(slice(0, 0))
        total.merge(first.state())
        merged = {name: value.clone() for name, value in total.state().items()}
        first = feed(slice(0, 0))
        first.load_state({name: value + other.state()[name] for name, value in merged.items()})
    summed = first.compute()
    for result in (whole, summed):
        found = result["tasks"]["click"]["calibration_error"]
        assert found == pytest.approx(calibration_error(counted(logits, labels).weights[0, 0]), rel=1e-9)
        part = result["scenarios"]["a"]["click"]["calibration_error"]
        of_a = scenario == 0
        assert part == pytest.approx(calibration_error(counted(logits[of_a], labels[of_a]).weights[0, 0]), rel=1e-9)
