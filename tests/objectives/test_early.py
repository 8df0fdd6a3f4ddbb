"""Labels that may not have arrived yet, and the head that knows how many have (docs/losses.md)."""

import math

import pytest
import torch
from torch import Tensor

from raymtl.config.early_labels import Arrival, EarlyLabels
from raymtl.config.losses import OwnLoss, TaskLossTerms
from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.objectives.early import ArrivedLabels
from raymtl.objectives.losses import Losses, TaskLosses

OPEN, IN_TIME, LATE, FINAL = Arrival.OPEN, Arrival.IN_TIME, Arrival.LATE, Arrival(0)
ROWS = [(1, OPEN), (0, OPEN), (1, LATE), (0, FINAL), (1, IN_TIME), (0, OPEN)]
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
    logits, odds = torch.randn(rows, 3, generator=draw).tensor_split((2,), 1)
    labels = torch.tensor([[1.0, y] for y, _ in ROWS] + [[0.0, math.nan], [math.nan, math.nan]])
    observed = torch.ones(rows, 2).bool()
    observed[-2, 1] = observed[-1, 0] = observed[-1, 1] = False
    arrival = torch.tensor([[int(a)] for _, a in ROWS] + [[int(Arrival.OPEN)], [0]], dtype=torch.uint8)
    logits[-1] = odds[-1] = math.nan
    weight = torch.rand(rows, generator=draw) + 0.5
    weight[-1] = 0
    valid = torch.ones(rows).bool()
    valid[-1] = False
    return {
        "logits": logits, "labels": labels, "observed": observed, "weight": weight, "valid": valid, "arrival": arrival,
        "odds": odds,
    }  # fmt: skip


def losses_of(rows: dict[str, Tensor], own: float = 1.0, weight: float = 1.0, is_early: bool = True) -> Losses:
    counted = TaskLosses.counts(rows["observed"], rows["weight"], rows["valid"])
    return TaskLosses(tasks(own, weight), OrderLoss())(
        rows["logits"], rows["labels"], rows["observed"], rows["weight"], rows["valid"], counted[:-1], counted[-1],
        early=(rows["arrival"], rows["odds"]) if is_early else None,
    )  # fmt: skip


def test_value_by_hand() -> None:
    rows = example()
    found = losses_of(rows, own=0.7, weight=3.0)
    each, head, weights = 0.0, 0.0, rows["weight"][: len(ROWS)]
    for n, (y, arrival) in enumerate(ROWS):
        f, a, w = sigma(rows["logits"][n, 1].item()), sigma(rows["odds"][n, 0].item()), weights[n].item()
        f = f * a if arrival is OPEN else f
        each += w * (-math.log(f) if y else -math.log(1 - f))
        head -= w * (math.log(a) if arrival is IN_TIME else math.log(1 - a) if arrival is LATE else 0)
    total = len(ROWS)  # the labels that count; their mean weight was not measured
    assert found.per_task[1].item() == pytest.approx(0.7 * each / total, rel=1e-5)
    assert found.arrival.item() == pytest.approx(head / total, rel=1e-5)
    assert found.total.item() == pytest.approx(
        (found.per_task[0] + 3 * found.per_task[1] + found.arrival).item(), rel=1e-5
    )
    assert found.penalties.item() == found.arrival.item()


def test_the_click_and_final_labels_are_as_without_it() -> None:
    rows = example()
    final = rows | {"arrival": torch.where(rows["arrival"] == int(OPEN), 0, rows["arrival"])}
    plain, found = losses_of(rows, is_early=False), losses_of(final)
    assert torch.equal(found.per_task, plain.per_task)
    assert losses_of(rows).per_task[0] == plain.per_task[0]
    assert losses_of(rows).per_task[1] != plain.per_task[1]
    assert plain.arrival == 0


