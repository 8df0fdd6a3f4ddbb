"""One class per kind of task, one entry per metric: nothing that reads them may have gaps."""

import io
import math
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from torch import Tensor

from raymtl.config import task_kinds
from raymtl.config.metrics import METRICS, RUN_METRICS, choosable, find_metric, metrics_of_kind, parse_metric
from raymtl.config.task_kinds import KINDS, BaseRate, Binary, Classes, KindName, LabelRule, TaskKind, Values, find_kind
from raymtl.config.tasks import Task
from raymtl.daily.gate import CHECKS, check_label, check_scale
from raymtl.objectives.link import OutputScale
from raymtl.objectives.metrics.choose import signed_value
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.outputs import Outputs
from raymtl.objectives.tasks import OBJECTIVES, objective_of
from raymtl.reports.progress import evaluation_line
from raymtl.reports.tables import ALL, headline, metric_tables
from raymtl.reports.terminal import metric_table
from tests.helpers.small_config import small

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}-{kind.transform}")


OPTIONS: dict[str, Any] = {"classes": 5, "quantiles": [0.1, 0.5, 0.9]}
"""A value for each field that some kinds need."""


def task_of(kind: type[TaskKind]) -> Task:
    options = {name: value for name, value in OPTIONS.items() if name in kind.options}
    truth = {"truth": "truth"} if kind.has_truth else {}
    return Task.model_validate({"kind": kind.name, "transform": kind.transform, **truth, **options})


def labels_of(kind: type[TaskKind], rows: int) -> Tensor:
    """Labels [rows] that keep to the rule: classes, or about half of them the smallest."""
    rule, g = task_of(kind).label_rule, torch.Generator().manual_seed(0)
    if rule.whole:
        return torch.randint(0, int(rule.high or 0) + 1, (rows,), generator=g).float()
    low = 0.0 if rule.low is None else rule.low
    size = 3 * torch.exp(0.5 * torch.randn(rows, generator=g)) if rule.high is None else rule.high - low
    return torch.randint(0, 2, (rows,), generator=g).float() * size + low


def rate_of(kind: type[TaskKind], labels: Tensor) -> BaseRate:
    """What a sample of these labels tells."""
    values, task = labels.double().numpy(), task_of(kind)
    target = kind.trained_on(values)
    return BaseRate(values.mean(), target.mean(), target.std(), kind.start_terms(values, task).mean(0))


def linked(kind: type[TaskKind], labels: Tensor, moved: int | None = None, step: float = 0.0) -> Tensor:
    """The outputs [1, O] of an untrained model, those of its heads' biases, of which one is moved."""
    rate, outputs = rate_of(kind, labels), Outputs({"t": task_of(kind)})
    (objective,) = outputs.objectives
    main = 0.0 if objective.head_scale(rate) != (0.0, 1.0) else objective.start_logit(rate)
    heads = torch.tensor([[main, *objective.start_extras(rate)]])
    if moved is not None:
        heads[:, moved] += step
    extra = objective.link(heads[:, 0], heads[:, 1:])
    return OutputScale(outputs, {"t": rate})(torch.cat((heads[:, :1], extra), 1))


def evaluated(kind: type[TaskKind]) -> dict[str, Any]:
    """What an evaluation reports about a task of the kind."""
    labels, g = labels_of(kind, 300).unsqueeze(1), torch.Generator().manual_seed(1)
    objective = objective_of(task_of(kind))
    logits = 0.3 * labels + torch.randn(300, objective.outputs, generator=g)
    logits[:, 1:] = objective.link(logits[:, 0], logits[:, 1:])
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
    assert set(OPTIONS) | {"positive", "negative", "class_weights"} == set(task_kinds.OPTIONS)
    for kind in KINDS:
        task, objective = task_of(kind), objective_of(task_of(kind))
        same = objective_of(task.model_copy(update={"label": "other"}))
        assert objective == same  # so that tasks of a kind are computed together
        assert objective.outputs == kind.outputs(task)
        assert objective.predictions(torch.zeros(2, objective.outputs).squeeze(1)).shape == (
            2,
            1 + len(kind.parts(task)),
        )


