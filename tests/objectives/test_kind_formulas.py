"""Losses, links and predictions of the kinds against the formulas, scikit-learn and scipy; gradients in fp64."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import log_loss, mean_pinball_loss, top_k_accuracy_score
from torch import Tensor

from raymtl.config.task_kinds import BaseRate
from raymtl.config.tasks import Task
from raymtl.objectives.link import OutputScale
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.outputs import Outputs
from raymtl.objectives.tasks import TaskObjective, objective_of
from raymtl.objectives.tasks.ziln import ZilnObjective
from tests.helpers.task_kinds import TASKS, labels_of_kinds

ROWS = 40


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linked(objective: TaskObjective, heads: Tensor) -> Tensor:
    """Outputs [N] or [N, k] of heads [N, k]."""
    if objective.outputs == 1:
        return heads[:, 0]
    return torch.cat((heads[:, :1], objective.link(heads[:, 0], heads[:, 1:])), 1)


def labels(name: str) -> Tensor:
    return labels_of_kinds(ROWS)[:, list(TASKS).index(name)].double()


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_of_every_loss_is_that_of_its_formula(name: str) -> None:
    """Central differences in fp64, through the link."""
    objective, y = objective_of(TASKS[name]), labels(name)
    heads = random(ROWS, objective.outputs).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: objective.loss(linked(objective, h), y), (heads,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_masked_rows_and_wild_outputs_are_finite(name: str) -> None:
    """A masked row has zeros for all outputs, without the link, and for the label; outputs of ±200 are as far as a head goes."""
    objective = objective_of(TASKS[name])
    shape = (3,) if objective.outputs == 1 else (3, objective.outputs)
    zeros = torch.zeros(shape).requires_grad_()
    wild = linked(objective, 200 * random(ROWS, objective.outputs).float().sign()).detach().requires_grad_()
    for logit, y in ((zeros, torch.zeros(3)), (wild, labels(name).float())):
        loss = objective.loss(logit, y)
        (gradient,) = torch.autograd.grad(loss.sum(), logit)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
        assert objective.predictions(logit).isfinite().all()


def test_fraction() -> None:
    objective, a, y = objective_of(Task(kind="fraction")), random(ROWS), labels("share")
    p = 1 / (1 + np.exp(-a.numpy()))
    expected = -(y.numpy() * np.log(p) + (1 - y.numpy()) * np.log(1 - p))
    np.testing.assert_allclose(objective.loss(a, y), expected, rtol=1e-12)
    np.testing.assert_allclose(objective.lower_bound(y), stats.bernoulli(y.numpy()).entropy(), rtol=1e-12)
    np.testing.assert_allclose(objective.predictions(a)[:, 0], p, rtol=1e-12)


def test_multiclass() -> None:
    objective, a, y = objective_of(TASKS["device"]), random(ROWS, 3), labels("device")
    p = np.exp(a.numpy()) / np.exp(a.numpy()).sum(1, keepdims=True)
    weights = np.array([1.0, 2.0, 0.5])[y.long().numpy()]
    expected = -weights * np.log(p[np.arange(ROWS), y.long().numpy()])
    np.testing.assert_allclose(objective.loss(a, y), expected, rtol=1e-12)
    found = objective.predictions(a).numpy()
    np.testing.assert_allclose(found[:, 1:], p, rtol=1e-12)
    assert (found[:, 0] == p.argmax(1)).all()


def test_ordinal() -> None:
    """Probabilities as differences of cumulative ones (McCullagh 1980), and the expected level."""
    objective, heads, y = objective_of(TASKS["stars"]), random(ROWS, 4), labels("stars")
    heads[:, 1:] = heads[:1, 1:]  # the same thresholds for all rows
    theta = np.concatenate([[0.0], np.cumsum(np.log1p(np.exp(heads[0, 1:].numpy())) + 1e-3)])
    above = 1 / (1 + np.exp(-(heads[:, :1].numpy() - theta)))
    p = -np.diff(above, axis=1, prepend=1.0, append=0.0)
    logit = linked(objective, heads)
    np.testing.assert_allclose(objective.loss(logit, y), -np.log(p[np.arange(ROWS), y.long().numpy()]), rtol=1e-9)
    found = objective.predictions(logit).numpy()
    np.testing.assert_allclose(found[:, 0], p @ np.arange(5), rtol=1e-9)
    np.testing.assert_allclose(found[:, 1:], p, rtol=1e-9)
    order = heads[:, 0].argsort()
    assert (objective.score(logit)[order].diff() > 0).all()  # the main output orders the rows


def test_ziln() -> None:
    """The likelihood of scipy's log-normal, without the logarithm of y, and the mean of a mixture with zeros."""
    objective, heads, y = objective_of(TASKS["paid"]), random(ROWS, 3), labels("paid").numpy()
    a, mu, s = heads.numpy().T
    p, sigma = 1 / (1 + np.exp(-a)), 0.05 + np.log1p(np.exp(s))
    density = np.where(y > 0, stats.lognorm.logpdf(np.where(y > 0, y, 1), sigma, scale=np.exp(mu)), 0)
    log_y = np.log(np.where(y > 0, y, 1))
    expected = np.where(y > 0, -np.log(p) - density - log_y, -np.log(1 - p))
    np.testing.assert_allclose(objective.loss(heads, torch.from_numpy(y)), expected, rtol=1e-9)
    found = objective.predictions(heads).numpy()
    np.testing.assert_allclose(found[:, 0], p * stats.lognorm.mean(sigma, scale=np.exp(mu)), rtol=1e-9)
    np.testing.assert_allclose(found[:, 1], p, rtol=1e-12)


