"""The gate: each check by hand, what is not judged, and that getting worse never helps."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymtl.config.tasks import Task
from raymtl.daily.gate import evaluate_gate, summary
from raymtl.daily.record import Check, GateResult
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.training.driver import metrics_section
from tests.helpers.daily_config import daily_config

TASKS: dict[str, Any] = {
    "click": {},
    "buy": {"parent": "click"},
    "views": {"kind": "count"},
    "price": {"kind": "real"},
    "watch": {"kind": "real", "transform": "log1p"},
}
CONFIG = daily_config(tasks=TASKS)
NORMS: dict[str, tuple[float | None, float]] = {"user": (0.1, 0.11), "tags": (0.2, 0.2)}


def metrics(**changes: Any) -> dict[str, Any]:
    """Metrics of an evaluation; `task__metric=value` and `order=value` change them."""
    binary = {"auc": 0.75, "ne": 0.9, "calibration": 1.0, "count": 5000, "positives": 500, "null_reason": None}
    value = {
        "mse": 2.0,
        "calibration": 1.0,
        "count": 5000,
        "null_reason": None,
        "mae": 1.0,
        "nmae": 0.5,
        "mean_label": 2.0,
    }
    tasks: dict[str, Any] = {
        "click": {"kind": "binary", **binary},
        "buy": {"kind": "binary", **binary},
        "views": {"kind": "count", "poisson_deviance": 1.0, **value},
        "price": {"kind": "real", **value},
        "watch": {"kind": "real", **value},
    }
    order, value = changes.pop("order", 0.10), changes.pop("value", 2.0)
    for key, found in changes.items():
        task, metric = key.split("__")
        tasks[task][metric] = found
    score = {"value": value, "groups": 300, "null_reason": None}
    return {
        "eval": tasks,
        "scenarios": {},
        "order_violation_rate": {"click>buy": order, "overall": order},
        "scores": {"main": score},
    }


def run(
    candidate: dict[str, Any], base: dict[str, Any] | None = None, first: bool = False, **others: Any
) -> GateResult:
    given = {
        "norms": NORMS,
        "not_finite": {"user": 0, "trunk.0.weight": 0},
        "holdout_rows": 6000,
        "changes": {},
    } | others
    return evaluate_gate(CONFIG, None if first else base or metrics(), candidate, **given)


def found(result: GateResult, task: str | None, what: str) -> Check:
    (check,) = [c for c in result.checks if (c.task, c.name) == (task, what)]
    return check


def test_the_interval_of_a_change_stands_with_its_check_and_does_not_decide():
    worse = metrics(click__auc=0.73)
    clear = run(worse, changes={"click": {"auc": (-0.03, -0.01)}})
    doubtful = run(worse, changes={"click": {"auc": (-0.05, 0.01)}})
    assert not clear.passed
    assert not doubtful.passed
    assert found(clear, "click", "auc").change == (-0.03, -0.01)
    assert summary(clear) == (
        "the gate refuses the candidate: tasks.click auc is 0.73 (allowed ≥ 0.74, before 0.75, change -0.03 to -0.01 with 95 % "
        "confidence)"
    )
    assert summary(doubtful).endswith("; chance alone can make such a change; raise daily.gate.holdout to tell")
    assert found(run(metrics(), changes={"click": {"auc": (-0.05, 0.01)}}), "click", "auc").note == ""


def test_few_users_judge_nothing_however_many_their_rows():
    checks = run(metrics(click__groups=1, buy__groups=20), first=True).checks
    note = "1 held-out user, fewer than 20, are too few to judge; raise daily.gate.holdout"
    assert {c.note for c in checks if c.task == "click"} == {note}
    assert {c.passed for c in checks if c.task == "click"} == {None}
    assert {c.passed for c in checks if c.task == "buy"} == {True}


def test_an_equal_candidate_passes_every_check():
    result = run(metrics())
    assert result.passed
    assert [(c.task, c.name) for c in result.checks] == [
        ("click", "auc"), ("click", "ne"), ("click", "calibration"),
        ("buy", "auc"), ("buy", "ne"), ("buy", "calibration"),
        ("views", "poisson_deviance"), ("views", "calibration"),
        ("price", "mse"), ("price", "calibration"),
        ("watch", "mse"), ("watch", "calibration"),
        (None, "order"), (None, "value main"), (None, "not finite"), (None, "norm user"), (None, "norm tags"),
    ]  # fmt: skip
    assert summary(result) == "the gate passes the candidate: 17 checks passed, 0 could not be judged"


@pytest.mark.parametrize(
    ("key", "passes", "fails", "limit"),
    [
        ("click__auc", 0.7401, 0.7399, "≥ 0.74"),
        ("buy__ne", 0.9449, 0.9451, "≤ 0.945"),
        ("views__poisson_deviance", 1.0499, 1.0501, "≤ 1.05"),
        ("price__mse", 2.0999, 2.1001, "≤ 2.1"),
        ("click__calibration", 0.7001, 0.6999, "0.7 to 1.4, or closer to 1 than before"),
        ("views__calibration", 1.3999, 1.4001, "0.7 to 1.4, or closer to 1 than before"),
        ("order", 0.1499, 0.1501, "≤ 0.15"),
    ],
)
def test_each_limit(key, passes, fails, limit):
    task, _, what = key.rpartition("__")
    assert run(metrics(**{key: passes})).passed
    for worse in (fails, math.nan):
        result = run(metrics(**{key: worse}))
        assert not result.passed
        assert [(c.task, c.name, c.limit) for c in result.checks if c.passed is False] == [(task or None, what, limit)]


def test_a_candidate_outside_the_calibration_passes_where_it_is_closer_to_1_than_before():
    assert run(metrics(click__calibration=0.6), metrics(click__calibration=0.5)).passed
    assert run(metrics(click__calibration=1.9), metrics(click__calibration=0.5)).passed  # 0.5 is as far as 2
    assert not run(metrics(click__calibration=2.1), metrics(click__calibration=0.5)).passed
    assert not run(metrics(click__calibration=0.5), metrics(click__calibration=0.5)).passed
    assert not run(metrics(price__calibration=-1.0), metrics(price__calibration=-1.0)).passed


def test_calibration_says_nothing_where_labels_cancel_each_other():
    both_signs = {"price__mean_label": 0.1, "price__calibration": -3.0}
    result = run(metrics(**both_signs))
    assert result.passed
    assert found(result, "price", "calibration").note == "labels of both signs cancel each other in the sum"
    assert not run(metrics(price__mean_label=-2.0, price__calibration=-3.0)).passed


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ({"buy__positives": 99}, "99 positives among 5,000 held-out labels, fewer than daily.gate.min_positives (100)"),
        (
            {"buy__positives": 4960},
            "40 negatives among 5,000 held-out labels, fewer than daily.gate.min_positives (100)",
        ),
        (
            {"buy__count": 0, "buy__positives": 0},
            "0 positives among 0 held-out labels, fewer than daily.gate.min_positives (100)",
        ),
    ],
)
def test_too_few_positives_or_negatives_are_not_judged(counts, note):
    result = run(metrics(buy__auc=0.2, buy__ne=3.0, buy__calibration=9.0, **counts))
    assert result.passed
    for what in ("auc", "ne", "calibration"):
        check = found(result, "buy", what)
        assert (check.passed, check.note) == (None, note)


def test_too_few_labels_of_another_task():
    result = run(metrics(views__count=999, views__poisson_deviance=50.0))
    assert result.passed
    note = "999 held-out labels, fewer than 10 times daily.gate.min_positives (100)"
    assert found(result, "views", "calibration").note == note


AMOUNTS = daily_config(tasks={"spend": {"kind": "ziln"}, "seconds": {"kind": "watch_time"}})


def run_amounts(buyers: int = 400, **changes: float) -> GateResult:
    """The gate on 5,000 labels of amounts, of which `buyers` are above 0; `changes` are of the candidate."""
    shared = {"count": 5000, "positive_rate": buyers / 5000, "calibration": 1.0, "mean_label": 2.0, "null_reason": None}
    values = {"gini": 0.5, "concordance": 0.7, "geometric_deviance": 2.0}

    def report(**changes: float) -> dict[str, Any]:
        return {"eval": {task: {**shared, **values, **changes} for task in ("spend", "seconds")}}

    return evaluate_gate(AMOUNTS, report(), report(**changes), norms={}, not_finite={}, holdout_rows=5000, changes={})


@pytest.mark.parametrize(
    ("task", "what", "passes", "fails", "limit"),
    [
        ("spend", "gini", 0.4801, 0.4799, "≥ 0.48"),  # 2·AUC − 1: twice as wide as an AUC
        ("seconds", "concordance", 0.6901, 0.6899, "≥ 0.69"),
        ("seconds", "geometric_deviance", 2.0999, 2.1001, "≤ 2.1"),
    ],
)
def test_limits_of_amounts(task, what, passes, fails, limit):
    assert run_amounts(**{what: passes}).passed
    result = run_amounts(**{what: fails})
    assert [(c.task, c.name, c.limit) for c in result.checks if c.passed is False] == [(task, what, limit)]


def test_amounts_that_are_nearly_all_0_are_not_judged():
    bad = {"gini": -0.2, "concordance": 0.2, "geometric_deviance": 99.0, "calibration": 9.0}
    result = run_amounts(buyers=99, **bad)
    assert result.passed
    note = "99 labels above 0 among 5,000 held-out ones, fewer than daily.gate.min_positives (100)"
    assert {(c.passed, c.note) for c in result.checks if c.task} == {(None, note)}
    assert not run_amounts(buyers=100, **bad).passed


@pytest.mark.parametrize("kind", ["ziln", "watch_time"])
def test_an_evaluation_counts_the_amounts_above_0(kind):
    tasks = {"t": Task(kind=kind)}
    metrics, labels = EvalMetrics(tasks, []), torch.tensor([[0.0], [0.0], [3.0], [0.0], [7.0]])
    every = torch.ones(5, 1, dtype=torch.bool)
    metrics.update(torch.zeros(5, 3 if kind == "ziln" else 1), labels, every, torch.ones(5), every[:, 0])
    assert metrics.compute()["tasks"]["t"]["positive_rate"] == pytest.approx(0.4)


def test_a_metric_that_is_null_says_its_reason():
    no_sum = {"views__calibration": None, "views__null_reason": "the 5,000 observed labels sum to 0"}
    result = run(metrics(**no_sum))
    assert result.passed
    assert found(result, "views", "calibration").note == "the 5,000 observed labels sum to 0"
    assert found(result, "views", "poisson_deviance").passed
    broken = {"click__auc": None, "click__null_reason": "3 of 5,000 predictions are not finite"}
    result = run(metrics(), metrics(**broken))
    assert result.passed
    assert found(result, "click", "auc").note == "the previous version: 3 of 5,000 predictions are not finite"


def test_a_task_whose_labels_are_not_final_is_not_judged():
    candidate = metrics()
    del candidate["eval"]["buy"]
    result = run(candidate)
    assert result.passed
    assert found(result, "buy", "auc").note == "it has no held-out labels"


@pytest.mark.parametrize("first", [False, True])
def test_predictions_that_are_not_finite_refuse(first):
    rows = 200
    labels = (torch.arange(rows) % 2).float().repeat(5, 1).T
    logits = torch.zeros(rows, 5)
    logits[7, 1] = torch.nan
    whole = EvalMetrics(CONFIG.active_tasks(), [])
    whole.update(
        logits, labels, torch.ones(rows, 5, dtype=torch.bool), torch.ones(rows), torch.ones(rows, dtype=torch.bool)
    )
    result = run(metrics_section(whole.compute()), first=first)
    assert not result.passed
    assert found(result, "buy", "not finite").note == "1 of 200 predictions are not finite"
    assert "tasks.buy not finite: 1 of 200 predictions are not finite" in summary(result)


@pytest.mark.parametrize("first", [False, True])
def test_weights_that_are_not_finite_refuse(first):
    result = run(metrics(), not_finite={"user": 1200, "trunk.0.weight": 0}, first=first)
    assert not result.passed
    assert found(result, None, "not finite").candidate == 1200
    assert summary(result) == (
        "the gate refuses the candidate: not finite: 1,200 numbers of `user` are NaN or infinite"
    )
    assert not run(metrics(), norms={"user": (0.1, math.nan)}, first=first).passed


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        (0.1, 0.149, True), (0.1, 0.151, False), (0.1, 0.0667, True), (0.1, 0.0666, False),
        (None, 5.0, None), (0.0, 5.0, None), (math.inf, 5.0, None), (0.1, math.inf, False),
    ],
)  # fmt: skip
def test_norms_of_tables(before, after, passed):
    result = run(metrics(), norms={"user": (before, after)})
    assert found(result, None, "norm user").passed is passed
    assert result.passed is (passed is not False)


def test_the_very_first_version():
    result = run(metrics(order=0.9, click__ne=1.2), first=True, norms={"user": (None, 3.0)})
    assert result.passed
    assert {c.name for c in result.checks} == {"auc", "calibration", "not finite"}
    assert found(result, "click", "auc").limit == "> 0.5"
    assert not run(metrics(click__auc=0.5), first=True).passed
    assert not run(metrics(click__calibration=1.5), first=True).passed
    assert found(run(metrics(), first=True), "click", "calibration").limit == "0.7 to 1.4"


def test_a_task_that_the_version_before_does_not_have():
    base = metrics()
    del base["eval"]["buy"]
    result = run(metrics(), base)
    assert result.passed
    assert found(result, "buy", "auc").limit == "> 0.5"
    assert not run(metrics(buy__auc=0.49), base).passed


def test_no_funnel_before_or_now():
    base, candidate = metrics(), metrics(order=0.9)
    base["order_violation_rate"] = None
    assert found(run(candidate, base), None, "order").note == "the previous version has no funnel"
    candidate["order_violation_rate"] = None
    assert [c for c in run(candidate).checks if c.name == "order"] == []


def test_nothing_to_judge_by_passes_with_a_note():
    few = {f"{task}__count": 3 for task in TASKS} | {"click__positives": 1, "buy__positives": 0}
    result = run(metrics(**few), holdout_rows=3)
    assert result.passed
    check = found(result, None, "held-out rows")
    assert (check.passed, check.candidate) == (None, 3)
    assert check.note == "no task could be judged on 3 held-out rows, so no metric could refuse the candidate"


def test_a_refusal_in_words():
    result = run(metrics(click__auc=0.7012, order=0.2), norms={"user": (0.1, 0.32)})
    assert summary(result) == (
        "the gate refuses the candidate: tasks.click auc is 0.7012 (allowed ≥ 0.74, before 0.75); order is 0.2 (allowed ≤ 0.15, "
        "before 0.1); norm user is 0.32 (allowed 0.06667 to 0.15, before 0.1)"
    )


def test_the_metrics_of_an_evaluation_are_read():
    """Real numbers through the gate: a candidate that ranks at random after a base that ranks well."""
    torch.manual_seed(0)
    rows, tasks = 2000, CONFIG.active_tasks()
    truth = torch.randn(rows, 1).expand(rows, 5) - torch.arange(5) * 0.3
    labels = torch.bernoulli(torch.sigmoid(truth))

    def evaluated(logits):
        whole = EvalMetrics(tasks, [])
        seen, ones = torch.ones(rows, 5, dtype=torch.bool), torch.ones(rows)
        whole.update(logits, labels, seen, ones, ones.bool())
        return metrics_section(whole.compute())

    assert run(evaluated(truth), evaluated(truth)).checks[0].base > 0.65
    bad = run(evaluated(truth[torch.randperm(rows)]), evaluated(truth))
    assert not bad.passed
    assert {"auc", "ne", "poisson_deviance", "mse"} <= {c.name for c in bad.checks if c.passed is False}


RATES = st.floats(0.01, 5)
CHANGES = {
    "click__auc": st.floats(0.3, 0.9), "click__ne": RATES, "click__calibration": RATES,
    "views__poisson_deviance": RATES, "views__calibration": RATES, "price__mse": RATES, "order": st.floats(0, 1),
}  # fmt: skip


@given(
    st.fixed_dictionaries(CHANGES),
    st.fixed_dictionaries(CHANGES),
    st.fixed_dictionaries(dict.fromkeys(CHANGES, st.floats(0, 1))),
    st.tuples(RATES, RATES, st.floats(0, 2)),
    st.booleans(),
)
def test_a_worse_candidate_never_turns_a_refusal_into_a_pass(base, candidate, worse_by, norm, first):
    worse = copy.copy(candidate)
    for key, by in worse_by.items():
        if key.endswith("auc"):
            worse[key] -= by
        elif key.endswith("calibration"):  # farther from 1 on its side
            worse[key] *= math.exp(by if worse[key] >= 1 else -by)
        else:
            worse[key] += by
    before, after, growth = norm
    grown = after * math.exp(growth if after >= before else -growth)
    now = run(metrics(**candidate), metrics(**base), first=first, norms={"user": (before, after)})
    then = run(metrics(**worse), metrics(**base), first=first, norms={"user": (before, grown)})
    assert now.passed or not then.passed


def test_a_first_version_lists_only_the_checks_that_need_no_other():
    few = run(metrics(click__positives=3, views__count=9), first=True)
    assert [c.name for c in few.checks if c.task == "click"] == ["auc", "calibration"]
    assert [c.name for c in few.checks if c.task == "views"] == ["calibration"]
    assert [c.name for c in run(metrics(click__positives=3)).checks if c.task == "click"] == [
        "auc",
        "ne",
        "calibration",
    ]


def test_a_formula_whose_value_falls_is_refused() -> None:
    assert found(run(metrics(value=1.9)), None, "value main").passed is True
    refused = run(metrics(value=1.89), changes={"score.main": {"value": (-0.2, -0.02)}})
    check = found(refused, None, "value main")
    assert (check.passed, check.limit, check.change) == (False, "≥ 1.9", (-0.2, -0.02))
    assert "value main is 1.89 (allowed ≥ 1.9, before 2, change -0.2 to -0.02 with 95 % confidence)" in summary(refused)
    by_chance = run(metrics(value=1.89), changes={"score.main": {"value": (-0.2, 0.02)}})
    assert found(by_chance, None, "value main").note.startswith("chance alone can make such a change")


def test_a_formula_that_cannot_be_compared_is_not_judged() -> None:
    new = metrics()
    del new["scores"]
    assert found(run(metrics(), new), None, "value main").note == "the previous version was not measured"
    few = metrics()
    few["scores"]["main"]["groups"] = 19
    assert found(run(few), None, "value main").note.startswith("19 held-out users, fewer than 20")
    null = metrics(value=None)
    null["scores"]["main"]["null_reason"] = "no row with a known gain"
    assert found(run(null), None, "value main").note == "no row with a known gain"
    assert not [check for check in run(metrics(), first=True).checks if check.name == "value main"]
