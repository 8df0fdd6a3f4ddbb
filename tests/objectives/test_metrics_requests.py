"""NDCG and MRR within requests, against scikit-learn and by hand, and the sample that holds the requests."""

import json
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.metrics.grouped import mix
from raymtl.objectives.metrics.ranked import rank_requests
from tests.helpers.metric_rows import draw_rows, feed, part

torch.set_num_threads(1)
TASKS = {"click": Task(), "buy": Task(parent="click"), "spend": Task(kind="real"), "views": Task(kind="count")}
SCENARIOS = ["search", "other"]


def rows_of_requests(count: int, requests: int, ties: bool = False, seed: int = 0, users: int = 0) -> dict:
    """Rows of `draw_rows` in requests of random sizes; a request belongs to one user."""
    rows = draw_rows(count, tasks=4, scenarios=2, seed=seed)
    g = torch.Generator().manual_seed(seed)
    rows["logits"] = (rows["logits"] * 1.5).round() if ties else rows["logits"]
    rows["labels"][:, 2:] = (2.5 * torch.poisson(torch.rand(count, 2, generator=g), generator=g)).masked_fill(
        ~rows["observed"][:, 2:], torch.nan
    )
    rows["weight"] = torch.randint(0, 5, (count,), generator=g) / 4
    request = (torch.rand(count, generator=g) ** 2 * requests).long()
    rows["request"] = request * 2**33 - 7
    rows["group"] = mix(request % users) if users else None
    return rows


def counted(rows: dict, task: int, scenario: int | None) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Scores, labels and mean weight of each request whose labels differ."""
    keep = rows["observed"][:, task] & rows["valid"] & (rows["weight"] > 0)
    keep &= rows["scenario"] == scenario if scenario is not None else True
    found = []
    for request in rows["request"][keep].unique():
        own = keep & (rows["request"] == request)
        x, y, w = (v[own].double().numpy() for v in (rows["logits"][:, task], rows["labels"][:, task], rows["weight"]))
        found.append((x, y, float(w.mean())))
    return found


def expected_of(rows: dict, task: int, scenario: int | None = None) -> dict[str, float]:
    """The metrics by scikit-learn, request by request; with one positive, the average precision is the reciprocal rank."""
    requests = [(x, y, w) for x, y, w in counted(rows, task, scenario) if y.min() < y.max()]
    weights = [w for *_, w in requests]
    values = {
        "ndcg": [ndcg_score(y[None], x[None]) for x, y, _ in requests],
        "ndcg_10": [ndcg_score(y[None], x[None], k=10) for x, y, _ in requests],
    }
    if task < 2:
        values["mrr"] = [
            label_ranking_average_precision_score(_only_best(x, y)[None], x[None])
            if len(np.unique(x)) == len(x)
            else _tied(x, y)
            for x, y, _ in requests
        ]
    means = {name: float(np.average(v, weights=weights)) for name, v in values.items()}
    left_out = len(counted(rows, task, scenario)) - len(requests)
    return means | {"requests_ranked": len(requests), "requests_left_out": left_out}


def _only_best(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The labels with only the best positive."""
    return (np.arange(len(x)) == np.where(y > 0, x, -np.inf).argmax()).astype(int)


def _tied(x: np.ndarray, y: np.ndarray) -> float:
    """The mean 1 / rank of the first positive; its chances follow from drawing one row of the tie after the other."""
    top = x[y > 0].max()
    above, tied, positives = int((x > top).sum()), int((x == top).sum()), int(y[x == top].sum())
    mean, none_yet = 0.0, 1.0
    for drawn in range(tied - positives + 1):
        chance = positives / (tied - drawn)
        mean += none_yet * chance / (above + drawn + 1)
        none_yet *= 1 - chance
    return mean


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("users", [0, 40])
def test_equals_scikit_learn_in_every_task_and_scenario(ties: bool, users: int) -> None:
    rows = rows_of_requests(1_301, 90, ties, users=users)
    result = feed(EvalMetrics(TASKS, SCENARIOS, with_requests=True), rows, batch=170).compute()
    for task, name in enumerate(TASKS):
        for scenario, reports in enumerate([result["tasks"], *result["scenarios"].values()], -1):
            report = reports[name]
            expected = expected_of(rows, task, scenario if scenario >= 0 else None)
            assert {key: report[key] for key in expected} == pytest.approx(expected, abs=1e-12)
            assert report["requests_ranked"] > 15
            assert report["requests_sampled_share"] == 1.0
            assert report["requests_null_reason"] is None
            low, high = report["intervals"]["ndcg_10"]
            assert low < report["ndcg_10"] < high
    json.dumps(result, allow_nan=False)
    assert ("gauc" in result["group_effects"]["click"]) == bool(users)
    assert {"ndcg", "ndcg_10", "mrr", "auc"} <= set(result["group_effects"]["click"])


