"""PR-AUC, Gini, concordance and the error by decile against scikit-learn, scipy and loops."""

import numpy as np
import pytest
import torch
from scipy.stats import somersd
from sklearn.metrics import average_precision_score, mean_absolute_percentage_error, roc_auc_score
from torch import Tensor

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.metrics.ordered import average_precision, concordance, decile_error, gini


def rows(count: int, tied: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels ≥ 0 of which half are 0, and weights; with ties in both."""
    g = torch.Generator().manual_seed(seed)
    score = torch.randn(count, generator=g)
    label = (torch.rand(count, generator=g) < 0.5) * torch.exp(score + torch.randn(count, generator=g))
    weight = torch.rand(count, generator=g) + 0.1
    return ((4 * score).round() / 4, label.ceil(), weight) if tied else (score, label, weight)


def alone(count: int) -> tuple[Tensor, int]:
    return torch.arange(count), count


@pytest.mark.parametrize("tied", [False, True])
def test_pr_auc_is_sklearns(tied: bool) -> None:
    score, label, weight = rows(400, tied)
    found, _ = average_precision(score, label > 1, weight, *alone(400))
    assert found == pytest.approx(average_precision_score(label > 1, score, sample_weight=weight), rel=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_concordance_is_the_loop_over_pairs(tied: bool) -> None:
    score, label, weight = rows(120, tied)
    found, _ = concordance(score, label, weight, *alone(120))
    s, y, w = (column.double().numpy() for column in (score, label, weight))
    mass = np.outer(w, w) * (y[:, None] < y[None, :])
    right = (s[:, None] < s[None, :]) + 0.5 * (s[:, None] == s[None, :])
    assert found == pytest.approx((mass * right).sum() / mass.sum(), rel=1e-9)
    plain, _ = concordance(score, label, torch.ones(120), *alone(120))
    assert plain == pytest.approx((1 + somersd(y, s).statistic) / 2, rel=1e-9)


def test_of_two_labels_they_are_functions_of_auc() -> None:
    score, label, weight = rows(500, True)
    binary = (label > 1).float()
    auc = roc_auc_score(binary, score, sample_weight=weight)
    assert concordance(score, binary, weight, *alone(500))[0] == pytest.approx(auc, rel=1e-6)
    assert gini(score, binary, weight, *alone(500))[0] == pytest.approx(2 * auc - 1, rel=1e-6)


def test_gini_is_the_area_of_the_lorenz_curves() -> None:
    score, label, _ = rows(2000, False)

    def area(order: np.ndarray) -> float:
        share = np.concatenate([[0.0], label.double().numpy()[order].cumsum()])
        return 0.5 - np.trapezoid(share / share[-1], np.linspace(0, 1, 2001))

    found, _ = gini(score, label, torch.ones(2000), *alone(2000))
    assert found == pytest.approx(area(score.argsort().numpy()) / area(label.argsort().numpy()), rel=1e-6)
    assert gini(label, label, torch.ones(2000), *alone(2000))[0] == 1


@pytest.mark.parametrize("metric", [average_precision, gini, concordance])
def test_effects_are_derivatives_by_the_weights(metric) -> None:
    score, label, weight = rows(60, True)
    target = label > 1 if metric is average_precision else label
    weight = weight.double()
    index, groups = torch.arange(60) // 3, 20
    value, effects = metric(score, target, weight, index, groups)
    assert effects.sum().item() == pytest.approx(0, abs=1e-9)
    step = 1e-5
    for group in (0, 7, 19):
        more, _ = metric(score, target, weight * (1 + step * (index == group).double()), index, groups)
        assert (more - value) / step == pytest.approx(effects[group].item(), rel=1e-3, abs=1e-7)


def test_the_error_by_decile() -> None:
    score, label, _ = rows(1000, False)
    prediction = score.exp()
    order = score.argsort().numpy().reshape(10, 100)
    p, y = (column.double().numpy()[order].sum(1) for column in (prediction, label))
    found = decile_error(score, prediction, label, torch.ones(1000))
    assert found == pytest.approx(abs(p - y).sum() / y.sum(), rel=1e-6)
    assert decile_error(score, prediction, torch.zeros(1000), torch.ones(1000)) is None


def test_equal_labels_have_no_order() -> None:
    score, same = torch.randn(50), torch.full((50,), 3.0)
    for metric in (gini, concordance):
        assert metric(score, same, torch.ones(50), *alone(50))[0] is None
    every = torch.ones(50, dtype=torch.bool)
    metrics = EvalMetrics({"n": Task(kind="count")}, [])
    metrics.update(score.unsqueeze(1), same.unsqueeze(1), every.unsqueeze(1), torch.ones(50), every)
    report = metrics.compute()["tasks"]["n"]
    assert report["concordance"] is report["gini"] is None
    assert report["order_null_reason"] == "concordance and gini: the labels of 50 rows are all the same"


def test_mape_leaves_zeros_out() -> None:
    score, label, weight = rows(300, False)
    every = torch.ones(300, dtype=torch.bool)
    metrics = EvalMetrics({"n": Task(kind="count")}, [])
    metrics.update(score.unsqueeze(1), label.unsqueeze(1), every.unsqueeze(1), weight, every)
    seen = label > 0
    expected = mean_absolute_percentage_error(label[seen], score.exp()[seen], sample_weight=weight[seen])
    assert metrics.compute()["tasks"]["n"]["mape"] == pytest.approx(expected, rel=1e-6)
