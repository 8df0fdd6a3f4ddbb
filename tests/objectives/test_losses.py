"""Losses: three rows by hand for every kind, masks, the global normaliser and the order penalty."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.task_kinds import BaseRate
from raymtl.config.tasks import Task
from raymtl.objectives.link import OutputScale
from raymtl.objectives.losses import Losses, TaskLosses
from raymtl.objectives.outputs import Outputs
from raymtl.objectives.tasks import objective_of
from raymtl.objectives.tasks.count import TANGENT_FROM

NONE = OrderLoss()


def cost(
    tasks: dict[str, Task],
    logits: Tensor,
    y: Tensor,
    observed: Tensor | None = None,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
    order: OrderLoss = NONE,
    counts: Tensor | None = None,
    world: int = 1,
) -> Losses:
    observed = torch.ones_like(y).bool() if observed is None else observed
    weight = torch.ones(len(y)) if weight is None else weight
    valid = torch.ones(len(y)).bool() if valid is None else valid
    losses = TaskLosses(tasks, order)
    counts = losses.counts(observed, weight, valid) if counts is None else counts
    return losses(logits, y, observed, weight, valid, counts[:-1], counts[-1], world)


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def sp(z: float) -> float:
    return math.log1p(math.exp(z))


BY_HAND: list[tuple[Task, list[float], list[float], list[float]]] = [
    (Task(), [0.0, 2.0, -1.0], [1.0, 0.0, 0.0], [math.log(2), sp(2.0), sp(-1.0)]),
    (Task(kind="count"), [0.0, 1.0, -2.0], [3.0, 0.0, 1.0], [1.0, math.e, math.exp(-2) + 2]),
    (Task(kind="real"), [1.5, -2.0, 0.0], [1.0, 1.0, -7.0], [0.25, 9.0, 49.0]),
    (
        Task(kind="real", transform="log1p"),
        [1.0, 0.0, 2.0],
        [0.0, math.e - 1, math.e**3 - 1],
        [1.0, 1.0, 1.0],
    ),
]
by_hand = pytest.mark.parametrize(("task", "a", "y", "rows"), BY_HAND, ids=["binary", "count", "real", "log1p"])


@by_hand
def test_three_rows_by_hand(task: Task, a: list[float], y: list[float], rows: list[float]) -> None:
    found = cost({"t": task}, column(*a), column(*y))
    assert found.per_task.tolist() == pytest.approx([sum(rows) / 3], rel=1e-6)
    assert found.total.item() == pytest.approx(sum(rows) / 3, rel=1e-6)
    assert found.order.item() == 0


@by_hand
def test_weights_and_mask_by_hand(task: Task, a: list[float], y: list[float], rows: list[float]) -> None:
    observed, weight = column(1, 0, 1).bool(), torch.tensor([2.0, 5.0, 0.5])
    found = cost({"t": task}, column(*a), column(*y), observed, weight)
    assert found.total.item() == pytest.approx((2 * rows[0] + 0.5 * rows[2]) / 2, rel=1e-6)


@by_hand
def test_gradient_by_hand(task: Task, a: list[float], y: list[float], rows: list[float]) -> None:
    logits = column(*a).requires_grad_()
    cost({"t": task}, logits, column(*y), column(1, 0, 1).bool()).total.backward()
    if task.kind == "binary":
        slope = [1 / (1 + math.exp(-z)) - target for z, target in zip(a, y, strict=True)]
    elif task.kind == "count":
        slope = [math.exp(z) - target for z, target in zip(a, y, strict=True)]
    else:
        target = [math.log1p(v) for v in y] if task.transform == "log1p" else y
        slope = [2 * (z - v) for z, v in zip(a, target, strict=True)]
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([slope[0] / 2, 0.0, slope[2] / 2], rel=1e-5, abs=1e-7)
    assert logits.grad[1].item() == 0


def test_kinds_side_by_side_keep_their_columns() -> None:
    kinds = [BY_HAND[i] for i in (0, 2, 0, 0, 1, 3)]  # runs of one kind, and a kind that comes back
    tasks = {f"t{i}": kind[0] for i, kind in enumerate(kinds)}
    logits = torch.tensor([kind[1] for kind in kinds]).T
    y = torch.tensor([kind[2] for kind in kinds]).T
    found = cost(tasks, logits, y)
    assert found.per_task.tolist() == pytest.approx([sum(kind[3]) / 3 for kind in kinds], rel=1e-6)


@by_hand
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30, -5.0])
def test_masked_and_padded_rows_are_never_read(
    task: Task, a: list[float], y: list[float], rows: list[float], junk: float
) -> None:
    logits = column(a[0], a[1], 0.3, junk, junk).requires_grad_()
    observed, valid = column(1, 1, 0, 1, 0).bool(), torch.tensor([1, 1, 1, 0, 0]).bool()
    weight = torch.tensor([1.0, 3.0, junk, junk, junk])
    order = OrderLoss(alpha=0.6)
    found = cost({"t": task}, logits, column(y[0], y[1], junk, junk, junk), observed, weight, valid, order)
    assert found.total.item() == pytest.approx((rows[0] + 3 * rows[1]) / 2, rel=1e-6)
    found.total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[2:].flatten().tolist() == [0, 0, 0]
    assert logits.grad[:2].all()


def test_padding_logits_do_not_reach_the_order_penalty() -> None:
    tasks = {"a": Task(weight=0), "b": Task(weight=0, parent="a")}
    logits = torch.tensor([[0.0, 1.0], [math.nan, math.inf], [-5.0, 5.0]], requires_grad=True)
    valid = torch.tensor([True, False, False])
    y = torch.zeros(3, 2)
    found = cost(tasks, logits, y, y.bool(), valid=valid, order=OrderLoss(alpha=1.0))
    assert found.total.item() == pytest.approx(1 / (1 + math.exp(-1)) - 0.5)
    found.total.backward()
    assert logits.grad is not None
    assert not logits.grad[1:].any()


def test_a_wrong_value_in_an_observed_row_is_not_hidden() -> None:
    assert cost({"t": Task()}, column(0.0, math.nan), column(1.0, 1.0)).total.isnan()
    assert cost({"t": Task()}, column(0.0, 0.0), column(1.0, math.nan)).total.isnan()


def test_no_label_anywhere_is_an_exact_zero_on_the_graph() -> None:
    for floor in (0.0, 1.0):
        logits = torch.randn(4, 1, requires_grad=True)
        total = cost({"t": Task(normalizer_floor=floor)}, logits, torch.ones(4, 1), torch.zeros(4, 1).bool()).total
        assert total.item() == 0
        total.backward()
        assert logits.grad is not None
        assert logits.grad.tolist() == [[0.0]] * 4


def test_empty_batch() -> None:
    logits = torch.zeros(0, 2, requires_grad=True)
    tasks = {"a": Task(), "b": Task(parent="a")}
    found = cost(tasks, logits, torch.zeros(0, 2), order=OrderLoss(alpha=0.6))
    found.total.backward()
    assert found.total.item() == 0
    assert logits.grad is not None


def test_floor_keeps_one_label_from_weighing_like_a_batch() -> None:
    observed = column(1, 0, 0).bool()
    full = cost({"t": Task(normalizer_floor=0)}, column(0, 0, 0), column(1, 1, 1), observed).total.item()
    assert full == pytest.approx(math.log(2))
    floored = cost({"t": Task(normalizer_floor=50)}, column(0, 0, 0), column(1, 1, 1), observed).total.item()
    assert floored == pytest.approx(math.log(2) / 50)
    light, normalizer = torch.full((3,), 1e-3), torch.tensor([3e-3, 3.0])
    found = cost({"t": Task()}, column(0, 0, 0), column(1, 1, 1), None, light, counts=normalizer)
    assert found.total.item() == pytest.approx(3e-3 * math.log(2))


def test_task_weights_multiply_the_normalised_losses() -> None:
    logits, y = torch.randn(6, 2), torch.randint(2, (6, 2)).float()
    observed = torch.tensor([[1, 0]] * 5 + [[1, 1]]).bool()
    plain = cost({"a": Task(), "b": Task()}, logits, y, observed)
    weighted = cost({"a": Task(weight=0.25), "b": Task(weight=4)}, logits, y, observed)
    torch.testing.assert_close(weighted.per_task, plain.per_task)
    torch.testing.assert_close(weighted.total, 0.25 * plain.per_task[0] + 4 * plain.per_task[1])


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_mean_over_ragged_workers_is_the_loss_of_the_whole_batch(space: Any) -> None:
    torch.manual_seed(0)
    tasks = {"click": Task(), "buy": Task(parent="click"), "views": Task(kind="count"), "spend": Task(kind="real")}
    n, cuts = 40, [3, 17, 0, 20]
    logits, y = torch.randn(n, 4), torch.randint(2, (n, 4)).float()
    observed, weight, valid = torch.rand(n, 4) < 0.4, torch.rand(n), torch.rand(n) < 0.8
    order = OrderLoss(alpha=0.6, space=space)
    losses = TaskLosses(tasks, order)
    counts = losses.counts(observed, weight, valid)
    leaf = logits.clone().requires_grad_()
    whole = cost(tasks, leaf, y, observed, weight, valid, order)
    whole.total.backward()
    split = logits.clone().requires_grad_()
    shares = zip(*(t.split(cuts) for t in (split, y, observed, weight, valid)), strict=True)
    parts = [cost(tasks, *share, order=order, counts=counts, world=4) for share in shares]
    local_counts = [
        losses.counts(o, w, v) for o, w, v in zip(*(t.split(cuts) for t in (observed, weight, valid)), strict=True)
    ]
    torch.testing.assert_close(sum(local_counts), counts)
    torch.testing.assert_close(torch.stack([p.total for p in parts]).mean(), whole.total)
    torch.testing.assert_close(torch.stack([p.per_task for p in parts]).mean(0), whole.per_task)
    torch.testing.assert_close(torch.stack([p.order for p in parts]).mean(), whole.order)
    torch.stack([p.total for p in parts]).mean().backward()
    torch.testing.assert_close(split.grad, leaf.grad)
    # What this replaces: the mean of the workers' own means is another number.
    own = [
        cost(tasks, *(t.split(cuts)[r] for t in (logits, y, observed, weight, valid)), order=order).total
        for r in (0, 1, 3)
    ]
    assert (torch.stack(own).mean() - whole.total).abs() > 0.01


def test_counts_by_hand() -> None:
    observed = torch.tensor([[1, 1], [0, 1], [1, 1], [1, 0]]).bool()
    weight, valid = torch.tensor([1.0, 0.5, math.nan, 0.0]), torch.tensor([1, 1, 0, 1]).bool()
    counts = TaskLosses({"a": Task(), "b": Task()}, NONE).counts(observed, weight, valid)
    assert counts.tolist() == [1.0, 2.0, 3.0], "a label of weight 0 counts nowhere"
    assert counts.dtype == torch.float32


def test_counts_of_bf16_weights_are_exact() -> None:
    n = 301
    ones = torch.ones(n, dtype=torch.bfloat16)
    counts = TaskLosses({"a": Task()}, NONE).counts(torch.ones(n, 1).bool(), ones, torch.ones(n).bool())
    assert counts.tolist() == [301.0, 301.0]  # bf16 has 300 and 302


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_order_penalty_by_hand(space: Any) -> None:
    tasks = {"click": Task(), "like": Task(parent="click"), "cart": Task(parent="click"), "buy": Task(parent="cart")}
    rows = [[0.0, 1.0, -1.0, 0.0], [2.0, 1.0, 3.0, 2.0], [9.0, 9.0, 9.0, 9.0]]
    logits = torch.tensor(rows, requires_grad=True)
    valid = torch.tensor([True, True, False])
    y = torch.zeros(3, 4)
    found = cost(tasks, logits, y, y.bool(), torch.full((3,), 7.0), valid, OrderLoss(alpha=0.6, space=space))
    p = (lambda z: 1 / (1 + math.exp(-z))) if space == "probability" else (lambda z: z)
    gaps = (p(1) - p(0)) + (p(0) - p(-1)) + (p(3) - p(2))  # like > click, buy > cart; cart > click
    assert found.order.item() == pytest.approx(0.6 * gaps / 2, rel=1e-6)
    assert found.total.item() == pytest.approx(0.6 * gaps / 2, rel=1e-6)
    found.total.backward()
    assert logits.grad is not None
    sign = logits.grad.sign().int().tolist()
    assert sign == [[-1, 1, -1, 1], [-1, 0, 1, 0], [0, 0, 0, 0]]


def test_order_penalty_without_alpha_or_edges_is_absent() -> None:
    logits, y = torch.tensor([[0.0, 9.0]]), torch.zeros(1, 2)
    funnel = {"a": Task(weight=0), "b": Task(weight=0, parent="a")}
    assert cost(funnel, logits, y, order=OrderLoss(alpha=0.0)).total.item() == 0
    assert cost(funnel, logits, y, order=OrderLoss(alpha=0.6)).total.item() > 0
    apart = {"a": Task(weight=0), "b": Task(weight=0)}
    assert cost(apart, logits, y, order=OrderLoss(alpha=0.6)).total.item() == 0


def test_order_gap_survives_bf16_autocast() -> None:
    # In bf16 both probabilities would round to one value and the penalty would vanish.
    logits = torch.tensor([[-6.0, -5.999]])
    assert (logits.sigmoid().bfloat16()[0, 0] == logits.sigmoid().bfloat16()[0, 1]).item()
    tasks = {"a": Task(weight=0), "b": Task(weight=0, parent="a")}
    with torch.autocast("cpu", torch.bfloat16):
        found = cost(tasks, logits, torch.zeros(1, 2), order=OrderLoss(alpha=1.0))
    expected = (logits.double().sigmoid()[0, 1] - logits.double().sigmoid()[0, 0]).item()
    assert found.order.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("task", [case[0] for case in BY_HAND], ids=["binary", "count", "real", "log1p"])
def test_arithmetic_is_fp32_for_bf16_logits_and_under_autocast(task: Task) -> None:
    logits = torch.tensor([[3.0], [-7.0], [0.5]], dtype=torch.bfloat16)
    y = column(1.0, 0.0, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = cost({"t": task}, logits, y)
    exact = cost({"t": task}, logits.float(), y)
    assert found.total.dtype == found.per_task.dtype == found.order.dtype == torch.float32
    assert torch.equal(found.total, exact.total)


def test_count_loss_stays_finite_and_pulls_back_from_far_above() -> None:
    for a in (TANGENT_FROM - 0.1, TANGENT_FROM, TANGENT_FROM + 0.1, 50.0, 1000.0):
        logits = torch.full((1, 1), a, requires_grad=True)
        loss = cost({"t": Task(kind="count")}, logits, column(5.0)).total
        loss.backward()
        assert loss.isfinite()
        assert logits.grad is not None
        # d/da = λ - y, from the tangent at TANGENT_FROM on
        assert logits.grad.item() == pytest.approx(math.exp(min(a, TANGENT_FROM)) - 5, rel=1e-5)


@pytest.mark.parametrize("y", [0.0, *(10.0**k for k in range(-3, 13))])
def test_count_loss_has_its_least_at_the_label_at_any_scale(y: float) -> None:
    task = Task(kind="count")
    best = math.log(y) if y else -math.inf
    a = torch.linspace(-40, 60, 4001).add_(best if y else 0.0).unsqueeze(1).requires_grad_()
    rows = objective_of(task).loss(a, torch.full_like(a, y))
    (slope,) = torch.autograd.grad(rows.sum(), a)
    away = (a.detach() - best).abs() > 0.01
    assert rows.isfinite().all()
    assert (slope[away & (a > best)] > 0).all()
    assert (slope[away & (a < best)] < 0).all()
    least = objective_of(task).lower_bound(torch.tensor(y)).item()
    assert rows.min().item() == pytest.approx(least, rel=1e-5, abs=1e-4)
    inside = (a > best - 10) & (a < max(TANGENT_FROM, best + 1))
    torch.testing.assert_close(slope[inside], (a.exp() - y)[inside], rtol=1e-4, atol=1e-5 * max(y, 1e-3))
    if y:
        assert objective_of(task).predict(torch.tensor(best)).item() == pytest.approx(y, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("task", [Task(kind="real"), Task(kind="count"), Task(kind="real", transform="log1p")])
def test_labels_of_any_scale_are_learned(task: Task, scale: float) -> None:
    """Eight groups of rows with means from 1 to 8 times the scale; Adam with its usual rate learns them all."""
    group = torch.arange(8).repeat(4)
    y = (group + 1.0).unsqueeze(1) * scale
    target = torch.from_numpy(task.traits.trained_on(y.double().numpy()))
    rate = BaseRate(y.mean().item(), target.mean().item(), target.std().item())
    heads = torch.nn.Embedding(8, 1)
    torch.nn.init.normal_(heads.weight, std=0.01)
    scaled = OutputScale.of(Outputs({"t": task}), {"t": rate})
    start = 0.0 if task.kind == "real" else objective_of(task).start_logit(rate)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    losses, ones = TaskLosses({"t": task}, NONE), torch.ones_like(y).bool()
    counts = losses.counts(ones, torch.ones(len(y)), ones[:, 0])
    for _ in range(400):
        logits = scaled(heads(group) + start)
        args = (ones, torch.ones(len(y)), ones[:, 0], counts[:-1])
        found = losses(logits, y, *args, counts[-1], units=scaled.units)
        above = found.per_task - losses.lower_bound(y, *args, units=scaled.units)
        optimizer.zero_grad()
        found.total.backward()
        assert heads.weight.grad.norm() < 100
        optimizer.step()
    assert above.item() < 1e-3
    torch.testing.assert_close(
        objective_of(task).predict(scaled(heads(group) + start)), y, rtol=0.05, atol=0.05 * scale
    )


def test_cross_entropy_is_finite_at_extreme_logits() -> None:
    logits = column(1e4, -1e4, 1e4, -1e4).requires_grad_()
    found = cost({"t": Task()}, logits, column(1, 0, 0, 1))
    assert found.total.item() == pytest.approx(5e3)
    found.total.backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0, 0, 0.25, -0.25])


def test_rare_positives_keep_their_gradient() -> None:
    # With probabilities clipped at 1e-7 this row would learn nothing.
    logits = column(-20.0).requires_grad_()
    cost({"t": Task()}, logits, column(1.0)).total.backward()
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-1.0)


def test_only_the_total_carries_a_gradient() -> None:
    tasks = {"a": Task(), "b": Task(parent="a")}
    found = cost(tasks, torch.randn(3, 2, requires_grad=True), torch.zeros(3, 2), order=OrderLoss(alpha=0.6))
    assert found.total.requires_grad
    assert not found.per_task.requires_grad
    assert not found.order.requires_grad


def test_constants_follow_the_module_but_are_not_saved() -> None:
    losses = TaskLosses({"a": Task(weight=2.0)}, NONE)
    assert not losses.state_dict()
    assert {b.device.type for b in losses.to("meta").buffers()} == {"meta"}