@every_kind
def test_an_evaluation_has_the_metrics_of_the_registry_and_no_others(kind):
    report = evaluated(kind)["tasks"]["t"]
    known = {metric.name for metric in metrics_of_kind(kind)}
    assert {name for name in report if name in METRICS} == known
    said = {"kind", "count", "positives", "positive_rate", "null_reason", "calibration_curve"}
    said |= {"groups", "intervals", "interval_null_reason", "classes", "quantiles", "nominal_coverage"}
    others = {name for name in report if name not in known | said}
    assert all(
        name.startswith(("mean_", "truth_", "constant_", "gauc_", "auc_", "requests_", "order_")) for name in others
    )
    assert {kind.headline, kind.brief, *kind.gated, *filter(None, [kind.loss_metric, *kind.own])} <= known
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
    assert all(shown[column.name].text not in ("", "–") for column in table.columns)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(metric_table(result))
    text = console.export_text()
    for name in {main.label, "error", "calibration", "rows", "NDCG@10"} & heads:
        assert (shown[name].short or shown[name].text) in text
    line = evaluation_line({"metrics": result, "step": 1, "seconds": 1.0})
    assert f"t {kind.brief} " in line


def _headlines(kind: type[TaskKind]) -> set[str]:
    family = next(family for family in (Binary, Values, Classes) if issubclass(kind, family))
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
    ranks = "ndcg_10" in choosable(kind, data.model_copy(update={"request": "request_id"}))
    assert ranks == (not issubclass(kind, Classes))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.has_base_rate])
def test_the_head_starts_at_the_base_rate(kind):
    objective = objective_of(task_of(kind))
    logit = torch.tensor(objective.start_logit(0.3), dtype=torch.float64)
    assert objective.predict(logit).item() == pytest.approx(0.3)
    start = objective.start_loss(0.3)
    assert start is None or start > 0


@every_kind
def test_a_start_loss_is_what_the_best_constant_costs_above_the_bound(kind):
    """Where the labels' bound does not follow from the base rate, none is known, and the first losses are measured."""
    labels, objective = labels_of(kind, 400), objective_of(task_of(kind))
    rate, logits = rate_of(kind, labels), linked(kind, labels).expand(400, -1).squeeze(1)
    excess = (objective.loss(logits, labels) - objective.lower_bound(labels)).mean().item()
    found = objective.start_loss(rate)
    assert (found is not None) == (kind.name in ("binary", "multiclass", "ordinal"))
    assert found is None or found == pytest.approx(excess, rel=1e-4)


@every_kind
def test_an_untrained_model_is_about_the_best_constant(kind):
    """No step along one head makes the loss of all labels much smaller."""
    labels, objective = labels_of(kind, 400), objective_of(task_of(kind))
    least, unit = objective.lower_bound(labels).mean().item(), objective.loss_unit(rate_of(kind, labels))

    def excess(logits: Tensor) -> float:
        return (objective.loss(logits.expand(400, -1).squeeze(1), labels).mean().item() - least) / unit

    at_start = excess(linked(kind, labels))
    for head in range(objective.outputs):
        for step in (-0.2, 0.2):
            assert excess(linked(kind, labels, head, step)) > 0.97 * at_start


@every_kind
def test_no_loss_falls_below_its_bound(kind):
    objective, rule = objective_of(task_of(kind)), kind.labels
    labels = torch.tensor([0.0, 1.0] if rule.only or rule.whole else [rule.low or 0.0, 0.5, 1.0])
    main = torch.linspace(-8, 8, 65).unsqueeze(1).expand(-1, len(labels))
    extra = 8 * torch.randn(*main.shape, objective.outputs - 1, generator=torch.Generator().manual_seed(0))
    logits = main if objective.outputs == 1 else torch.cat((main.unsqueeze(2), objective.link(main, extra)), 2)
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
