"""Metrics of a fused score: by hand, against scikit-learn, and the same from one worker as from three."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import ndcg_score, roc_auc_score

from raymtl.config.score import Score
from raymtl.config.tasks import Task
from raymtl.objectives.metrics.changes import differences
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.metrics.fused import session_gain
from raymtl.objectives.metrics.grouped import mix
from raymtl.objectives.metrics.ranked import top_shares
from raymtl.training.distributed import compute_metrics
from tests.helpers.metric_rows import draw_rows, feed, part
from tests.helpers.worker_processes import several

TASKS = {"click": Task(), "buy": Task(parent="click"), "spend": Task(kind="real")}
SCORE = Score.model_validate(
    {
        "formulas": {name: {"type": "sum", "weights": {"click": 1}} for name in ("first", "second")},
        "gain": {"click": 1, "spend": 2},
        "at": 3,
    }
)


def rows_of(count: int, users: int, requests: int = 0, seed: int = 0, ties: bool = True) -> dict[str, Any]:
    rows = draw_rows(count, tasks=3, seed=seed)
    g = torch.Generator().manual_seed(seed)
    rows["labels"][:, 2] = torch.poisson(torch.rand(count, generator=g), generator=g)
    rows["group"] = mix(torch.randint(0, users, (count,), generator=g))
    rows["weight"] = torch.randint(0, 4, (count,), generator=g) / 2
    rows["scores"] = torch.randn(count, 2, generator=g) + rows["labels"][:, [2, 2]]
    if ties:
        rows["scores"] = rows["scores"].round()
    if requests:
        rows["request"] = torch.randint(0, requests, (count,), generator=g)
    return rows


def lists_of(rows: dict[str, Any], by_request: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Scores, gains and weights of each list, in float64."""
    known = rows["observed"][:, 0] & rows["observed"][:, 2] & rows["valid"] & (rows["weight"] > 0)
    keys = [rows["group"], *([rows["request"]] if by_request else [])]
    names = torch.stack(keys, 1)[known]
    found = []
    for name in names.unique(dim=0):
        own = known.clone()
        for key, value in zip(keys, name, strict=True):
            own &= key == value
        gain = rows["labels"][own, 0] + 2 * rows["labels"][own, 2]
        found.append(
            (rows["scores"][own].double().numpy(), gain.double().numpy(), rows["weight"][own].double().numpy())
        )
    return found


def value_at(score: np.ndarray, gain: np.ndarray, at: int) -> float:
    """The mean gain of the first rows over all orders of equal scores."""
    found, left = 0.0, at
    for level in sorted(set(score), reverse=True):
        own = gain[score == level]
        found += own.mean() * min(len(own), left)
        left -= min(len(own), left)
    return found


def made(rows: dict[str, Any], **more: Any) -> EvalMetrics:
    return feed(EvalMetrics(TASKS, [], score=SCORE, with_requests="request" in rows, **more), rows)


@pytest.mark.parametrize("requests", [0, 4])
def test_the_metrics_list_by_list(requests: int) -> None:
    rows = rows_of(3000, users=200, requests=requests)
    reports = made(rows).compute()["scores"]
    lists = lists_of(rows, bool(requests))
    weights = [w.mean() for _, _, w in lists]
    for column, name in enumerate(SCORE.formulas):
        report = reports[name]
        assert report["count"] == len(lists)
        for key, score in (("value", None), ("best_value", "gain"), ("random_value", "none")):
            values = [value_at({None: s[:, column], "gain": g, "none": 0 * g}[score], g, SCORE.at) for s, g, _ in lists]
            assert report[key] == pytest.approx(np.average(values, weights=weights), rel=1e-9)
        ranked = [(ndcg_score(g[None], s[None, :, column], k=3), w.mean()) for s, g, w in lists if g.min() < g.max()]
        assert report["ndcg"] == pytest.approx(
            np.average([v for v, _ in ranked], weights=[w for _, w in ranked]), rel=1e-9
        )
        low, high = report["intervals"]["value"]
        assert low < report["value"] < high


def test_gauc_of_an_event_is_that_of_the_score() -> None:
    rows = rows_of(4000, users=60)
    report = made(rows).compute()["scores"]["first"]
    assert "gauc_spend" not in report
    known = rows["observed"][:, 0] & rows["observed"][:, 2] & rows["valid"] & (rows["weight"] > 0)
    areas, shares = [], []
    for user in rows["group"][known].unique():
        own = known & (rows["group"] == user)
        y, s, w = (v[own].double().numpy() for v in (rows["labels"][:, 0], rows["scores"][:, 0], rows["weight"]))
        if 0 < y.sum() < len(y):
            areas.append(roc_auc_score(y, s, sample_weight=w))
            shares.append(w.sum())
    assert report["gauc_click"] == pytest.approx(np.average(areas, weights=shares), rel=1e-9)


