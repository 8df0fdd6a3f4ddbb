"""Confidence intervals: the published formulas by hand, the jackknife, and how often they cover the truth."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raymtl.config.metrics import metrics_of_kind
from raymtl.config.task_kinds import Binary, Count
from raymtl.config.tasks import Task
from raymtl.objectives.metrics.changes import MIN_GROUPS, difference
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.metrics.grouped import mix
from raymtl.objectives.metrics.intervals import BUCKETS, auc_effects
from tests.helpers.metric_rows import draw_rows, feed, part

torch.set_num_threads(1)
TASKS = {"click": Task(), "views": Task(kind="count")}


def rows_of_users(users: int, rows_each: float, seed: int, base: float = -1.0, models: int = 1) -> list[dict]:
    """Rows of users who differ in their taste and in how wrong the model is about them, scored by one or more models."""
    g = torch.Generator().manual_seed(seed)
    counts = (torch.rand(users, generator=g).log() / math.log(1 - 1 / rows_each)).long() + 1 if rows_each > 1 else 1
    user = torch.repeat_interleave(torch.arange(users), counts)
    n = len(user)
    truth = base + torch.randn(users, generator=g)[user] + torch.randn(n, generator=g)
    labels = (torch.rand(n, generator=g) < truth.sigmoid()).float()
    views = torch.poisson((0.5 * truth).exp(), generator=g)
    common = 0.5 * torch.randn(users, generator=g)[user] + 0.5 * torch.randn(n, generator=g)
    found = []
    for model in range(models):
        own = 0.2 * model * torch.randn(users, generator=g)[user] + 0.3 * model * torch.randn(n, generator=g)
        logit = base + 0.7 * (truth - base) + common + own
        found.append(
            {
                "logits": torch.stack([logit, 0.5 * logit], 1),
                "labels": torch.stack([labels, views], 1),
                "observed": torch.ones(n, 2, dtype=torch.bool),
                "weight": torch.ones(n),
                "valid": torch.ones(n, dtype=torch.bool),
                "group": user,
            }
        )
    return found


def evaluated(rows: dict, **options: Any) -> dict[str, Any]:
    return feed(EvalMetrics(TASKS, [], **options), rows, batch=10_000).compute()


def half(report: dict[str, Any], metric: str) -> float:
    low, high = report["intervals"][metric]
    return (high - low) / 2


def placements(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V10 and V01 of DeLong: for each positive the share of negatives below it, for each negative that of positives above."""
    wins = (x[y][:, None] > x[~y][None]) + 0.5 * (x[y][:, None] == x[~y][None])
    return wins.mean(1), wins.mean(0)


def drawn_scores(rows: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    group = torch.randint(0, groups, (rows,), generator=g)
    positive = torch.rand(rows, generator=g) < 0.3
    logits = (2 * (torch.randn(groups, generator=g)[group] + torch.randn(rows, generator=g) + positive)).round() / 2
    return logits, positive, group


def test_auc_of_independent_rows_is_delong() -> None:
    """DeLong et al. 1988: S10 / m + S01 / n."""
    logits, positive, _ = drawn_scores(500, 1)
    found = auc_effects(logits, positive, torch.ones(500), torch.arange(500), 500)
    v10, v01 = placements(logits.numpy(), positive.numpy())
    assert float(found.square().sum()) == pytest.approx(
        v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01), rel=1e-9
    )
    assert float(found.sum()) == pytest.approx(0, abs=1e-12)


def test_auc_of_clustered_rows_is_obuchowski() -> None:
    """Obuchowski 1997, section 2: with I groups of m_i positives and n_i negatives, sums X_i10 and Y_i01 of the placements."""
    logits, positive, group = drawn_scores(800, 60)
    found = auc_effects(logits, positive, torch.ones(800), group, 60)
    x, y, g = logits.numpy(), positive.numpy(), group.numpy()
    v10, v01 = placements(x, y)
    auc, many_p, many_n = v10.mean(), y.sum(), (~y).sum()
    sums = [
        (v10[g[y] == i].sum() - (y & (g == i)).sum() * auc, v01[g[~y] == i].sum() - (~y & (g == i)).sum() * auc)
        for i in range(60)
    ]
    with_p, with_n = (sum(bool((side & (g == i)).any()) for i in range(60)) for side in (y, ~y))
    s10 = with_p / ((with_p - 1) * many_p) * sum(a * a for a, _ in sums)
    s01 = with_n / ((with_n - 1) * many_n) * sum(b * b for _, b in sums)
    s11 = 60 / 59 * sum(a * b for a, b in sums)
    expected = s10 / many_p + s01 / many_n + 2 * s11 / (many_p * many_n)
    assert float(found.square().sum()) == pytest.approx(expected, rel=1e-3)  # their factor of the covariance is 60 / 59


