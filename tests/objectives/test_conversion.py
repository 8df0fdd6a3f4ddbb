"""ESCM²-IPS: the loss of P(child | parent) on the parent's rows, weighted by the inverse propensity (docs/losses.md)."""

import math

import pytest
import torch
from torch import Tensor

from raymtl.config.slots.penalties import ConversionLoss
from raymtl.config.tasks import Task
from raymtl.objectives.conversion import ConversionRisk

TASKS = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="cart", normalizer_floor=0.0)}
EDGES = [("cart", "click"), ("buy", "cart")]


def sigma(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def example(rows: int = 7) -> dict[str, Tensor]:
    """Rows with every combination: no event, not observed, padding that holds NaN."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]).float()[:rows]
    observed = torch.ones(rows, 3).bool()
    observed[4, 2] = observed[5, 1] = False
    labels[4, 2] = math.nan
    valid = torch.ones(rows).bool()
    valid[-1] = False
    logits = 2 * torch.randn(rows, 5, generator=draw, dtype=torch.float64) - 1
    logits[-1] = math.nan
    weight = torch.rand(rows, generator=draw, dtype=torch.float64) + 0.5
    normalizer = ((observed & valid.unsqueeze(1)) * weight.unsqueeze(1)).sum(0)
    return {
        "logits": logits,
        "labels": labels,
        "observed": observed,
        "weight": weight,
        "valid": valid,
        "normalizer": normalizer,
    }


def by_hand(rows: dict[str, Tensor], weight: float, clip: float) -> float:
    total = 0.0
    for edge, (child, parent) in enumerate([(1, 0), (2, 1)]):
        for i in range(len(rows["labels"])):
            known = rows["valid"][i] and rows["observed"][i, child] and rows["observed"][i, parent]
            if not known or rows["labels"][i, parent] == 0:
                continue
            y, p = float(rows["labels"][i, child]), sigma(float(rows["logits"][i, 3 + edge]))
            error = -y * math.log(p) - (1 - y) * math.log(1 - p)
            propensity = max(sigma(float(rows["logits"][i, parent])), clip)
            total += float(rows["weight"][i]) * error / propensity / float(rows["normalizer"][child])
    return weight * total


@pytest.mark.parametrize("clip", [1.0, 0.3, 0.05])
def test_value_by_hand(clip: float) -> None:
    rows = example()
    risk = ConversionRisk(TASKS, EDGES, ConversionLoss(weight=0.7, min_propensity=clip))
    assert risk(**rows).item() == pytest.approx(by_hand(rows, 0.7, clip), rel=1e-6)


def test_gradient_in_double_precision_reaches_the_conditional_heads_alone() -> None:
    rows = example(6)
    rows["logits"] = rows["logits"].nan_to_num().requires_grad_()
    risk = ConversionRisk(TASKS, EDGES, ConversionLoss(weight=1.0, min_propensity=0.2))

    def of_conditional(own: Tensor) -> Tensor:
        return risk(**rows | {"logits": torch.cat((rows["logits"][:, :3].detach(), own), 1)})

    own = rows["logits"][:, 3:].detach().requires_grad_()
    assert torch.autograd.gradcheck(of_conditional, (own,))
    risk(**rows).backward()
    assert rows["logits"].grad is not None
    assert not rows["logits"].grad[:, :3].any()  # the propensity is a weight, not something to learn
    assert rows["logits"].grad[:, 3:].any()


def test_parts_of_a_batch_on_two_workers_mean_the_whole() -> None:
    rows = example()
    risk = ConversionRisk(TASKS, EDGES, ConversionLoss(weight=1.0, min_propensity=0.05))
    parts = [
        {name: value if name == "normalizer" else value[cut] for name, value in rows.items()}
        for cut in (slice(0, 2), slice(2, None))
    ]
    assert sum(risk(**part, workers=2) for part in parts).item() / 2 == pytest.approx(risk(**rows).item(), rel=1e-6)


def test_no_label_anywhere_costs_nothing() -> None:
    rows = example()
    rows |= {"observed": torch.zeros_like(rows["observed"]), "normalizer": torch.zeros(3)}
    rows["logits"] = rows["logits"].nan_to_num().requires_grad_()
    risk = ConversionRisk(TASKS, EDGES, ConversionLoss(weight=1.0))(**rows)
    risk.backward()
    assert risk.item() == 0
    assert rows["logits"].grad is not None
    assert not rows["logits"].grad.any()


def test_inverse_propensities_make_the_clicked_rows_stand_for_all() -> None:
    # Two kinds of rows: of those rarely clicked few convert. On clicked rows alone their mean error counts too little.
    click = torch.tensor([0.8, 0.1]).logit().repeat_interleave(20_000)
    labels = torch.zeros(len(click), 2)
    draw = torch.Generator().manual_seed(0)
    labels[:, 0] = torch.rand(len(click), generator=draw) < click.sigmoid()
    own = torch.tensor([1.0, -3.0]).repeat_interleave(20_000)
    logits = torch.stack((click, click, own), 1)
    ones = torch.ones(len(click))
    rows = (logits, labels, torch.ones_like(labels).bool(), ones, ones.bool(), torch.tensor([40_000.0, 40_000.0]))
    tasks = {"click": Task(), "buy": Task(parent="click")}
    found = ConversionRisk(tasks, [("buy", "click")], ConversionLoss(weight=1.0, min_propensity=0.01))(*rows)
    everywhere = torch.nn.functional.softplus(own).mean()  # the cross entropy of every row, had all been clicked
    assert found.item() == pytest.approx(everywhere.item(), rel=0.02)
