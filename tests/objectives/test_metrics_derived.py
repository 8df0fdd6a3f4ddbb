"""Metrics of outputs P(child | given), such as ESMM's conversion rate on clicked rows."""

import pytest
import torch

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics
from tests.helpers.metric_rows import draw_rows, feed, seen

torch.set_num_threads(1)
TASKS = {"click": Task(truth="p"), "buy": Task(parent="click", truth="q")}


def rows_with_cvr() -> dict:
    rows = draw_rows(2_000, tasks=2, scenarios=2, groups=50)
    conditional = torch.randn(2_000, 1, generator=torch.Generator().manual_seed(5)) + rows["logits"][:, 1:]
    truth = rows["truth"].clone()
    truth[:, 1] *= truth[:, 0]  # no child above its parent
    return {**rows, "logits": torch.cat((rows["logits"], conditional), 1), "truth": truth}


def auc(x, y) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in x[y == 1] for b in x[y == 0]]
    return float(sum(pairs) / len(pairs))


def test_a_derived_output_is_judged_on_the_rows_where_its_condition_happened() -> None:
    rows = rows_with_cvr()
    result = feed(EvalMetrics(TASKS, ["a", "other"], derived={"cvr": ("buy", "click")}), rows).compute()
    clicked = rows["observed"].all(1) & rows["valid"] & (rows["labels"][:, 0] == 1)
    x, y = rows["logits"][clicked, 2], rows["labels"][clicked, 1]
    cvr = result["tasks"]["cvr"]
    assert cvr["count"] == int(clicked.sum())
    assert cvr["auc"] == pytest.approx(auc(x, y), abs=1e-3)
    assert cvr["gauc"] is not None
    best = (rows["truth"][:, 1] / rows["truth"][:, 0])[clicked]
    assert cvr["truth_auc"] == pytest.approx(auc(best, y), abs=1e-3)
    first = seen(rows, 0, scenario=0)
    assert result["scenarios"]["a"]["click"]["count"] == len(first["y"])
    assert 0 < result["scenarios"]["a"]["cvr"]["count"] < cvr["count"]


def test_derived_outputs_change_nothing_else() -> None:
    rows = rows_with_cvr()
    plain = feed(EvalMetrics(TASKS, []), {**rows, "logits": rows["logits"][:, :2]}).compute()
    result = feed(EvalMetrics(TASKS, [], derived={"cvr": ("buy", "click")}), rows).compute()
    assert result["mean_auc"] == plain["mean_auc"]
    assert result["order_violation_rate"] == plain["order_violation_rate"]
    assert {name: result["tasks"][name] for name in TASKS} == plain["tasks"]
