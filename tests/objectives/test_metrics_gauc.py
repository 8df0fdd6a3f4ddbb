"""GAUC against a plain loop over the groups, and the sample that bounds its memory."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.metrics.grouped import GroupedSample, Rows, common_level, grouped_auc, mix
from tests.helpers.metric_rows import draw_rows, feed, part, seen

torch.set_num_threads(1)
TASKS = {"click": Task(), "buy": Task(parent="click")}


def by_loop(group: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, int]:
    areas, shares = [], []
    for g in np.unique(group):
        mine = group == g
        if 0 < y[mine].sum() < mine.sum():
            areas.append(roc_auc_score(y[mine], x[mine], sample_weight=w[mine]))
            shares.append(w[mine].sum())
    return float(np.average(areas, weights=shares)), len(areas)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_loop_over_groups(weighted: bool, ties: bool) -> None:
    rows = draw_rows(2_000, tasks=2, scenarios=2, groups=150)
    if ties:
        rows["logits"] = (rows["logits"] * 1.5).round()
    if weighted:
        rows["weight"] = torch.randint(0, 5, (2_000,), generator=torch.Generator().manual_seed(1)) / 4
    result = feed(EvalMetrics(TASKS, ["search", "other"]), rows).compute()
    for t, name in enumerate(TASKS):
        for s, reports in enumerate([result["tasks"], result["scenarios"]["search"], result["scenarios"]["other"]]):
            r = seen(rows, t, s - 1 if s else None)
            gauc, groups = by_loop(r["group"], r["x"], r["y"], r["w"])
            assert reports[name]["gauc"] == pytest.approx(gauc, abs=1e-12)
            assert reports[name]["gauc_groups"] == groups
            assert reports[name]["gauc_sampled_share"] == 1.0
            assert reports[name]["gauc_null_reason"] is None


def gauc_of(group: torch.Tensor, *columns: torch.Tensor) -> tuple[float | None, int]:
    groups, index = torch.unique(group, return_inverse=True)
    return grouped_auc(index, len(groups), *columns)[:2]


def test_a_hand_made_example() -> None:
    """Group 7: one of two pairs right, 3 rows. Group -1: a tie, 2 rows. Group 5 has no positive. (3·0.5 + 2·0.5) / 5."""
    group = torch.tensor([7, 7, 7, -1, -1, 5, 5])
    logits = torch.tensor([0.1, 0.2, 0.3, 1.0, 1.0, 9.0, -9.0])
    positive = torch.tensor([False, True, False, True, False, False, False])
    assert gauc_of(group, logits, positive, torch.ones(7)) == (0.5, 2)
    heavy = torch.tensor([3.0, 1, 1, 1, 1, 1, 1])  # group 7: 3 of 4 pairs, and 5 of 7 weights
    assert gauc_of(group, logits, positive, heavy) == (pytest.approx((5 * 0.75 + 2 * 0.5) / 7), 2)
    assert gauc_of(group[5:], logits[5:], positive[5:], torch.ones(2)) == (None, 0)


def test_one_group_of_all_rows_is_plain_auc() -> None:
    rows = draw_rows(5_000, tasks=2)
    rows["group"] = torch.full((5_000,), -3)
    result = feed(EvalMetrics(TASKS, []), rows).compute()
    for t, name in enumerate(TASKS):
        r = seen(rows, t)
        assert result["tasks"][name]["gauc"] == pytest.approx(roc_auc_score(r["y"], r["x"]), abs=1e-12)


def test_no_group_column_and_no_mixed_group() -> None:
    rows = draw_rows(100, tasks=2)
    report = feed(EvalMetrics(TASKS, []), rows).compute()["tasks"]["click"]
    assert report["auc"] is not None
    assert report["gauc"] is None
    assert report["gauc_null_reason"].startswith("no group column")
    rows["group"] = torch.arange(100)
    report = feed(EvalMetrics(TASKS, []), rows).compute()["tasks"]["click"]
    assert report["gauc"] is None
    assert report["gauc_null_reason"] == f"no group has both a positive and a negative among {report['count']} rows"


def test_mix_is_splitmix64() -> None:
    def reference(x: int) -> int:
        z = (x + 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    ids = [0, 1, -1, 2**63 - 1, -(2**63), 1234567890123, -987654321]
    assert [v % 2**64 for v in mix(torch.tensor(ids)).tolist()] == [reference(v % 2**64) for v in ids]


def sample(rows: dict, capacity: int, batch: int = 500, filter_now: bool = True) -> GroupedSample:
    kept = GroupedSample(2, 0, capacity, torch.device("cpu"))
    kept.filter_now = filter_now
    taken = rows["observed"] & rows["valid"].unsqueeze(1)
    for i in range(0, len(taken), batch):
        s = slice(i, i + batch)
        scenario = torch.zeros(len(taken[s]), dtype=torch.int64)
        binary = Rows(rows["logits"][s], rows["labels"][s], taken[s])
        kept.update(
            binary, Rows(*(v[:, :0] for v in binary)), rows["weight"][s].unsqueeze(1), scenario, rows["group"][s]
        )
    return kept


def test_the_sample_is_whole_groups_and_bounded() -> None:
    rows = draw_rows(40_000, tasks=2, groups=3_000)
    kept = sample(rows, capacity=3_000)
    level = kept.counts()["workers_by_level"].argmax().item()
    assert level >= 3
    assert kept.used <= 3_000
    assert len(kept.rows["group"]) <= 3_000 * 1.25 + 1
    taken = (rows["observed"] & rows["valid"].unsqueeze(1)).any(dim=1)
    hashed = mix(rows["group"])
    expected = taken & ((hashed & (2**63 - 1)) < 2 ** (63 - level))
    assert kept.rows_at(0)["group"].sort().values.equal(hashed[expected].sort().values)


def test_filtering_early_or_late_keeps_the_same_rows() -> None:
    """The GPU keeps all rows of a batch and drops them later; the sample must not depend on it."""
    rows = draw_rows(20_000, tasks=2, groups=1_500)
    early, late = sample(rows, 2_500), sample(rows, 2_500, filter_now=False)
    one, two = early.rows_at(0), late.rows_at(0)
    assert early.level == late.level > 0
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_batch_larger_than_the_room() -> None:
    rows = draw_rows(5_000, tasks=2, groups=900)
    big, small = sample(rows, 300, batch=5_000), sample(rows, 300, batch=50)
    assert big.rows_at(0)["group"].equal(small.rows_at(0)["group"])


def test_sampled_gauc_is_the_gauc_of_the_kept_groups_and_near_the_whole() -> None:
    rows = draw_rows(60_000, tasks=2, groups=3_000)
    whole = feed(EvalMetrics(TASKS, []), rows).compute()["tasks"]["click"]
    metrics = feed(EvalMetrics(TASKS, [], sample_rows=20_000), rows)
    report = metrics.compute()["tasks"]["click"]
    kept = torch.isin(mix(rows["group"]), metrics.gather_form()["group"])
    r = seen(part(rows, kept), 0)
    assert report["gauc"] == pytest.approx(by_loop(r["group"], r["x"], r["y"], r["w"])[0], abs=1e-12)
    assert report["gauc_sampled_share"] == pytest.approx(len(r["y"]) / report["count"])
    assert 0.15 < report["gauc_sampled_share"] < 0.35
    assert report["gauc"] == pytest.approx(whole["gauc"], abs=0.02)


def test_workers_with_unlike_samples_agree_on_groups() -> None:
    """One worker has had to halve its sample and the other not; a group that both hold must be whole in the result."""
    rows = draw_rows(30_000, tasks=2, groups=1_000)
    shards = [part(rows, slice(0, 26_000)), part(rows, slice(26_000, None))]
    workers = [feed(EvalMetrics(TASKS, [], sample_rows=5_000), shard) for shard in shards]
    states = [{name: tensor.clone() for name, tensor in m.state().items()} for m in workers]
    for m in workers:
        m.load_state({name: states[0][name] + states[1][name] for name in states[0]})
    result = workers[0].compute([m.gather_form() for m in workers])["tasks"]["click"]
    kept = torch.isin(mix(rows["group"]), torch.cat([m.gather_form()["group"] for m in workers]))
    r = seen(part(rows, kept), 0)
    gauc, groups = by_loop(r["group"], r["x"], r["y"], r["w"])
    assert result["gauc"] == pytest.approx(gauc, abs=1e-12)
    assert result["gauc_groups"] == groups
    assert result["gauc_sampled_share"] < 0.3


def test_the_gathered_rows_are_bounded() -> None:
    rows = draw_rows(20_000, tasks=2, groups=2_000)
    metrics = feed(EvalMetrics(TASKS, [], sample_rows_total=4_000), rows)
    assert 1_000 < len(metrics.gather_form()["group"]) <= 4_000


def test_common_level() -> None:
    rows, workers = torch.zeros(64, dtype=torch.int64), torch.zeros(64, dtype=torch.int64)
    assert common_level(rows, workers, 10) == 0
    rows[:4] = torch.tensor([50, 25, 12, 13])
    workers[0] = workers[1] = 1
    assert common_level(rows, workers, 100) == 1
    assert common_level(rows, workers, 30) == 2
    assert common_level(rows, workers, 12) == 4