def test_the_weight_of_a_task_does_not_weigh_the_lists() -> None:
    rows = rows_of(3000, users=200)
    g = torch.Generator().manual_seed(1)
    own = torch.rand(3000, 3, generator=g).masked_fill(torch.rand(3000, 3, generator=g) < 0.3, 0.0)
    tasks = {name: task.model_copy(update={"weight_column": name}) for name, task in TASKS.items()}
    several = rows | {"weight": rows["weight"].unsqueeze(1) * own, "row_weight": rows["weight"]}
    expected = made(rows).compute()["scores"]["first"]
    found = feed(EvalMetrics(tasks, [], score=SCORE), several).compute()["scores"]["first"]
    for name in ("count", "groups", "rows", "sampled_share", "value", "best_value", "random_value", "ndcg"):
        assert found[name] == expected[name]
    with pytest.raises(ValueError, match="need the `row_weight` too"):
        feed(EvalMetrics(tasks, [], score=SCORE), several | {"row_weight": None})


def test_equal_scores_share_their_places() -> None:
    request = torch.tensor([1, 0, 1, 1, 0, 1])
    scores = torch.tensor([2.0, 1.0, 2.0, 5.0, 3.0, 2.0])
    assert top_shares(request, 2, scores, 2).tolist() == pytest.approx([1 / 3, 1, 1 / 3, 1, 1, 1 / 3])


def test_a_conditional_label_counts_nothing_where_its_condition_did_not_happen() -> None:
    tasks = {"buy": Task(), "spend": Task(kind="real", given="buy")}
    score = Score.model_validate({"formulas": {"a": {"type": "sum", "weights": {"buy": 1}}}, "gain": {"spend": 3}})
    labels = torch.tensor([[1.0, 7.0], [0.0, torch.nan], [1.0, torch.nan], [torch.nan, torch.nan]])
    gain, known = session_gain(score, tasks, labels, ~labels.isnan())
    assert known.tolist() == [True, True, False, False]
    assert gain.tolist()[:2] == [21, 0]
    chain = {"click": Task(), "buy": Task(given="click"), "spend": Task(kind="real", given="buy")}
    labels = torch.tensor(
        [[1.0, 1.0, 7.0], [1.0, 0.0, torch.nan], [0.0, torch.nan, torch.nan], [1.0, torch.nan, torch.nan]]
    )
    gain, known = session_gain(score, chain, labels, ~labels.isnan())
    assert known.tolist() == [True, True, True, False]
    assert gain.tolist()[:3] == [21, 0, 0]


def test_what_cannot_be_measured_has_a_reason() -> None:
    rows = rows_of(500, users=50)
    rows["scores"][7, 1] = torch.nan
    rows["observed"][7], rows["weight"][7], rows["valid"][7] = True, 1.0, True
    rows["labels"][7] = 0
    reports = made(rows).compute()["scores"]
    assert reports["first"]["value"] is not None
    assert (reports["second"]["value"], reports["second"]["null_reason"][:7]) == (None, "1 score")
    rows["observed"][:, 2] = False
    assert made(rows).compute()["scores"]["first"]["null_reason"] == "no row with a known gain"


def test_a_gain_below_0_has_a_value_and_no_ndcg() -> None:
    rows = rows_of(500, users=50)
    rows["labels"][:, 2] -= 1
    report = made(rows).compute()["scores"]["first"]
    assert report["ndcg"] is None
    assert report["value"] < report["best_value"]


def test_two_models_are_compared_on_the_same_lists() -> None:
    rows = rows_of(5000, users=400)
    before = made(rows).compute()
    rows["scores"] = rows["scores"] + 0.8 * rows["labels"][:, [2, 2]]
    after = made(rows).compute()
    change = differences(
        {"score.first": before["scores"]["first"]},
        {"score.first": after["scores"]["first"]},
        before["group_effects"],
        after["group_effects"],
    )["score.first"]["value"]
    gained = after["scores"]["first"]["value"] - before["scores"]["first"]["value"]
    own = after["scores"]["first"]["intervals"]["value"]
    assert change[0] < gained < change[1]
    assert change[1] - change[0] < 0.8 * (own[1] - own[0])


def test_the_interval_of_a_sample_of_users_holds_the_value_of_all() -> None:
    inside = 0
    for seed in range(12):
        rows = rows_of(20_000, users=1500, seed=seed)
        whole, sampled = (made(rows, sample_rows=size).compute()["scores"]["first"] for size in (10**6, 6000))
        assert 0.1 < sampled["sampled_share"] < 0.5
        low, high = sampled["intervals"]["value"]
        inside += low < whole["value"] < high
    assert inside >= 9


def share_of(rank: int, workers: int) -> dict[str, Any]:
    rows = rows_of(4000, users=150, requests=3)
    own = torch.arange(4000) % workers == rank
    metrics = made(part(rows, own))
    world = dist.group.WORLD
    assert world is not None
    return compute_metrics(metrics, world)["scores"]


@pytest.mark.dist
def test_three_workers_measure_what_one_does(tmp_path: Path) -> None:
    [one] = several(1, tmp_path / "one", share_of)
    three = several(3, tmp_path / "three", share_of)
    for found in three:
        for name, report in one.items():
            for key, value in report.items():
                if isinstance(value, float):
                    assert found[name][key] == pytest.approx(value, rel=1e-12)
            assert found[name]["intervals"]["value"] == pytest.approx(report["intervals"]["value"], rel=1e-12)
            assert found[name]["count"] == report["count"]
