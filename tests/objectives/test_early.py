"""Losses of labels that are not final: ES-DFM, FNW and FNC (docs/losses.md)."""

import math

import pytest
import torch
from torch import Tensor

from raymtl.config.early_labels import Arrival, EarlyLabels
from raymtl.config.losses import OwnLoss, TaskLossTerms
from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.objectives.early import EarlyLosses
from raymtl.objectives.losses import Losses, TaskLosses

CORRECTIONS = ("es_dfm", "fnw", "fnc")
CAME = Arrival.KNOWN | Arrival.CAME | Arrival.TRAINED
STAYED = Arrival.KNOWN | Arrival.TRAINED
OPEN, FINAL, ARRIVED = Arrival.OPEN, Arrival(0), Arrival.TRAINED
TWICE = Arrival.KNOWN | Arrival.CAME | Arrival.TWICE


def tasks(correction: str, weight: float = 1.0) -> dict[str, Task]:
    early = EarlyLabels(time="buy_time", correction=correction)  # type: ignore[arg-type]
    buy = Task(parent="click", delay_days=3, early_labels=early, losses=TaskLossTerms(own=OwnLoss(weight=weight)))
    return {"click": Task(), "buy": buy}


def sigma(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def by_hand(correction: str, label: int, arrival: Arrival, logit: float, late: float) -> float:
    """The loss of one label, from probabilities."""
    f, g = sigma(logit), sigma(late)
    one, zero, b = -math.log(f), -math.log(1 - f), f / (1 + f)
    if arrival & Arrival.TRAINED and not arrival & Arrival.CAME:
        return 0.0
    late_one = -math.log(b) if correction == "fnc" else one
    if arrival & Arrival.TRAINED:
        return late_one
    if not arrival & Arrival.OPEN:
        return (one if label else zero) + (late_one if arrival & Arrival.TWICE and arrival & Arrival.CAME else 0)
    if correction == "es_dfm":
        return one if label else (1 - g) * zero
    if correction == "fnw":
        return (one if label else 0) + (1 - f) * zero
    return (-math.log(b) if label else 0) - math.log(1 - b)


ROWS = [
    *[(1, OPEN), (0, OPEN), (1, CAME), (0, STAYED), (1, ARRIVED), (1, FINAL), (0, FINAL), (0, Arrival.KNOWN)],
    *[(1, TWICE), (0, Arrival.KNOWN | Arrival.TWICE), (1, Arrival.TWICE), (1, Arrival.KNOWN | Arrival.CAME)],
]


def example(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The rows of `ROWS`, one whose buy is not observed, and padding that holds NaN."""
    draw = torch.Generator().manual_seed(5)
    rows = len(ROWS) + 2
    logits, late = torch.randn(rows, 3, generator=draw, dtype=dtype).tensor_split((2,), 1)
    labels = torch.tensor([[1.0, y] for y, _ in ROWS] + [[0.0, math.nan], [math.nan, math.nan]])
    observed = torch.ones(rows, 2).bool()
    observed[-2, 1] = observed[-1, 0] = observed[-1, 1] = False
    arrival = torch.tensor([[int(a)] for _, a in ROWS] + [[int(OPEN)], [0]], dtype=torch.uint8)
    logits[-1] = late[-1] = math.nan
    weight = torch.rand(rows, generator=draw) + 0.5
    weight[-1] = 0
    valid = torch.ones(rows).bool()
    valid[-1] = False
    return {
        "logits": logits, "labels": labels, "observed": observed, "weight": weight, "valid": valid, "arrival": arrival,
        "late": late,
    }  # fmt: skip


def losses_of(correction: str, rows: dict[str, Tensor], own: float = 1.0) -> Losses:
    made = TaskLosses(tasks(correction, own), OrderLoss())
    counted = TaskLosses.counts(rows["observed"], rows["weight"], rows["valid"])
    late = rows["late"] if correction == "es_dfm" else rows["late"][:, :0]
    return made(
        rows["logits"], rows["labels"], rows["observed"], rows["weight"], rows["valid"], counted[:-1], counted[-1],
        early=(rows["arrival"], late),
    )  # fmt: skip


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_value_by_hand(correction: str) -> None:
    rows = example()
    found = losses_of(correction, rows, own=0.7)
    weights = rows["weight"][: len(ROWS)]
    each = [
        by_hand(correction, y, a, rows["logits"][n, 1].item(), rows["late"][n, 0].item())
        for n, (y, a) in enumerate(ROWS)
    ]
    # rows that were trained on count in the denominator, as in the reading before: a late 1 weighs what an early one does
    mean = sum(w.item() * e for w, e in zip(weights, each, strict=True)) / weights.sum().item()
    assert found.per_task[1].item() == pytest.approx(0.7 * mean, rel=1e-5)
    late = 0.0
    if correction == "es_dfm":
        known = [n for n, (_, a) in enumerate(ROWS) if a & Arrival.KNOWN]
        for n in known:
            g = sigma(rows["late"][n, 0].item())
            late -= weights[n].item() * math.log(g if ROWS[n][1] & Arrival.CAME else 1 - g) / weights.sum().item()
    assert found.late.item() == pytest.approx(late, rel=1e-5)
    assert found.total.item() == pytest.approx(found.per_task.sum().item() + late, rel=1e-5)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_the_click_is_as_without_early_labels(correction: str) -> None:
    rows = example()
    plain = dict.fromkeys(("arrival",), torch.zeros_like(rows["arrival"]))
    assert losses_of(correction, rows).per_task[0] == losses_of(correction, rows | plain).per_task[0]


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_gradient_in_double_precision(correction: str) -> None:
    rows = example(torch.float64)
    early = EarlyLosses(tasks(correction))
    keep = slice(0, len(ROWS))
    labels, arrival, late = rows["labels"][keep].double(), rows["arrival"][keep], rows["late"][keep]

    def loss(logits: Tensor) -> Tensor:
        own = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return early(own, logits, labels, arrival, late)[:, 1]

    logits = rows["logits"][keep].requires_grad_()
    if correction == "fnw":  # its weight is the prediction, without gradient: fixed at these logits
        weight = torch.sigmoid(-logits.detach()[:, 1])
        (found,) = torch.autograd.grad(loss(logits).sum(), logits)
        as_zero = [a == OPEN for _, a in ROWS]
        fixed = torch.where(torch.tensor(as_zero), weight * torch.nn.functional.softplus(logits[:, 1]), 0.0)
        ones = torch.tensor([y == 1 and a in (OPEN, CAME) for y, a in ROWS])
        fixed = fixed + torch.where(ones, torch.nn.functional.softplus(-logits[:, 1]), 0.0)
        fixed = fixed + torch.where(
            torch.tensor([a == TWICE for _, a in ROWS]), torch.nn.functional.softplus(-logits[:, 1]), 0
        )
        settled = torch.tensor([not a & (Arrival.OPEN | Arrival.TRAINED) for _, a in ROWS])
        plain = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1], labels[:, 1], reduction="none")
        (expected,) = torch.autograd.grad((fixed + torch.where(settled, plain, 0.0)).sum(), logits)
        torch.testing.assert_close(found, expected)
    else:
        assert torch.autograd.gradcheck(loss, (logits,))


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("before", ["trained", "not trained"])
@pytest.mark.parametrize(("p", "late_share"), [(0.3, 0.5), (0.02, 0.9), (0.6, 0.05)])
def test_both_readings_together_have_their_minimum_at_the_true_probability(
    correction: str, p: float, late_share: float, before: str
) -> None:
    """[PROPERTY] In expectation the gradient is 0 at p, and leads back to it from both sides."""
    early, came = EarlyLosses(tasks(correction)), p * late_share
    zeros = 1 - p + came
    g = came / zeros
    early_rows = [(1, OPEN, p - came), (0, OPEN, zeros)]  # label, arrival, how often
    # those of an earlier day, whose 1s that came late stand for today's, trained on early or not
    again = {
        "trained": [(1, CAME, came), (0, STAYED, 1 - p), (1, ARRIVED, p - came)],
        "not trained": [(1, TWICE, came), (0, Arrival.KNOWN | Arrival.TWICE, 1 - p), (1, Arrival.TWICE, p - came)],
    }
    cases = early_rows + again[before]

    def gradient(at: float) -> float:
        logits = torch.full((len(cases), 2), math.log(at / (1 - at)), dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([[0.0, y] for y, _, _ in cases], dtype=torch.float64)
        own = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        arrival = torch.tensor([[int(a)] for _, a, _ in cases], dtype=torch.uint8)
        late = torch.full((len(cases), 1), math.log(g / (1 - g)), dtype=torch.float64)
        rows = early(own, logits, labels, arrival, late)[:, 1]
        often = torch.tensor([share for _, _, share in cases], dtype=torch.float64)
        (found,) = torch.autograd.grad((rows * often).sum(), logits)
        return found[:, 1].sum().item()

    assert gradient(p) == pytest.approx(0, abs=1e-12)
    assert gradient(0.9 * p) < -1e-5
    assert gradient(p + 0.1 * (1 - p)) > 1e-5


def test_missing_for_negative_is_biased() -> None:
    """What the corrections are for: the early labels alone have their minimum at the share that has arrived."""
    p, came = 0.3, 0.15
    at = torch.tensor(math.log((p - came) / (1 - p + came)), dtype=torch.float64, requires_grad=True)
    loss = (p - came) * torch.nn.functional.softplus(-at) + (1 - p + came) * torch.nn.functional.softplus(at)
    (found,) = torch.autograd.grad(loss, at)
    assert found.item() == pytest.approx(0, abs=1e-12)


def test_no_gradient_reaches_the_late_head_through_the_weights() -> None:
    rows = example()
    rows["late"] = rows["late"][:-1].requires_grad_()
    kept = {name: value[:-1] if name != "late" else value for name, value in rows.items()}
    kept["logits"].requires_grad_()
    found = losses_of("es_dfm", kept)
    found.per_task_with_grad.sum().backward(retain_graph=True)
    assert rows["late"].grad is None or not rows["late"].grad.any()
    found.total.backward()
    known = torch.tensor([bool(a & Arrival.KNOWN) for _, a in ROWS] + [False])
    assert (rows["late"].grad[:, 0] != 0).eq(known).all()  # type: ignore[index]