def test_watch_time() -> None:
    """The likelihood of a geometric label, whose odds are its mean; least at the mean label."""
    objective, a = objective_of(TASKS["watched"]), random(ROWS)
    y = torch.arange(ROWS).double() % 9
    m = np.exp(a.numpy())
    expected = -stats.geom.logpmf(y.numpy(), 1 / (1 + m), loc=-1)
    np.testing.assert_allclose(objective.loss(a, y), expected, rtol=1e-9)
    np.testing.assert_allclose(objective.predictions(a)[:, 0], m, rtol=1e-12)
    at = torch.tensor(math.log(y.mean().item()), dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(objective.loss(at.expand(ROWS), y).mean(), at)
    assert abs(slope.item()) < 1e-12


def test_quantile() -> None:
    task = TASKS["delay"]
    objective, y = objective_of(task), labels("delay")
    logit = linked(objective, random(ROWS, 4)) * 20 + 30
    found = objective.predictions(logit).numpy()
    losses = [mean_pinball_loss(y, found[:, 1 + n], alpha=level) for n, level in enumerate(task.quantiles or [])]
    assert objective.loss(logit, y).mean().item() == pytest.approx(np.mean(losses), rel=1e-12)
    assert (found[:, 0] == found[:, 2]).all()  # the median


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_quantiles_never_cross(size: float) -> None:
    objective = objective_of(Task(kind="quantile", quantiles=[0.01, 0.2, 0.4, 0.6, 0.99]))
    found = objective.predictions(linked(objective, size * random(1000, 5).float()))[:, 1:]
    assert (found.diff(dim=1) >= 0).all()


def test_a_quantile_is_learned_and_not_the_mean() -> None:
    """Gradient descent on the heads of all rows alike finds the quantiles of skewed labels."""
    task = Task(kind="quantile", quantiles=[0.1, 0.5, 0.9])
    objective = objective_of(task)
    y = torch.from_numpy(stats.expon.ppf((np.arange(2000) + 0.5) / 2000))
    heads = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([heads], lr=0.02)
    for _ in range(800):
        optimizer.zero_grad()
        objective.loss(linked(objective, heads.expand(2000, -1)), y).mean().backward()
        optimizer.step()
    found = objective.predictions(linked(objective, heads.unsqueeze(0)))[0, 1:]
    np.testing.assert_allclose(found.detach(), stats.expon.ppf([0.1, 0.5, 0.9]), atol=0.02)


def test_where_the_heads_of_ziln_start() -> None:
    """At the share, the mean and the spread of a sample: the mean of the untrained model is that of the labels."""
    g = torch.Generator().manual_seed(0)
    y = torch.where(
        torch.rand(200_000, generator=g) < 0.01, torch.exp(0.6 * torch.randn(200_000, generator=g) + 3), 0.0
    )
    task = TASKS["paid"]
    rate = BaseRate(y.mean().item(), terms=task.traits.start_terms(y.double().numpy(), task).mean(0).tolist())
    objective = ZilnObjective()
    (offset, _), _ = objective.extra_scales(rate)
    _, s = objective.start_extras(rate)
    logit = torch.tensor([[objective.start_logit(rate), offset, s]])
    assert objective.predictions(logit)[0, 0].item() == pytest.approx(y.mean().item(), rel=0.05)
    constant = objective.details([0.0, *rate.terms], rate)["constant_ziln_loss"]
    assert objective.loss(logit.expand(len(y), -1), y).mean().item() == pytest.approx(constant, rel=1e-3)


@pytest.mark.parametrize(("base_rate", "expected"), [(0.5 / 2001, 0.5 / 2001), (0.0, 1e-6)])
def test_where_the_heads_of_ziln_start_without_any_amount(base_rate: float, expected: float) -> None:
    """A sample of zeros alone: the untrained model finds an amount improbable, as half a label, and does not start at ½."""
    rate, outputs = BaseRate(base_rate, terms=(0.0, 0.0, 0.0)), Outputs({"t": TASKS["paid"]})
    (objective,) = outputs.objectives
    scale = OutputScale.of(outputs, {"t": rate})
    assert scale is not None
    logits = scale(torch.tensor([[objective.start_logit(rate), *objective.start_extras(rate)]]))
    mean, probability = outputs.predictions(logits)[0].tolist()
    assert probability == pytest.approx(expected, rel=1e-4)
    assert mean == pytest.approx(expected * math.exp(0.5), rel=1e-3)
    assert outputs.predictions(scale.corrected(logits))[0, 0].item() == pytest.approx(base_rate, rel=1e-3, abs=1e-15)


# Metrics of the kinds


def report_of(name: str, heads: Tensor, y: Tensor, weight: Tensor) -> dict:
    objective = objective_of(TASKS[name])
    logits = linked(objective, heads).float().reshape(len(y), -1)
    metrics = EvalMetrics({name: TASKS[name]}, [])
    every = torch.ones(len(y), dtype=torch.bool)
    metrics.update(logits, y.float().unsqueeze(1), every.unsqueeze(1), weight.float(), every)
    return metrics.compute()["tasks"][name]


def test_metrics_of_classes_against_sklearn() -> None:
    rows = 500
    heads, weight = random(rows, 4), torch.rand(rows, generator=torch.Generator().manual_seed(1)) + 0.1
    y = labels_of_kinds(rows)[:, list(TASKS).index("topic")]
    found = report_of("topic", heads, y, weight)
    p = heads.softmax(1).numpy()
    assert found["logloss"] == pytest.approx(log_loss(y, p, sample_weight=weight), rel=1e-6)
    for k, name in ((1, "accuracy"), (3, "top_3_accuracy")):
        assert found[name] == pytest.approx(top_k_accuracy_score(y, p, k=k, sample_weight=weight), rel=1e-6)
    shares = np.bincount(y.long(), weights=weight) / weight.sum().item()
    assert found["constant_logloss"] == pytest.approx(stats.entropy(shares), rel=1e-6)
    assert [row["share"] for row in found["classes"]] == pytest.approx(shares.tolist())
    assert sum(row["mean_prediction"] for row in found["classes"]) == pytest.approx(1)
    assert {"mse", "calibration", "ndcg", "mean_label"}.isdisjoint(found)


def test_metrics_of_levels_and_quantiles() -> None:
    rows = 500
    weight = torch.rand(rows, generator=torch.Generator().manual_seed(1)) + 0.1
    y = labels_of_kinds(rows)
    stars = y[:, list(TASKS).index("stars")]
    heads = random(rows, 4)
    found = report_of("stars", heads, stars, weight)
    p = objective_of(TASKS["stars"]).predictions(linked(objective_of(TASKS["stars"]), heads)).numpy()
    assert found["logloss"] == pytest.approx(log_loss(stars, p[:, 1:], sample_weight=weight), rel=1e-5)
    assert found["mae"] == pytest.approx(np.average(abs(p[:, 0] - stars.numpy()), weights=weight), rel=1e-5)
    assert "mape" not in found
    delay = y[:, list(TASKS).index("delay")]
    heads = random(rows, 4) * 5 + 40
    found = report_of("delay", heads, delay, weight)
    q = objective_of(TASKS["delay"]).predictions(linked(objective_of(TASKS["delay"]), heads.float())).numpy()
    losses = [
        mean_pinball_loss(delay, q[:, 1 + n], alpha=a, sample_weight=weight)
        for n, a in enumerate((0.1, 0.5, 0.75, 0.9))
    ]
    assert [row["pinball"] for row in found["quantiles"]] == pytest.approx(losses, rel=1e-5)
    assert found["pinball"] == pytest.approx(np.mean(losses), rel=1e-5)
    inside = (delay.numpy() >= q[:, 1]) & (delay.numpy() <= q[:, 4])
    assert found["coverage"] == pytest.approx(np.average(inside, weights=weight), rel=1e-6)
    assert found["nominal_coverage"] == pytest.approx(0.8)
    assert {"mse", "calibration", "gini"}.isdisjoint(found)


def test_a_row_whose_second_output_is_not_finite_is_reported() -> None:
    heads = torch.zeros(30, 3, dtype=torch.float64)
    heads[7, 2] = torch.nan
    found = report_of("paid", heads, torch.ones(30), torch.ones(30))
    assert found["ziln_loss"] is None
    assert found["gini"] is None
    assert "1 of" in found["null_reason"] or "1 " in found["null_reason"]


def test_the_layout_of_columns() -> None:
    """Main outputs, derived ones, then the extra ones in the order of the tasks."""
    tasks = {
        "click": Task(),
        "kind": Task(kind="multiclass", classes=3),
        "buy": Task(parent="click"),
        "paid": Task(kind="ziln"),
    }
    outputs = Outputs(tasks, {"cvr": ("buy", "click")})
    assert (outputs.width, outputs.several) == (9, [1, 3])
    logits = torch.arange(9.0).expand(2, 9)
    assert outputs.of(logits, 1)[0].tolist() == [1, 5, 6]
    assert outputs.of(logits, 3)[0].tolist() == [3, 7, 8]
    assert outputs.of(logits, 4)[0].item() == 4
    assert outputs.names == ["click", "kind", "buy", "paid", "cvr", "kind_0", "kind_1", "kind_2", "paid_probability"]
    assert outputs.predictions(logits).shape == (2, 9)
