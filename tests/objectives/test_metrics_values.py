"""Metrics of count and real tasks against sklearn and the formulas."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_poisson_deviance, mean_squared_error

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics
from tests.helpers.metric_rows import draw_rows, feed

torch.set_num_threads(1)
TASKS = {
    "views": Task(kind="count", truth="views_mean"),
    "spend": Task(kind="real", transform="log1p"),
    "margin": Task(kind="real", truth="margin_mean"),
    "click": Task(),
}


def value_rows(count: int = 5_000) -> dict:
    rows = draw_rows(count, tasks=4, scenarios=2)
    g = torch.Generator().manual_seed(5)
    mean = torch.rand(count, generator=g) * 3
    rows["truth"][:, 0], rows["truth"][:, 2] = mean, rows["logits"][:, 2] * 1.1
    rows["truth"][:, 1] = torch.nan
    rows["logits"][:, 0] = mean.log() + 0.3 * torch.randn(count, generator=g)
    rows["logits"][:, 1] = 3 * torch.rand(count, generator=g)
    rows["labels"][:, 0] = torch.poisson(mean, generator=g)
    rows["labels"][:, 1] = torch.rand(count, generator=g) * 20
    rows["labels"][:, 2] = rows["truth"][:, 2] + torch.randn(count, generator=g)
    rows["labels"] = rows["labels"].masked_fill(~rows["observed"], torch.nan)
    rows["weight"] = torch.rand(count, generator=g) + 0.1
    return rows


def columns(rows: dict, task: int, scenario: int | None = None) -> tuple[np.ndarray, ...]:
    keep = rows["observed"][:, task] & rows["valid"]
    if scenario is not None:
        keep &= rows["scenario"] == scenario
    picked = (rows["logits"][:, task], rows["labels"][:, task], rows["weight"], rows["truth"][:, task])
    return tuple(column[keep].double().numpy() for column in picked)


def check(report: dict, p: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
    assert report["mse"] == pytest.approx(mean_squared_error(y, p, sample_weight=w), rel=1e-9)
    assert report["rmse"] == pytest.approx(mean_squared_error(y, p, sample_weight=w) ** 0.5, rel=1e-9)
    assert report["mae"] == pytest.approx(mean_absolute_error(y, p, sample_weight=w), rel=1e-9)
    assert report["nmae"] == pytest.approx((w * abs(p - y)).sum() / (w * abs(y)).sum(), rel=1e-9)
    size = abs(p) + abs(y)
    terms = np.divide(2 * abs(p - y), size, out=np.zeros_like(size), where=size > 0)
    assert report["smape"] == pytest.approx(np.average(terms, weights=w), rel=1e-9)
    assert report["calibration"] == pytest.approx((w * p).sum() / (w * y).sum(), rel=1e-9)
    assert report["mean_label"] == pytest.approx(np.average(y, weights=w), rel=1e-9)
    assert report["mean_prediction"] == pytest.approx(np.average(p, weights=w), rel=1e-9)
    assert report["count"] == len(y)
    assert report["null_reason"] is None


def test_all_numbers_against_sklearn() -> None:
    rows = value_rows()
    result = feed(EvalMetrics(TASKS, ["a", "other"]), rows).compute()
    links = {"views": np.exp, "spend": np.expm1, "margin": lambda x: x}
    for t, (name, link) in enumerate(links.items()):
        for s, reports in enumerate([result["tasks"], result["scenarios"]["a"], result["scenarios"]["other"]]):
            x, y, w, truth = columns(rows, t, s - 1 if s else None)
            check(reports[name], link(x), y, w)
            if name == "views":
                deviance = mean_poisson_deviance(y, link(x), sample_weight=w)
                best = mean_poisson_deviance(y, truth, sample_weight=w)
                assert reports[name]["poisson_deviance"] == pytest.approx(deviance, rel=1e-9)
                assert reports[name]["truth_poisson_deviance"] == pytest.approx(best, rel=1e-6)
            if name == "margin":
                best = mean_squared_error(y, truth, sample_weight=w)
                assert reports[name]["truth_mse"] == pytest.approx(best, rel=1e-6)
    assert list(result["tasks"]) == list(TASKS)
    assert result["mean_auc"] == result["tasks"]["click"]["auc"]
    assert "poisson_deviance" not in result["tasks"]["margin"]


def test_curve_keeps_the_sums() -> None:
    result = feed(EvalMetrics(TASKS, []), value_rows()).compute()
    for name in ("views", "spend", "margin"):
        report = result["tasks"][name]
        curve = report["calibration_curve"]
        weight = sum(b["count"] for b in curve)
        assert 15 <= len(curve) <= 20
        for column, mean in (("prediction", "mean_prediction"), ("label", "mean_label")):
            assert sum(b["count"] * b[column] for b in curve) / weight == pytest.approx(report[mean], rel=1e-9)


def test_nothing_observed_and_all_zero() -> None:
    rows = value_rows(200)
    rows["observed"][:, 0] = False
    rows["labels"][:, 1] = 0.0
    result = feed(EvalMetrics(TASKS, []), rows).compute()["tasks"]
    assert result["views"]["null_reason"] == "no observed labels"
    assert result["views"]["mse"] is None
    assert result["spend"]["null_reason"] == f"the {result['spend']['count']} observed labels sum to 0"
    assert result["spend"]["calibration"] is None
    assert result["spend"]["nmae"] is None
    assert result["spend"]["mae"] > 0


def test_both_zero_is_no_error_in_smape() -> None:
    rows = draw_rows(2, tasks=1)
    rows |= {
        "logits": torch.tensor([[0.0], [0.0]]),
        "labels": torch.tensor([[0.0], [3.0]]),
        "observed": torch.ones(2, 1, dtype=torch.bool),
        "valid": torch.ones(2, dtype=torch.bool),
    }
    report = feed(EvalMetrics({"spend": Task(kind="real", transform="log1p")}, []), rows).compute()["tasks"]["spend"]
    assert report["smape"] == 1.0  # 0 for the first row, 2 for the second


def test_exploding_counts_stay_finite() -> None:
    rows = draw_rows(10, tasks=1)
    rows |= {"logits": torch.full((10, 1), 500.0), "labels": torch.ones(10, 1), "observed": torch.ones(10, 1).bool()}
    report = feed(EvalMetrics({"views": Task(kind="count")}, []), rows).compute()["tasks"]["views"]
    assert report["mae"] == pytest.approx(np.exp(80) - 1, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_score_of_the_best_constant(scale: float) -> None:
    """A constant model at the weighted mean label has exactly the scores that stand beside every model's."""
    rows = value_rows(400)
    rows["labels"] = rows["labels"].abs() * scale
    tasks = {"views": Task(kind="count"), "spend": Task(kind="real")}
    first = feed(EvalMetrics(tasks, []), rows).compute()["tasks"]
    means = [first[name]["mean_label"] for name in tasks]
    rows["logits"] = torch.tensor([[np.log(means[0]), means[1]]]).expand(400, 2).float()
    found = feed(EvalMetrics(tasks, []), rows).compute()["tasks"]
    for name in tasks:
        assert found[name]["mse"] == pytest.approx(found[name]["constant_mse"], rel=1e-5)
        assert first[name]["constant_mse"] == found[name]["constant_mse"]
    deviance = "poisson_deviance"
    assert found["views"][deviance] == pytest.approx(found["views"][f"constant_{deviance}"], rel=1e-5)
    assert f"constant_{deviance}" not in found["spend"]