def early_loss(p: float, a: float, logit: Tensor) -> Tensor:
    """The expected loss of an early label whose final one is 1 with probability p, and has arrived with a."""
    z, arrival = torch.zeros((), dtype=torch.float64), torch.full((1, 1), int(OPEN), dtype=torch.uint8)
    odds = torch.full((1, 1), math.log(a / (1 - a)), dtype=torch.float64)
    found = ArrivedLabels(tasks())(torch.stack((z, logit)).unsqueeze(0), arrival, odds)[0, 1]
    return p * a * torch.nn.functional.softplus(-found) + (1 - p * a) * torch.nn.functional.softplus(found)


@pytest.mark.parametrize(("p", "a"), [(0.3, 0.5), (0.02, 0.1), (0.6, 0.95)])
def test_the_least_loss_is_at_the_true_probability(p: float, a: float) -> None:
    """[PROPERTY] With the true share that has arrived; missing labels taken for negatives have it at p · a."""

    def slope(at: float) -> float:
        logit = torch.tensor(math.log(at / (1 - at)), dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(early_loss(p, a, logit), logit)
        return found.item()

    assert slope(p) == pytest.approx(0, abs=1e-12)
    assert slope(0.9 * p) < -1e-5
    assert slope(p + 0.1 * (1 - p)) > 1e-5
    as_negatives = torch.tensor(math.log(p * a / (1 - p * a)), dtype=torch.float64, requires_grad=True)
    naive = p * a * torch.nn.functional.softplus(-as_negatives) + (1 - p * a) * torch.nn.functional.softplus(
        as_negatives
    )
    assert torch.autograd.grad(naive, as_negatives)[0].item() == pytest.approx(0, abs=1e-12)


def test_its_gradient_is_that_of_the_expected_label() -> None:
    """As in the EM of Chapelle (KDD 2014): 1 of a 1, and of a 0 the probability that it is a 1 that has not arrived."""
    a = 0.3
    for y in (0.0, 1.0):
        logit = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
        arrival, odds = (
            torch.full((1, 1), int(OPEN), dtype=torch.uint8),
            torch.full((1, 1), math.log(a / (1 - a)), dtype=torch.float64),
        )
        found = ArrivedLabels(tasks())(torch.stack((logit, logit)).unsqueeze(0), arrival, odds)[0, 1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(found, torch.tensor(y, dtype=torch.float64))
        (slope,) = torch.autograd.grad(loss, logit)
        f = sigma(-0.7)
        expected = 1.0 if y else f * (1 - a) / (1 - f * a)
        assert slope.item() == pytest.approx(f - expected, rel=1e-9)


def test_gradient_in_double_precision() -> None:
    rows, keep = example(), slice(0, len(ROWS))
    labels, arrival, odds = rows["labels"][keep].double(), rows["arrival"][keep], rows["odds"][keep].double()
    early = ArrivedLabels(tasks())
    weights = rows["weight"][keep].double().unsqueeze(1).expand(-1, 2)

    def loss(logits: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(early(logits, arrival, odds.detach()), labels)

    def of_head(odds: Tensor) -> Tensor:
        return early.arrival_loss(odds, arrival, weights, torch.ones(2))

    assert torch.autograd.gradcheck(loss, (rows["logits"][keep].double().requires_grad_(),))
    assert torch.autograd.gradcheck(of_head, (odds.requires_grad_(),))


def test_the_labels_give_the_arrival_head_no_gradient() -> None:
    rows = {name: value[:-1] for name, value in example().items()}
    logits, odds = rows["logits"].requires_grad_(), rows["odds"].requires_grad_()
    found = losses_of(rows)
    found.per_task_with_grad.sum().backward(retain_graph=True)
    assert odds.grad is None
    assert logits.grad is not None
    assert logits.grad[: len(ROWS), 1].all()
    found.total.backward()
    known = torch.tensor([bool(a & (IN_TIME | LATE)) for _, a in ROWS] + [False])
    assert odds.grad is not None
    assert (odds.grad[:, 0] != 0).eq(known).all()


def test_a_row_that_is_padding_gives_no_gradient() -> None:
    rows = example()
    logits, odds = rows["logits"].requires_grad_(), rows["odds"].requires_grad_()
    losses_of(rows).total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert odds.grad is not None
    assert odds.grad.isfinite().all()
    assert not logits.grad[-1].any()
