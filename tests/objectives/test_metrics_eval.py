"""The whole set of metrics: workers, scenarios, the funnel's order, memory, and no waiting for the device."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.choose import lower_is_better, value_of
from raymtl.objectives.metrics.evaluate import EvalMetrics
from tests.helpers.metric_rows import FUNNEL, draw_rows, feed, part

torch.set_num_threads(1)
TASKS = {
    "click": Task(truth="p"),
    "cart": Task(parent="click"),
    "buy": Task(parent="cart"),
    "views": Task(kind="count", truth="m"),
    "spend": Task(kind="real"),
}
SCENARIOS = ["search", "feed", "other"]


def mixed_rows(count: int) -> dict:
    rows = draw_rows(count, tasks=5, scenarios=3, groups=count // 20)
    # Quarters and small integers add up without rounding in any order.
    rows["weight"] = torch.randint(0, 9, (count,), generator=torch.Generator().manual_seed(3)) / 4
    return rows


def test_three_workers_are_one_pass() -> None:
    rows = mixed_rows(9_000)
    whole = feed(EvalMetrics(TASKS, SCENARIOS), rows, batch=1_700)
    cuts = [slice(0, 1_234), slice(1_234, 6_000), slice(6_000, None)]
    workers = [feed(EvalMetrics(TASKS, SCENARIOS), part(rows, cut)) for cut in cuts]
    states = [{name: tensor.clone() for name, tensor in m.state().items()} for m in workers]
    total = {name: torch.stack([s[name] for s in states]).sum(dim=0) for name in states[0]}
    for m in workers:
        m.load_state(total)
    one = whole.state()
    for name in ("binary.scores", "binary.truths", "sample.rows_by_level", "order", "rows"):
        assert torch.equal(one[name], total[name]), name
    for name in ("binary.sums", "values.sums", "values.curves"):
        torch.testing.assert_close(one[name], total[name], rtol=1e-13, atol=0)
    result, expected = workers[1].compute([m.gather_form() for m in workers]), whole.compute()
    for task in ("click", "cart", "buy"):
        for key in ("auc", "gauc", "gauc_groups", "count", "positives", "truth_auc", "mean_label"):
            assert result["tasks"][task].get(key) == expected["tasks"][task].get(key)
            assert result["scenarios"]["feed"][task].get(key) == expected["scenarios"]["feed"][task].get(key)
    assert rounded(result) == rounded(expected)


def rounded(value):
    """The result with numbers to 10 digits; GAUC's rows come in another order, so its last bits may differ."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def test_merge_is_the_sum_and_a_foreign_state_is_refused() -> None:
    rows = mixed_rows(2_000)
    one, two = (feed(EvalMetrics(TASKS, SCENARIOS), part(rows, s)) for s in (slice(0, 700), slice(700, None)))
    forms = [one.gather_form(), two.gather_form()]
    one.merge(two.state())
    assert rounded(one.compute(forms)) == rounded(feed(EvalMetrics(TASKS, SCENARIOS), rows).compute())
    with pytest.raises(ValueError, match="other tasks or scenarios"):
        one.load_state(EvalMetrics(FUNNEL, SCENARIOS).state())
    with pytest.raises(RuntimeError, match="reset"):
        one.update(**part(rows, slice(0, 5)))
    one.reset()
    assert one.compute()["rows"] == 0


def test_result_is_plain_json_and_complete() -> None:
    result = feed(EvalMetrics(TASKS, SCENARIOS), mixed_rows(3_000)).compute()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result["tasks"]) == list(TASKS)
    assert list(result["scenarios"]) == SCENARIOS
    assert all(list(by_task) == list(TASKS) for by_task in result["scenarios"].values())
    assert sum(result["scenarios"][s]["buy"]["count"] for s in SCENARIOS) == result["tasks"]["buy"]["count"]
    json.dumps(EvalMetrics(TASKS, SCENARIOS).compute(), allow_nan=False)


def test_batching_and_filling_do_not_matter() -> None:
    rows = mixed_rows(2_000)
    kept = part(rows, rows["valid"])
    results = [
        feed(EvalMetrics(TASKS, SCENARIOS), r, batch=b).compute() for r, b in ((rows, 64), (rows, 2_000), (kept, 333))
    ]
    assert rounded(results[0]) == rounded(results[1]) == rounded(results[2])


def test_a_batch_of_one_row_and_of_filling_alone() -> None:
    rows = mixed_rows(50)
    metrics = feed(EvalMetrics(TASKS, SCENARIOS), part(rows, slice(0, 5)), batch=1)
    before = metrics.compute()
    rows["valid"][:] = False
    assert feed(metrics, rows).compute() == before


def test_half_precision_logits_are_read_as_floats() -> None:
    rows = mixed_rows(500)
    rows["logits"] = rows["logits"].bfloat16()
    wide = rows | {"logits": rows["logits"].float()}
    assert feed(EvalMetrics(TASKS, SCENARIOS), rows).compute() == feed(EvalMetrics(TASKS, SCENARIOS), wide).compute()


