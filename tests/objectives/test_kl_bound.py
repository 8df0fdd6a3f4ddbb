"""Meituan's bound: symmetric KL divergence between p(click)·p(conversion | click) and p(order) (docs/formulas.md §9)."""

import math

import pytest
import torch
from torch import Tensor

from raymtl.config.slots.penalties import KLBound, OrderLoss
from raymtl.config.tasks import Task
from raymtl.config.wiring import bounds
from raymtl.objectives.algebra import logit_prod, sym_kl
from raymtl.objectives.losses import Losses, TaskLosses

TASKS = {"click": Task(), "conversion": Task(label="buy", given="click"), "order": Task(label="buy")}


def cost(
    logits: Tensor,
    tasks: dict[str, Task] = TASKS,
    valid: Tensor | None = None,
    weight: float = 1.0,
    valid_rows: float | None = None,
    world: int = 1,
) -> Losses:
    """The bound alone: no label is observed."""
    rows, count = logits.shape
    valid = torch.ones(rows).bool() if valid is None else valid
    losses = TaskLosses(tasks, OrderLoss(), KLBound(weight=weight))
    number = float(valid.sum()) if valid_rows is None else valid_rows
    return losses(
        logits, torch.zeros(rows, count), torch.zeros(rows, count).bool(), torch.full((rows,), 7.0), valid,
        torch.zeros(count), torch.tensor(number), world,
    )  # fmt: skip


def four_terms(p: float, q: float) -> float:
    def one_way(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    return one_way(p, q) + one_way(q, p)


def sigma(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def test_two_rows_by_hand() -> None:
    rows = [[0.5, -1.0, -2.0], [-1.0, 2.0, 0.3]]
    expected = sum(four_terms(sigma(g) * sigma(c), sigma(o)) for g, c, o in rows) / 2
    found = cost(torch.tensor(rows), weight=0.5)
    assert found.bound.item() == pytest.approx(0.5 * expected, rel=1e-5)
    assert found.total.item() == pytest.approx(0.5 * expected, rel=1e-5)
    assert found.order.item() == 0
    assert not found.bound.requires_grad


def test_k1_zero_and_flat_exactly_where_the_two_agree() -> None:
    click, conversion = 3 * torch.randn(2, 50)
    apart = torch.stack((click, conversion, logit_prod(click, conversion)), 1)
    agreed = apart.clone().requires_grad_()
    cost(agreed).total.backward()
    assert cost(agreed).bound.item() == 0
    assert agreed.grad is not None
    assert not agreed.grad.any()
    apart[7, 2] += 0.01
    moved = apart.requires_grad_()
    cost(moved).total.backward()
    assert cost(moved).bound.item() > 0
    assert moved.grad is not None
    assert moved.grad[7].all()  # all three heads are pulled
    assert moved.grad.any(1).sum() == 1


def test_k2_symmetric() -> None:
    a, b = 20 * torch.randn(2, 5000)
    assert torch.equal(sym_kl(a, b), sym_kl(b, a))
    # In rare events as in frequent ones: a probability and its complement diverge alike.
    assert torch.equal(sym_kl(a, b), sym_kl(-a, -b))


def test_k3_equals_the_four_terms_and_is_never_negative() -> None:
    a, b = 4 * torch.randn(2, 200)
    expected = torch.tensor([four_terms(sigma(x), sigma(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    torch.testing.assert_close(sym_kl(a, b), expected, rtol=1e-4, atol=1e-6)
    assert (sym_kl(30 * a, 30 * b) >= 0).all()


def test_padding_and_weights_do_not_count() -> None:
    logits = torch.randn(6, 3)
    logits[2:4] = math.nan
    valid = torch.tensor([True, True, False, False, True, True])
    found, without = logits.clone().requires_grad_(), logits[valid].clone().requires_grad_()
    a, b = cost(found, valid=valid), cost(without)
    torch.testing.assert_close(a.total, b.total)
    a.total.backward()
    b.total.backward()
    assert found.grad is not None
    assert without.grad is not None
    torch.testing.assert_close(found.grad[valid], without.grad)
    assert not found.grad[~valid].any()


def test_two_workers_make_one_batch() -> None:
    logits = torch.randn(11, 3)
    whole = cost(logits).bound
    parts = [cost(part, valid_rows=11.0, world=2).bound for part in (logits[:3], logits[3:])]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_a_mean_over_rows_and_a_sum_over_bounds() -> None:
    logits = torch.randn(9, 3)
    torch.testing.assert_close(cost(logits.repeat(4, 1)).bound, cost(logits).bound)
    twice = {**TASKS, "purchase": Task(label="buy")}
    with_another = cost(torch.cat((logits, logits[:, 2:]), 1), twice)
    torch.testing.assert_close(with_another.bound, 2 * cost(logits).bound)


@pytest.mark.parametrize("rows", [0, 3])
def test_off_or_without_rows_it_is_an_exact_zero(rows: int) -> None:
    logits = torch.randn(rows, 3, requires_grad=True)
    found = cost(logits, weight=0.0 if rows else 1.0)
    found.total.backward()
    assert found.bound.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_what_is_bound() -> None:
    assert bounds(TASKS) == [("click", "conversion", "order")]
    # The label is the column, not the name of the task.
    assert bounds({**TASKS, "buy": Task(), "sale": Task(label="order")}) == [
        ("click", "conversion", "order"),
        ("click", "conversion", "buy"),
    ]
    several = {
        "click": Task(),
        "like": Task(),
        "a": Task(label="x", given="click"),
        "b": Task(label="x", given="like"),
        "x": Task(),
    }
    assert bounds(several) == [("click", "a", "x"), ("like", "b", "x")]


@pytest.mark.parametrize(
    "change",
    [
        {"conversion": Task(label="buy")},
        {"order": Task(label="sale")},
        {"order": Task(label="buy", given="click")},
        {"order": Task(label="buy", kind="count")},
        {"conversion": Task(label="buy", given="click", kind="real")},
        {"conversion": Task(label="buy", given="view")},
    ],
    ids=["no condition", "other column", "no task on all rows", "counts", "numbers", "condition not trained"],
)
def test_what_is_not(change: dict[str, Task]) -> None:
    tasks = {**TASKS, **change}
    assert bounds(tasks) == []
    assert cost(torch.randn(4, 3), tasks).bound.item() == 0
