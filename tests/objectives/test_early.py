"""Labels that are not final: the expected label, and the head that knows how many come late (docs/losses.md)."""

import math

import pytest
import torch
from torch import Tensor

from raymtl.config.early_labels import Arrival, EarlyLabels
from raymtl.config.losses import OwnLoss, TaskLossTerms
from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.objectives.early import ExpectedLabels
from raymtl.objectives.losses import Losses, TaskLosses

CAME = Arrival.KNOWN | Arrival.CAME
ROWS = [(1, Arrival.OPEN), (0, Arrival.OPEN), (1, CAME), (0, Arrival.KNOWN), (1, Arrival(0)), (0, Arrival.OPEN)]
"""Label and what is known of it."""


def tasks(own: float = 1.0, weight: float = 1.0) -> dict[str, Task]:
    early = EarlyLabels(time="buy_time")
    losses = TaskLossTerms(own=OwnLoss(weight=own))
    buy = Task(parent="click", delay_days=3, early_labels=early, losses=losses, weight=weight)
    return {"click": Task(), "buy": buy}


def sigma(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def example() -> dict[str, Tensor]:
    """The rows of `ROWS`, one whose buy is not observed, and padding that holds NaN."""
    draw = torch.Generator().manual_seed(5)
    rows = len(ROWS) + 2
    logits, late = torch.randn(rows, 3, generator=draw).tensor_split((2,), 1)
    labels = torch.tensor([[1.0, y] for y, _ in ROWS] + [[0.0, math.nan], [math.nan, math.nan]])
    observed = torch.ones(rows, 2).bool()
    observed[-2, 1] = observed[-1, 0] = observed[-1, 1] = False
    arrival = torch.tensor([[int(a)] for _, a in ROWS] + [[int(Arrival.OPEN)], [0]], dtype=torch.uint8)
    logits[-1] = late[-1] = math.nan
    weight = torch.rand(rows, generator=draw) + 0.5
    weight[-1] = 0
    valid = torch.ones(rows).bool()
    valid[-1] = False
    return {
        "logits": logits, "labels": labels, "observed": observed, "weight": weight, "valid": valid, "arrival": arrival,
        "late": late,
    }  # fmt: skip


def losses_of(rows: dict[str, Tensor], own: float = 1.0, weight: float = 1.0, is_early: bool = True) -> Losses:
    counted = TaskLosses.counts(rows["observed"], rows["weight"], rows["valid"])
    return TaskLosses(tasks(own, weight), OrderLoss())(
        rows["logits"], rows["labels"], rows["observed"], rows["weight"], rows["valid"], counted[:-1], counted[-1],
        early=(rows["arrival"], rows["late"]) if is_early else None,
    )  # fmt: skip


def test_value_by_hand() -> None:
    rows = example()
    found = losses_of(rows, own=0.7, weight=3.0)
    each, late, weights = 0.0, 0.0, rows["weight"][: len(ROWS)]
    for n, (y, arrival) in enumerate(ROWS):
        f, g, w = sigma(rows["logits"][n, 1].item()), sigma(rows["late"][n, 0].item()), weights[n].item()
        label = g if arrival & Arrival.OPEN and not y else y
        each += w * (-label * math.log(f) - (1 - label) * math.log(1 - f))
        if arrival & Arrival.KNOWN:
            late += w * -math.log(g if arrival & Arrival.CAME else 1 - g)
    total = len(ROWS)  # the labels that count; their mean weight was not measured
    assert found.per_task[1].item() == pytest.approx(0.7 * each / total, rel=1e-5)
    assert found.late.item() == pytest.approx(3 * late / total, rel=1e-5)
    assert found.total.item() == pytest.approx(
        (found.per_task[0] + 3 * found.per_task[1] + found.late).item(), rel=1e-5
    )
    assert found.penalties.item() == found.late.item()


def test_the_click_and_final_labels_are_as_without_it() -> None:
    rows = example()
    final = rows | {"arrival": torch.where(rows["arrival"] == int(Arrival.OPEN), 0, rows["arrival"])}
    plain, found = losses_of(rows, is_early=False), losses_of(final)
    assert torch.equal(found.per_task, plain.per_task)
    assert losses_of(rows).per_task[0] == plain.per_task[0]
    assert losses_of(rows).per_task[1] != plain.per_task[1]
    assert plain.late == 0


@pytest.mark.parametrize(("p", "late_share"), [(0.3, 0.5), (0.02, 0.9), (0.6, 0.05)])
def test_the_expected_loss_is_that_on_final_labels(p: float, late_share: float) -> None:
    """[PROPERTY] For any prediction, with the true probability that a 0 at the cutoff becomes 1."""
    came = p * late_share
    zeros = 1 - p + came
    g = came / zeros
    labels = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    arrival = torch.full((2, 1), int(Arrival.OPEN), dtype=torch.uint8)
    late = torch.full((2, 1), math.log(g / (1 - g)), dtype=torch.float64)
    expected = ExpectedLabels(tasks())(labels, arrival, late)[:, 1]
    for a in (-3.0, math.log(p / (1 - p)), 2.0):
        logit = torch.tensor(a, dtype=torch.float64)
        one, zero = torch.nn.functional.softplus(-logit), torch.nn.functional.softplus(logit)
        early = (p - came) * (expected[0] * one + (1 - expected[0]) * zero)
        early = early + zeros * (expected[1] * one + (1 - expected[1]) * zero)
        torch.testing.assert_close(early, p * one + (1 - p) * zero)
        missing_for_negative = (p - came) * one + zeros * zero
        assert (missing_for_negative - early).abs() > 1e-3 * early


def test_gradient_in_double_precision() -> None:
    rows = example()
    keep = slice(0, len(ROWS))
    labels, arrival, late = rows["labels"][keep].double(), rows["arrival"][keep], rows["late"][keep].double()
    expected = ExpectedLabels(tasks())

    def loss(logits: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, expected(labels, arrival, late))

    def of_head(late: Tensor) -> Tensor:
        return expected.late_loss(
            late, arrival, rows["weight"][keep].double().unsqueeze(1).expand(-1, 2), torch.ones(2)
        )

    assert torch.autograd.gradcheck(loss, (rows["logits"][keep].double().requires_grad_(),))
    assert torch.autograd.gradcheck(of_head, (late.requires_grad_(),))


def test_the_labels_give_the_late_head_no_gradient() -> None:
    rows = {name: value[:-1] for name, value in example().items()}
    logits, late = rows["logits"].requires_grad_(), rows["late"].requires_grad_()
    found = losses_of(rows)
    found.per_task_with_grad.sum().backward(retain_graph=True)
    assert late.grad is None
    assert logits.grad is not None
    assert logits.grad[: len(ROWS), 1].all()
    found.total.backward()
    known = torch.tensor([bool(a & Arrival.KNOWN) for _, a in ROWS] + [False])
    assert late.grad is not None
    assert (late.grad[:, 0] != 0).eq(known).all()