def test_the_effects_of_users_are_those_of_leaving_them_out() -> None:
    """The jackknife is the independent answer: what a metric loses without a user, in the buckets of the users."""
    (rows,) = rows_of_users(200, 5, seed=3)
    rows["weight"] = torch.randint(1, 4, rows["weight"].shape, generator=torch.Generator().manual_seed(1)) / 2
    rows["request"] = torch.arange(len(rows["weight"])) // 3
    result = evaluated(rows, with_requests=True)
    left_out = [evaluated(part(rows, rows["group"] != user), with_requests=True)["tasks"] for user in range(200)]
    bucket = mix(torch.arange(200)) & (BUCKETS - 1)
    for task, kind in (("click", Binary), ("views", Count)):
        # Those of deciles and buckets have no interval
        for metric in {m.name for m in metrics_of_kind(kind)} - {"decile_error", "calibration_error"}:
            values = torch.tensor([other[task][metric] for other in left_out], dtype=torch.float64)
            expected = torch.zeros(BUCKETS, dtype=torch.float64).index_add_(0, bucket, values.mean() - values)
            found = torch.tensor(result["group_effects"][task][metric], dtype=torch.float64)
            assert float((found - expected).norm() / expected.norm()) < 0.05, (task, metric)


@pytest.mark.parametrize(("worlds", "users", "rows_each"), [(250, 150, 8.0), (400, 500, 1.0)])
def test_the_intervals_cover_the_truth_in_95_of_100_worlds(worlds: int, users: int, rows_each: float) -> None:
    """Worlds of users whose rows resemble each other; the truth is the value on 60 times as many users."""
    several = rows_each > 1
    names = [
        ("click", m) for m in ("auc", "logloss", "ne", "calibration", *(["gauc", "ndcg", "mrr"] if several else []))
    ]
    names += [
        ("views", m) for m in ("poisson_deviance", "mae", "nmae", "smape", "calibration", *(["ndcg_10"] * several))
    ]

    def measured(users: int, seed: int) -> dict[str, Any]:
        (rows,) = rows_of_users(users, rows_each, seed)
        rows |= {"request": torch.arange(len(rows["weight"])) // 4} if several else {}
        return evaluated(rows, with_requests=several)["tasks"]

    truth = measured(users * 60, seed=10_000)
    covered = dict.fromkeys(names, 0)
    for world in range(worlds):
        found = measured(users, seed=world)
        for task, metric in names:
            low, high = found[task]["intervals"][metric]
            covered[task, metric] += low <= truth[task][metric] <= high
    shares = {name: count / worlds for name, count in covered.items()}
    assert all(0.92 <= share <= 0.98 for share in shares.values()), shares


def test_the_interval_of_a_change_covers_and_is_narrower() -> None:
    """Two models on the same rows."""
    worlds = 120
    before, after = (evaluated(rows)["tasks"] for rows in rows_of_users(6_000, 8, seed=10_000, models=2))
    covered, narrower = 0, 0
    for world in range(worlds):
        one, two = (evaluated(rows) for rows in rows_of_users(100, 8, seed=world, models=2))
        (a, b), (old, new) = (
            (r["tasks"]["click"] for r in (one, two)),
            (r["group_effects"]["click"] for r in (one, two)),
        )
        found = difference(a["auc"], b["auc"], old["auc"], new["auc"])
        assert found is not None
        covered += found[0] <= after["click"]["auc"] - before["click"]["auc"] <= found[1]
        narrower += (found[1] - found[0]) / 2 < 0.7 * half(a, "auc")
    assert 0.92 <= covered / worlds <= 0.98
    assert narrower > 0.98 * worlds
    assert difference(0.7, 0.7, [], []) is None


def test_a_model_compared_with_itself_has_not_changed() -> None:
    (rows,) = rows_of_users(100, 5, seed=0)
    result = evaluated(rows)
    effects = result["group_effects"]["click"]["ne"]
    value = result["tasks"]["click"]["ne"]
    assert difference(value, value, effects, effects) == (0, 0)


def test_a_sample_gives_the_interval_of_all_rows() -> None:
    (rows,) = rows_of_users(4_000, 10, seed=5)
    every, sampled = evaluated(rows)["tasks"], evaluated(rows, sample_rows=12_000)["tasks"]
    assert sampled["click"]["gauc_sampled_share"] < 0.35
    assert every["click"]["groups"] == 4_000
    assert sampled["click"]["groups"] == pytest.approx(4_000, rel=0.1)
    for task, metric in (("click", "auc"), ("click", "ne"), ("views", "mae"), ("click", "gauc")):
        assert half(sampled[task], metric) == pytest.approx(half(every[task], metric), rel=0.15)


def test_without_a_group_column_every_row_counts_for_itself() -> None:
    (rows,) = rows_of_users(400, 10, seed=5)
    clustered = evaluated(rows)["tasks"]["click"]
    rows["group"] = None
    result = evaluated(rows)
    alone, sampled = result["tasks"]["click"], evaluated(rows, sample_rows=1_500)["tasks"]["click"]
    assert alone["gauc_null_reason"] == "no group column"
    assert (alone["groups"], result["group_effects"]) == (None, {})
    v10, v01 = placements(rows["logits"][:, 0].numpy(), rows["labels"][:, 0].numpy() == 1)
    error = math.sqrt(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01))
    assert half(alone, "auc") == pytest.approx(1.96 * error, rel=0.01)
    assert half(sampled, "auc") == pytest.approx(half(alone, "auc"), rel=0.15)
    assert half(clustered, "auc") > 1.2 * half(alone, "auc")


