"""One class per kind of task, one entry per metric: nothing that reads them may have gaps."""

import io
import math
from typing import Any, get_args

import pytest
import torch
from rich.console import Console

from raymtl.config.metrics import METRICS, RUN_METRICS, choosable, find_metric, metrics_of_kind, parse_metric
from raymtl.config.task_kinds import KINDS, Binary, KindName, LabelRule, TaskKind, Values, find_kind
from raymtl.config.tasks import Task
from raymtl.daily.gate import CHECKS, check_label, check_scale
from raymtl.objectives.link import predict
from raymtl.objectives.metrics.choose import signed_value
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.tasks import OBJECTIVES, objective_of
from raymtl.reports.progress import evaluation_line
from raymtl.reports.tables import ALL, headline, metric_tables
from raymtl.reports.terminal import metric_table
from tests.helpers.small_config import small

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}-{kind.transform}")


def task_of(kind: type[TaskKind]) -> Task:
    return Task.model_validate({"kind": kind.name, "transform": kind.transform, "truth": "truth"})


def evaluated(kind: type[TaskKind]) -> dict[str, Any]:
    """What an evaluation reports about a task of the kind; its labels keep to the rule, a third of them are the smallest."""
    rule, g = kind.labels, torch.Generator().manual_seed(0)
    low = 0.0 if rule.low is None else rule.low
    high = low + 3 if rule.high is None else rule.high
    labels = torch.randint(0, 2, (300, 1), generator=g).float() * (high - low) + low
    logits = 0.3 * labels + torch.randn(300, 1, generator=g)
    metrics = EvalMetrics({"t": task_of(kind)}, ["a", "b"], with_requests=True)
    everything = torch.ones(300, dtype=torch.bool)
    metrics.update(
        logits, labels, everything.unsqueeze(1), everything.float(), everything, torch.arange(300) % 2,
        torch.arange(300) % 20, torch.full((300, 1), float(labels.mean())), torch.arange(300) % 60,
    )  # fmt: skip
    return metrics.compute()


def test_every_kind_of_the_configuration_has_its_classes():
    assert set(get_args(KindName)) == {kind.name for kind in KINDS}
    assert set(OBJECTIVES) == set(KINDS)
    assert all(objective_of(task_of(kind)).kind is kind for kind in KINDS)


@every_kind
def test_an_evaluation_has_the_metrics_of_the_registry_and_no_others(kind):
    report = evaluated(kind)["tasks"]["t"]
    known = {metric.name for metric in metrics_of_kind(kind)}
    assert {name for name in report if name in METRICS} == known
    said = {"kind", "count", "positives", "positive_rate", "null_reason", "calibration_curve"}
    said |= {"groups", "intervals", "interval_null_reason"}
    others = {name for name in report if name not in known | said}
    assert all(name.startswith(("mean_", "truth_", "constant_", "gauc_", "auc_", "requests_")) for name in others)
    assert {kind.headline, kind.brief, *kind.gated, *filter(None, [kind.loss_metric, kind.deviance])} <= known
    assert METRICS[kind.headline].better is not None


@every_kind
def test_reports_show_every_metric_of_every_kind(kind):
    result = evaluated(kind)
    (table,) = [t for t in metric_tables(result) if t.rows]
    assert [row.scenario for row in table.rows] == [ALL, "a", "b"]
    heads = {column.name for column in table.columns}
    main = METRICS[kind.headline]
    for metric in metrics_of_kind(kind):
        assert metric.label in heads or (metric is main and "error" in heads) or metric.name in _headlines(kind)
    shown = table.rows[0].cells
    assert all(cell.text not in ("", "–") for name, cell in shown.items())
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(metric_table(result))
    text = console.export_text()
    for name in ({main.label, "error"} & heads) | {"calibration", "rows", "NDCG@10"}:
        assert (shown[name].short or shown[name].text) in text
    line = evaluation_line({"metrics": result, "step": 1, "seconds": 1.0})
    assert f"t {kind.brief} " in line


def _headlines(kind: type[TaskKind]) -> set[str]:
    family = Binary if issubclass(kind, Binary) else Values
    return {other.headline for other in KINDS if issubclass(other, family)}


@every_kind
def test_what_can_be_chosen_by_has_a_direction_and_a_value(kind):
    result = evaluated(kind)
    for name in choosable(kind):
        value = signed_value(result, f"t.{name}")
        assert value is not None
        assert value == (-1 if METRICS[name].better == "lower" else 1) * result["tasks"]["t"][name]
    assert "calibration" not in choosable(kind)
    data = small().data
    assert not {"gauc", "ndcg", "ndcg_10", "mrr"} & set(choosable(kind, data))
    assert "gauc" not in choosable(kind, data.model_copy(update={"impressions": "shown"}))
    assert "ndcg_10" in choosable(kind, data.model_copy(update={"request": "request_id"}))


@every_kind
def test_the_head_starts_at_the_base_rate(kind):
    task = task_of(kind)
    logit = torch.tensor(objective_of(task).start_logit(0.3), dtype=torch.float64)
    assert predict(logit, task).item() == pytest.approx(0.3)
    start = objective_of(task).start_loss(0.3)
    assert start is None or start > 0


@every_kind
def test_no_loss_falls_below_its_bound(kind):
    objective, rule = OBJECTIVES[kind], kind.labels
    labels = torch.tensor([0.0, 1.0] if rule.only else [rule.low or 0.0, 0.5, 1.0])
    logits = torch.linspace(-8, 8, 65).unsqueeze(1).expand(-1, len(labels))
    losses = objective.loss(logits, labels.expand(len(logits), -1))
    assert (losses.min(0).values >= objective.lower_bound(labels) - 1e-5).all()


def test_the_gate_names_what_it_compares():
    for kind in KINDS:
        assert all(check_label(what) == METRICS[what].in_words for what in kind.gated)
    assert check_label("norm user") == "norm user"
    assert [check_scale(what) for what in ("auc", "mse", "order", "not finite", "norm user", "held-out rows")] == [
        "ratio", "significant", "ratio", "count", "significant", "count",
    ]  # fmt: skip
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_names_are_taken_apart_in_one_way():
    assert parse_metric("a.b.auc") == ("a.b", "auc")
    assert parse_metric("mean_auc") == ("", "mean_auc")
    assert find_metric("t.mean_auc") is find_metric("auc") is None
    assert all(find_metric(name) is metric for name, metric in RUN_METRICS.items())


def test_label_rules_in_words():
    assert [rule.expected for rule in (LabelRule(only=(0, 1)), LabelRule(low=0), LabelRule(), LabelRule(0, 1))] == [
        "0 or 1", "a finite number ≥ 0", "a finite number", "a number from 0 to 1",
    ]  # fmt: skip


def test_results_of_other_versions_are_shown():
    assert find_kind(None) is Binary
    assert find_kind("a later one") is Values
    assert headline({"kind": "a later one"}).name == "mse"
    assert (
        metric_tables({"tasks": {"t": {"kind": "a later one", "mse": math.pi}}})[1].rows[0].cells["error"].text
        == "MSE 3.142"
    )