def test_inference_mode_and_any_layout() -> None:
    rows = mixed_rows(3_000)
    expected = feed(EvalMetrics(TASKS, SCENARIOS), rows).compute()
    for name in ("logits", "labels", "truth"):
        rows[name] = rows[name].t().contiguous().t()
    with torch.inference_mode():
        metrics = EvalMetrics(TASKS, SCENARIOS)
        feed(metrics, rows)
        metrics.reset()
        feed(metrics, rows)
    metrics.load_state(metrics.state())
    assert rounded(metrics.compute()) == rounded(expected)


def test_order_violations() -> None:
    rows = draw_rows(5)
    rows |= {
        "logits": torch.tensor([[3.0, 2, 1], [1, 2, 1], [1, 0, 2], [1, 2, 3], [9, 9, 9]]),
        "valid": torch.tensor([True, True, True, True, True]),
        "observed": torch.zeros(5, 3, dtype=torch.bool),
    }
    rates = feed(EvalMetrics(FUNNEL, []), rows).compute()["order_violation_rate"]
    assert rates == {"click>cart": 2 / 5, "cart>buy": 2 / 5, "overall": 3 / 5}
    rows["valid"] = torch.tensor([True, True, True, False, False])
    rates = feed(EvalMetrics(FUNNEL, []), rows).compute()["order_violation_rate"]
    assert rates == {"click>cart": 1 / 3, "cart>buy": 1 / 3, "overall": 2 / 3}


def test_without_a_funnel_there_is_no_order() -> None:
    lone = {"buy": Task(parent="click")}  # the parent is not among the tasks
    assert feed(EvalMetrics(lone, []), draw_rows(20, tasks=1)).compute()["order_violation_rate"] is None


def test_memory_of_eight_tasks_in_twenty_scenarios() -> None:
    tasks = {f"t{i}": Task(truth="p") for i in range(8)}
    with torch.device("meta"):
        metrics = EvalMetrics(tasks, [f"s{i}" for i in range(20)], "meta")
    parts = (metrics._binary.state(), metrics._values.state())
    size = sum(t.numel() * t.element_size() for state in parts for t in state.values())
    assert size < 320 * 2**20


class NoWaiting(TorchDispatchMode):
    """Refuses every operation whose result the host has to wait for: a shape or a number that depends on data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal", "repeat_interleave")
        assert not any(w in name for w in waits), f"{name} makes the host wait for the device"
        if name in ("index", "index_put", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), (
                "an index of booleans has a data-dependent size"
            )
        return func(*args, **(kwargs or {}))


def test_an_update_never_waits_for_the_device() -> None:
    metrics = EvalMetrics(TASKS, SCENARIOS, with_requests=True)
    metrics._sample.filter_now = False  # as on a GPU
    rows = mixed_rows(512) | {"request": torch.arange(512) // 10}
    with NoWaiting():
        metrics.update(**rows)
        metrics.update(**rows)
    assert metrics.compute()["rows"] == 2 * int(rows["valid"].sum())


def test_choosing_a_number() -> None:
    result = feed(EvalMetrics(TASKS, SCENARIOS), mixed_rows(2_000)).compute()
    assert value_of(result, "mean_auc") == result["mean_auc"]
    assert value_of(result, "buy.ne") == result["tasks"]["buy"]["ne"]
    assert [lower_is_better(n) for n in ("mean_auc", "buy.gauc", "buy.ne", "views.poisson_deviance")] == [
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(ValueError, match="names the task `sale`"):
        value_of(result, "sale.auc")
    with pytest.raises(ValueError, match="a count task has no metric `auc`"):
        value_of(result, "views.auc")
    with pytest.raises(ValueError, match="has no direction in which it improves"):
        lower_is_better("buy.calibration")


def test_weights_of_a_task_are_those_of_an_evaluation_of_it_alone() -> None:
    rows = mixed_rows(4_000)
    rows["request"] = torch.arange(4_000) // 10
    own = torch.randint(0, 5, (4_000, 5), generator=torch.Generator().manual_seed(9)) / 4
    tasks = {name: task.model_copy(update={"weight_column": "w"}) for name, task in TASKS.items()}
    derived = {"buy|click": ("buy", "click")}

    def report(tasks: dict[str, Task], weight: torch.Tensor) -> dict:
        metrics = EvalMetrics(tasks, SCENARIOS, derived=derived, with_requests=True)
        wide = {"logits": torch.cat((rows["logits"], rows["logits"][:, 2:3]), 1), "weight": weight}
        return rounded(feed(metrics, {**rows, **wide}).compute())

    found = report(tasks, own)
    for column, name in enumerate(TASKS):
        alone = report(TASKS, own[:, column])
        assert found["tasks"][name] == alone["tasks"][name]
        assert found["scenarios"]["feed"][name] == alone["scenarios"]["feed"][name]
        assert found["group_effects"][name] == alone["group_effects"][name]
    assert found["tasks"]["buy|click"] == report(TASKS, own[:, list(TASKS).index("buy")])["tasks"]["buy|click"]
