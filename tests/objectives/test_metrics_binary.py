"""Metrics of binary tasks against sklearn, and what is said when a number does not exist."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics
from tests.helpers.metric_rows import FUNNEL, draw_rows, feed, part, seen

torch.set_num_threads(1)
TRUTHS = {name: task.model_copy(update={"truth": f"{name}_p"}) for name, task in FUNNEL.items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def check(report: dict, rows: dict[str, np.ndarray]) -> None:
    x, y, w, truth = rows["x"], rows["y"], rows["w"], rows["truth"]
    p, mean = sigmoid(x), np.average(y, weights=w)
    loss = log_loss(y, p, sample_weight=w)
    assert report["auc"] == pytest.approx(roc_auc_score(y, x, sample_weight=w), abs=1e-4)
    assert report["logloss"] == pytest.approx(loss, rel=1e-9)
    assert report["ne"] == pytest.approx(loss / -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)), rel=1e-9)
    assert report["calibration"] == pytest.approx((w * p).sum() / (w * y).sum(), rel=1e-9)
    assert report["count"] == len(y)
    assert report["positives"] == y.sum()
    assert report["positive_rate"] == pytest.approx(y.mean(), rel=1e-12)
    assert report["mean_label"] == pytest.approx(mean, rel=1e-12)
    assert report["mean_prediction"] == pytest.approx(np.average(p, weights=w), rel=1e-9)
    assert report["truth_auc"] == pytest.approx(roc_auc_score(y, truth, sample_weight=w), abs=1e-4)
    assert report["truth_logloss"] == pytest.approx(log_loss(y, truth, sample_weight=w), rel=1e-9)
    assert report["null_reason"] is None


@pytest.mark.parametrize("weighted", [False, True])
def test_all_numbers_against_sklearn(weighted: bool) -> None:
    rows = draw_rows(20_000, scenarios=3)
    if weighted:
        rows["weight"] = torch.rand(20_000, generator=torch.Generator().manual_seed(1)) * 3
        rows["weight"][::50] = 0
    result = feed(EvalMetrics(TRUTHS, ["search", "feed", "other"]), rows).compute()
    for t, name in enumerate(FUNNEL):
        check(result["tasks"][name], seen(rows, t))
        for s, scenario in enumerate(["search", "feed", "other"]):
            check(result["scenarios"][scenario][name], seen(rows, t, s))
    assert result["mean_auc"] == pytest.approx(np.mean([result["tasks"][n]["auc"] for n in FUNNEL]))


def test_hidden_rows_change_nothing() -> None:
    """Whatever stands under a mask, in the filling, or in a row of weight 0: NaN, infinities, absurd scenarios."""
    clean = draw_rows(3_000, scenarios=2)
    clean["weight"][::7] = 0
    dirty = {name: None if column is None else column.clone() for name, column in clean.items()}
    hidden = ~clean["valid"] | (clean["weight"] == 0)
    unseen = ~clean["observed"] | hidden.unsqueeze(1)
    dirty["labels"][unseen] = torch.tensor([torch.nan, 1e30, -torch.inf]).repeat(int(unseen.sum()))[: int(unseen.sum())]
    dirty["truth"][unseen] = torch.nan
    dirty["logits"][hidden] = torch.nan
    dirty["scenario"][~clean["valid"]] = 77
    dirty["weight"][~clean["valid"]] = torch.nan
    one, two = (feed(EvalMetrics(TRUTHS, ["a", "other"]), rows).compute() for rows in (clean, dirty))
    one.pop("order_violation_rate"), two.pop("order_violation_rate")  # a row of weight 0 still has an order
    assert one == two


def test_log_loss_is_in_nats_and_stable() -> None:
    rows = draw_rows(4, tasks=1)
    rows |= {
        "logits": torch.tensor([[0.0], [-60.0], [80.0], [-80.0]]),
        "labels": torch.tensor([[1.0], [0.0], [1.0], [1.0]]),
        "observed": torch.ones(4, 1, dtype=torch.bool),
        "valid": torch.ones(4, dtype=torch.bool),
    }
    report = feed(EvalMetrics({"click": Task()}, []), rows).compute()["tasks"]["click"]
    assert report["logloss"] == pytest.approx((math.log(2) + 80) / 4, rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.zeros(4213, 1), "no positives among 4,213 observed labels"),
        (torch.ones(4213, 1), "no negatives among 4,213 observed labels"),
        (torch.full((4213, 1), torch.nan), "no observed labels"),
    ],
)
def test_one_class_is_null_with_the_reason(labels: torch.Tensor, reason: str) -> None:
    rows = draw_rows(4213, tasks=1, groups=50)
    rows |= {"labels": labels, "observed": ~labels.isnan(), "valid": torch.ones(4213, dtype=torch.bool)}
    result = feed(EvalMetrics({"click": Task(truth="p")}, []), rows).compute()
    report = result["tasks"]["click"]
    assert [report[k] for k in ("auc", "gauc", "ne", "truth_auc")] == [None] * 4
    assert report["null_reason"] == reason
    assert report["gauc_null_reason"] == reason
    assert (report["logloss"] is None) == bool(labels.isnan().all())
    assert result["mean_auc"] is None


def test_broken_predictions_are_named_not_averaged() -> None:
    rows = draw_rows(100, tasks=1)
    rows["observed"][:] = True
    rows["labels"] = rows["labels"].nan_to_num()
    rows["logits"][3] = torch.nan
    rows["logits"][5] = torch.inf
    report = feed(EvalMetrics({"click": Task()}, []), rows).compute()["tasks"]["click"]
    assert report["null_reason"] == "2 of 95 predictions are not finite"
    assert [report[k] for k in ("auc", "logloss", "ne", "calibration")] == [None] * 4
    assert report["count"] == 93


def test_a_truth_on_some_rows_only_gives_no_best() -> None:
    rows = draw_rows(500, tasks=1)
    rows["truth"][10] = torch.nan
    rows["observed"][10], rows["labels"][10] = True, 0.0
    report = feed(EvalMetrics({"click": Task(truth="p")}, []), rows).compute()["tasks"]["click"]
    assert report["auc"] is not None
    assert report["truth_auc"] is None
    assert report["truth_logloss"] is None
    assert report["truth_count"] == report["count"] - 1


def test_counts_are_exact_beyond_the_reach_of_32_bit_floats() -> None:
    """2^24 + 1 does not exist in float32; here one cell holds 2^24 rows already and gets one more."""
    metrics = EvalMetrics({"click": Task()}, [])
    state = {name: tensor.clone() for name, tensor in metrics.state().items()}
    rows = part(draw_rows(2, tasks=1), [0, 0])
    rows |= {"observed": torch.ones(2, 1, dtype=torch.bool), "labels": torch.tensor([[0.0], [1.0]])}
    one = feed(EvalMetrics({"click": Task()}, []), rows).state()
    for name, tensor in state.items():
        if not name.startswith("gauc"):
            tensor += one[name] * 2**24
    metrics = feed(metrics, rows)
    metrics.merge(state)
    report = metrics.compute()["tasks"]["click"]
    assert report["count"] == 2**25 + 2
    assert report["positives"] == 2**24 + 1
    assert report["auc"] == 0.5


def test_calibration_curve_keeps_the_sums() -> None:
    rows = draw_rows(30_000, tasks=1)
    rows["logits"] -= 2
    report = feed(EvalMetrics({"click": Task()}, []), rows).compute()["tasks"]["click"]
    curve = report["calibration_curve"]
    assert 10 <= len(curve) <= 20
    assert sum(b["count"] for b in curve) == report["count"]
    assert sum(b["count"] * b["label"] for b in curve) == pytest.approx(report["positives"])
    mean = sum(b["count"] * b["prediction"] for b in curve) / report["count"]
    assert mean == pytest.approx(report["mean_prediction"], rel=1e-4)
    assert all(a["prediction"] < b["prediction"] for a, b in pairwise(curve))
