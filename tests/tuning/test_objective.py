"""Objectives by hand: orientation, means, limits, fronts."""

from typing import Any

import pytest

from raymtl.config.tune import Objective
from raymtl.objectives.metrics.choose import signed_value
from raymtl.tuning.objective import ObjectiveEvaluator, area, front, metric_problem, unsigned
from tests.helpers.small_config import small


def metrics(click: float, buy: float, order: float = 0.1, logloss: float = 0.3) -> dict[str, Any]:
    tasks = {"click": {"kind": "binary", "auc": click, "logloss": logloss}, "buy": {"kind": "binary", "auc": buy}}
    return {"tasks": tasks, "mean_auc": click, "order_violation_rate": {"overall": order}}


def evaluator(**objective: Any) -> ObjectiveEvaluator:
    return ObjectiveEvaluator(Objective(**objective))


def test_higher_is_always_better() -> None:
    found = metrics(0.7, 0.8, order=0.2, logloss=0.4)
    assert signed_value(found, "click.auc") == 0.7
    assert signed_value(found, "click.logloss") == -0.4
    assert signed_value(found, "order_violations") == -0.2
    assert unsigned("click.logloss", -0.4) == 0.4
    assert unsigned("click.auc", 0.7) == 0.7


def test_values_of_each_kind() -> None:
    found = metrics(0.7, 0.8, logloss=0.4)
    assert evaluator(metric="buy.auc").values(found) == [0.8]
    assert evaluator(pareto=["buy.auc", "click.logloss"]).values(found) == [0.8, -0.4]
    weighted = evaluator(mean={"click.auc": 1.0, "buy.auc": 3.0})
    assert weighted.values(found) == [pytest.approx((0.7 + 3 * 0.8) / 4)]
    assert evaluator(metric="buy.auc").values(metrics(0.7, None)) is None  # type: ignore[arg-type]
    assert evaluator(metric="buy.auc").values(metrics(0.7, float("nan"))) is None
    assert evaluator(metric="buy.auc").values(None) is None


@pytest.mark.parametrize(("metric", "key"), [("gauc", "group"), ("ndcg_10", "request"), ("mrr", "request")])
def test_a_metric_needs_its_column(metric: str, key: str) -> None:
    said = metric_problem(small(), f"click.{metric}")
    assert said is not None
    assert said.startswith(
        f"names `click.{metric}`, which needs data.{key}; set that, or choose one of `auc`, `pr_auc`, `logloss`"
    )
    assert metric_problem(small(f"data.{key}=user"), f"click.{metric}") is None
    assert signed_value({"tasks": {"click": {"kind": "binary", metric: 0.4}}}, f"click.{metric}") == 0.4


def test_a_limit_relative_to_the_default() -> None:
    asked = evaluator(metric="buy.auc", subject_to={"click.auc": {"max_drop": 0.001}})
    default = metrics(0.7, 0.8)
    assert asked.meets_limits(metrics(0.6995, 0.9), default)
    assert not asked.meets_limits(metrics(0.698, 0.9), default)
    assert asked.violations(metrics(0.698, 0.9), default) == [pytest.approx(0.001)]
    assert asked.meets_limits(metrics(0.1, 0.9), None), "nothing to compare with yet"


def test_fixed_limits_are_in_the_metrics_own_sense() -> None:
    assert evaluator(metric="buy.auc", subject_to={"click.auc": {"at_least": 0.7}}).meets_limits(
        metrics(0.7, 0.5), None
    )
    ceiling = evaluator(metric="buy.auc", subject_to={"order_violations": {"at_most": 0.05}})
    assert not ceiling.meets_limits(metrics(0.7, 0.5, order=0.06), None)
    assert ceiling.meets_limits(metrics(0.7, 0.5, order=0.04), None)
    lost = evaluator(metric="buy.auc", subject_to={"click.logloss": {"max_drop": 0.01}})
    assert lost.meets_limits(metrics(0.7, 0.5, logloss=0.305), metrics(0.7, 0.5, logloss=0.3))
    assert not lost.meets_limits(metrics(0.7, 0.5, logloss=0.32), metrics(0.7, 0.5, logloss=0.3))


def test_front_and_area_by_hand() -> None:
    points = {1: [1.0, 3.0], 2: [2.0, 2.0], 3: [3.0, 1.0], 4: [1.0, 1.0], 5: [2.0, 1.5]}
    assert front(points) == [1, 2, 3]
    assert area(list(points.values()), (0.0, 0.0)) == 6.0  # 1·3 + 1·2 + 1·1
    assert area([[1.0, 1.0]], (1.0, 0.0)) == 0.0