def test_a_hand_made_example() -> None:
    """Two positives on ranks 2 and 3 of 3; one on rank 1 of 2; only negatives; only positives; the weights 3, 1, …"""
    request = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    logits = torch.tensor([0.3, 0.2, 0.1, 5.0, -5.0, 1.0, 2.0, 0.0])
    labels = torch.tensor([0.0, 1, 1, 1, 0, 0, 0, 1])
    weight = torch.tensor([3.0, 3, 3, 0.5, 1.5, 9, 9, 9])
    found = rank_requests(request, 4, logits, labels, weight, binary=True)
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    ndcg = (second + third) / (1 + second)
    assert found.left_out == 2
    assert found.values["ndcg"].tolist() == pytest.approx([ndcg, 1.0])
    assert found.values["mrr"].tolist() == [0.5, 1.0]
    assert found.mean("ndcg") == pytest.approx((3 * ndcg + 1) / 4)
    assert found.mean("mrr") == pytest.approx((3 * 0.5 + 1) / 4)
    gains = rank_requests(request[:3], 1, logits[:3], torch.tensor([1.0, 30.0, 4.0]), weight[:3], binary=False)
    assert gains.mean("ndcg") == pytest.approx((1 + 30 * second + 4 * third) / (30 + 4 * second + third))
    assert "mrr" not in gains.values


def test_ties_count_as_the_mean_over_their_orders() -> None:
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    found = rank_requests(torch.zeros(6, dtype=torch.int64), 1, logits, labels, torch.ones(6), binary=True)
    orders = [[0, *order, 5] for order in permutations(range(1, 5))]
    discount = 1 / np.log2(np.arange(6) + 2)
    ranked = np.array([labels.numpy()[order] for order in orders])
    assert found.mean("ndcg") == pytest.approx((ranked * discount).sum(1).mean() / discount[:3].sum())
    assert found.mean("mrr") == pytest.approx((1 / (1 + ranked.argmax(1))).mean())


def test_the_order_of_the_file_decides_nothing() -> None:
    """A constant model has the value of random order, wherever the positives stand; also in a huge request."""
    for size in (10, 100_000):
        values = []
        for labels in (torch.zeros(size), torch.zeros(size)):
            labels[0 if not values else -1] = 1
            found = rank_requests(
                torch.zeros(size, dtype=torch.int64), 1, torch.zeros(size), labels, torch.ones(size), True
            )
            values.append([found.mean(name) for name in ("ndcg", "ndcg_10", "mrr")])
        assert values[0] == values[1]
        places = np.arange(1, size + 1)
        assert values[0][0] == pytest.approx((1 / np.log2(places + 1)).mean())
        assert values[0][1] == pytest.approx((1 / np.log2(places[:10] + 1)).sum() / size)
        assert values[0][2] == pytest.approx((1 / places).mean())


def computed(workers: list[EvalMetrics]) -> dict:
    """The result over several workers."""
    states = [{name: tensor.clone() for name, tensor in m.state().items()} for m in workers]
    total = {name: torch.stack([s[name] for s in states]).sum(dim=0) for name in states[0]}
    for m in workers:
        m.load_state(total)
    return workers[0].compute([m.gather_form() for m in workers])