def test_a_scenario_has_its_own_intervals() -> None:
    rows = draw_rows(4_000, tasks=2, scenarios=2, groups=300)
    metrics = EvalMetrics({"click": Task(), "buy": Task(parent="click")}, ["a", "other"])
    whole = feed(metrics, rows).compute()
    only_a = feed(
        EvalMetrics({"click": Task(), "buy": Task()}, []), part(rows, rows["scenario"] == 0) | {"scenario": None}
    )
    expected = only_a.compute()["tasks"]["buy"]
    found = whole["scenarios"]["a"]["buy"]
    assert found["groups"] == expected["groups"]
    assert found["intervals"] == {name: pytest.approx(pair) for name, pair in expected["intervals"].items()}


def test_too_few_groups_have_no_interval_and_say_so() -> None:
    (rows,) = rows_of_users(MIN_GROUPS - 1, 30, seed=0)
    report = evaluated(rows)["tasks"]["click"]
    assert (report["groups"], report["intervals"]) == (19, {})
    assert report["interval_null_reason"] == "19 groups, fewer than 20"
    assert (
        evaluated(part(rows, rows["group"] == 0))["tasks"]["views"]["interval_null_reason"] == "1 group, fewer than 20"
    )


def test_perfect_and_constant_scores() -> None:
    (rows,) = rows_of_users(100, 5, seed=0)
    rows["logits"] = torch.where(rows["labels"] > 0, 1.0, -1.0)
    report = evaluated(rows)["tasks"]["click"]
    assert report["auc"] == 1
    assert "auc" not in report["intervals"]
    assert report["interval_null_reason"] == "too few distinct rows for AUC, PR-AUC, GAUC"
    rows["logits"] = torch.full_like(rows["logits"], -1.0)
    assert evaluated(rows)["tasks"]["click"]["intervals"]["auc"] == [0.5, 0.5]


def test_one_positive_has_no_interval() -> None:
    (rows,) = rows_of_users(100, 5, seed=0)
    rows["labels"] = torch.zeros_like(rows["labels"])
    rows["labels"][3] = 1
    report = evaluated(rows)["tasks"]["click"]
    assert report["auc"] is not None
    assert "auc" not in report["intervals"]
    assert "AUC" in report["interval_null_reason"]