@pytest.mark.parametrize("users", [0, 60])
def test_three_workers_one_of_them_empty_are_one_pass(users: int) -> None:
    rows = rows_of_requests(4_000, 300, ties=True, users=users)
    one = feed(EvalMetrics(TASKS, SCENARIOS, with_requests=True), rows).compute()
    mixed = torch.randperm(4_000, generator=torch.Generator().manual_seed(1))
    parts = [part(rows, mixed[:1_111]), part(rows, mixed[1_111:]), part(rows, mixed[:0])]
    many = computed([feed(EvalMetrics(TASKS, SCENARIOS, with_requests=True), p, batch=97) for p in parts])
    for name in TASKS:
        keys = [
            "ndcg",
            "ndcg_10",
            "requests_ranked",
            "requests_left_out",
            *(["mrr"] if name in ("click", "buy") else []),
        ]
        found, expected = ([r["scenarios"]["search"][name][key] for key in keys] for r in (many, one))
        assert found == pytest.approx(expected, rel=1e-12)
        assert many["tasks"][name]["intervals"]["ndcg"] == pytest.approx(one["tasks"][name]["intervals"]["ndcg"])


@pytest.mark.parametrize("users", [0, 900])
def test_a_sample_holds_whole_requests(users: int) -> None:
    rows = rows_of_requests(30_000, 3_000, users=users)
    whole = feed(EvalMetrics(TASKS, [], with_requests=True), rows).compute()["tasks"]["click"]
    parts = [part(rows, slice(0, 26_000)), part(rows, slice(26_000, None))]
    workers = [feed(EvalMetrics(TASKS, [], sample_rows=6_000, with_requests=True), p) for p in parts]
    report = computed(workers)["tasks"]["click"]
    group = mix(rows["group"] if users else rows["request"])
    inside = torch.isin(group, torch.cat([m.gather_form()["group"] for m in workers]))
    expected = expected_of(part(rows, inside), 0)
    assert {key: report[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert 0.1 < report["requests_sampled_share"] < 0.35
    assert report["ndcg"] == pytest.approx(whole["ndcg"], abs=0.05)
    assert workers[0]._sample.used <= 6_000


def test_users_who_number_their_requests_alike_share_none() -> None:
    rows = rows_of_requests(2_000, 150, users=30)
    expected = feed(EvalMetrics(TASKS, [], with_requests=True), rows).compute()["tasks"]
    user = torch.unique(rows["group"], return_inverse=True)[1]
    request = torch.unique(rows["request"], return_inverse=True)[1]
    for u in range(30):
        rows["request"][user == u] = torch.unique(request[user == u], return_inverse=True)[1]
    found = feed(EvalMetrics(TASKS, [], with_requests=True), rows).compute()["tasks"]
    assert rows["request"].max() < 12
    assert all(found[name]["ndcg"] == pytest.approx(expected[name]["ndcg"], rel=1e-12) for name in TASKS)


def test_why_there_is_none() -> None:
    rows = rows_of_requests(500, 40)
    without = feed(EvalMetrics(TASKS, []), rows | {"request": None}).compute()
    assert without["tasks"]["click"]["requests_null_reason"] == "no requests"
    assert (without["tasks"]["click"]["ndcg"], without["group_effects"]) == (None, {})
    rows["labels"][:, 2] -= 1
    rows["weight"] = torch.ones(500)
    rows["logits"][3, 1] = torch.nan
    rows["observed"][3, 1] = True
    result = feed(EvalMetrics(TASKS, [], with_requests=True), rows).compute()["tasks"]
    assert result["spend"]["requests_null_reason"] == "a label is below 0, and no gain"
    assert result["buy"]["requests_null_reason"] == "1 of 432 predictions are not finite"
    assert result["buy"]["mrr"] is result["spend"]["ndcg_10"] is None
    rows["request"] = torch.arange(500)
    report = feed(EvalMetrics(TASKS, [], with_requests=True), rows).compute()["tasks"]["views"]
    assert report["ndcg"] is None
    requests = report["requests_left_out"]
    assert report["requests_null_reason"] == f"none of {requests} requests has two different labels"
    with pytest.raises(ValueError, match="with_requests"):
        feed(EvalMetrics(TASKS, []), rows)
