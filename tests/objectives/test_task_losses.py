"""The losses of a task in `TaskLosses`: sums, weights, normalisers over workers, lower bounds and start losses."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.data.batch import comparable_rows
from raymtl.objectives.balance.base import BalanceContext
from raymtl.objectives.balance.start import start_loss
from raymtl.objectives.losses import Losses, TaskLosses

REQUESTS = [1, 1, 1, 5, 5, 2, 2, 2, 9, 0, 0, 0]
"""Lists of twelve rows; those of list 2 have one label, list 9 is one row, and the last three are padding."""
CLICKS = [1.0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0]


def task(**losses: Any) -> Task:
    return Task.model_validate({"losses": losses})


def rows(tasks: int = 1, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(12, tasks, generator=g),
        "labels": torch.tensor(CLICKS).unsqueeze(1).repeat(1, tasks),
        "observed": torch.ones(12, tasks, dtype=torch.bool),
        "weight": torch.ones(12),
        "valid": torch.arange(12) < 9,
        "lists": torch.tensor(REQUESTS).unsqueeze(1),
    }


def counts(losses: TaskLosses, x: dict[str, Tensor], lists: int) -> Tensor:
    """As the collator makes them, for losses over one kind of list of the first `lists` tasks."""
    own = losses.counts(x["observed"], x["weight"], x["valid"]).double()
    weight = x["weight"].reshape(12, -1) * x["observed"] * x["valid"].unsqueeze(1)
    more = [
        comparable_rows(x["lists"][:, 0].numpy(), x["labels"][:, t].numpy(), weight[:, t].numpy() > 0)
        for t in range(lists)
    ]
    return torch.cat((own[:-1], torch.tensor(more, dtype=torch.float64), own[-1:]))


def cost(
    tasks: dict[str, Task], x: dict[str, Tensor], lists: int, totals: Tensor | None = None, workers: int = 1
) -> Losses:
    losses = TaskLosses(tasks, OrderLoss())
    totals = counts(losses, x, lists) if totals is None else totals
    return losses(**x, normalizer=totals[:-1], valid_rows=totals[-1], workers=workers)


def test_losses_of_a_task_are_added_with_their_weights() -> None:
    x = rows()
    a, y = x["logits"][:9, 0], x["labels"][:9, 0]
    own = F.binary_cross_entropy_with_logits(a, y).item()
    first = (F.softplus(a[1] - a[0]) + F.softplus(a[2] - a[0])).item() / 2
    second = F.softplus(a[4] - a[3]).item()
    pairs = (3 * first + 2 * second) / 5  # lists weigh as their rows; the third has no two labels
    listwise = (3 * F.cross_entropy(a[:3], torch.tensor(0)) + 2 * F.cross_entropy(a[3:5], torch.tensor(0))).item() / 5
    p_t = torch.where(y == 1, a.sigmoid(), 1 - a.sigmoid())
    focal = (-((1 - p_t) ** 2) * p_t.log()).mean().item()
    for losses, expected, lists in (
        ({"ranknet": {"weight": 0.5}}, own + 0.5 * pairs, 1),
        ({"ranknet": {}, "listwise": {"weight": 3.0}}, own + pairs + 3 * listwise, 1),
        ({"own": {"weight": 0.1}, "listwise": {}}, 0.1 * own + listwise, 1),
        ({"own": None, "focal": {"weight": 2.0}}, 2 * focal, 0),
        ({"own": {"smoothing": 0.2}}, F.binary_cross_entropy_with_logits(a, 0.8 * y + 0.1).item(), 0),
    ):
        assert cost({"t": task(**losses)}, x, lists).per_task.tolist() == pytest.approx([expected], rel=1e-5)


def test_only_the_tasks_that_have_them_change() -> None:
    x = rows(3)
    plain = cost({name: Task() for name in "abc"}, x, 0).per_task
    mixed = cost(
        {"a": Task(), "b": task(ranknet={}), "c": Task()}, x | {"labels": x["labels"]}, 0, _with(x, 1)
    ).per_task
    assert mixed[[0, 2]].tolist() == plain[[0, 2]].tolist()
    alone = cost(
        {"b": task(ranknet={})}, {n: v[:, 1:2] if v.dim() == 2 and n != "lists" else v for n, v in x.items()}, 1
    )
    assert mixed[1].item() == pytest.approx(alone.per_task.item(), rel=1e-6)


def _with(x: dict[str, Tensor], column: int) -> Tensor:
    """Totals with the normaliser of the lists of one task."""
    own = TaskLosses({name: Task() for name in "abc"}, OrderLoss()).counts(x["observed"], x["weight"], x["valid"])
    w = (x["weight"] * x["valid"]).numpy()
    more = comparable_rows(x["lists"][:, 0].numpy(), x["labels"][:, column].numpy(), w > 0)
    return torch.cat((own[:-1], torch.tensor([more]), own[-1:]))


def test_workers_share_the_normaliser_where_no_list_is_cut() -> None:
    tasks = {"t": task(ranknet={}, listwise={"weight": 0.5})}
    x = rows()
    whole = cost(tasks, x, 1)
    totals = counts(TaskLosses(tasks, OrderLoss()), x, 1)
    parts = [cost(tasks, {n: v[start:stop] for n, v in x.items()}, 1, totals, 2) for start, stop in ((0, 3), (3, 12))]
    assert sum(part.total.item() for part in parts) / 2 == pytest.approx(whole.total.item(), rel=1e-6)


def test_weights_of_a_task_and_rows_that_do_not_count() -> None:
    x = rows(2)
    x["weight"] = torch.rand(12, 2, generator=torch.Generator().manual_seed(1))
    x["weight"][1, 0] = 0
    x["observed"][4, 0] = False
    x["logits"][4, 0] = x["labels"][4, 0] = torch.nan
    tasks = {"a": task(ranknet={}), "b": task(ranknet={})}
    x["logits"][1, 0] = 1e4  # of weight 0, but observed: it must be a number
    found = cost(tasks, x, 2)
    a, y, w = x["logits"][:9, 0], x["labels"][:9, 0], x["weight"][:9, 0]
    kept = torch.tensor([0, 2, 3, 5, 6, 7, 8])
    own = (F.binary_cross_entropy_with_logits(a[kept], y[kept], reduction="none") * w[kept]).sum() / len(kept)
    pairs = F.softplus(a[2] - a[0])  # of list 5 the only row that counts has no partner
    weight = w[0] + w[2]
    expected = own + pairs * weight / 2
    assert found.per_task[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_list_to_compare_is_a_loss_of_zero_with_a_gradient() -> None:
    x = rows()
    x["labels"] = torch.zeros(12, 1)
    x["logits"].requires_grad_()
    plain, ranked = (cost({"t": task(**losses)}, x, len(losses)) for losses in ({}, {"ranknet": {}}))
    assert ranked.total.item() == pytest.approx(plain.total.item())
    ranked.total.backward()
    assert x["logits"].grad is not None
    assert x["logits"].grad.isfinite().all()


def test_lower_bound_is_that_of_all_losses() -> None:
    x = rows()
    tasks = {"t": task(own={"smoothing": 0.2, "weight": 2.0}, listwise={}, ranknet={})}
    losses = TaskLosses(tasks, OrderLoss())
    totals = counts(losses, x, 1)
    arguments = {name: value for name, value in x.items() if name != "logits"}
    entropy = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    least = losses.lower_bound(**arguments, normalizer=totals[:-1])
    assert least.item() == pytest.approx(2 * entropy, rel=1e-5)
    x["labels"][1] = 1.0  # half of the clicks of the first list each
    totals = counts(losses, x, 1)
    arguments["labels"] = x["labels"]
    least = losses.lower_bound(**arguments, normalizer=totals[:-1])
    assert least.item() == pytest.approx(2 * entropy + 3 * math.log(2) / 5, rel=1e-5)
    for seed in range(5):
        x["logits"] = rows(seed=seed)["logits"] * 3
        assert (cost(tasks, x, 1, totals).per_task >= least).all()


def test_start_loss_of_a_task_is_that_of_all_its_losses() -> None:
    def found(**losses: Any) -> float | None:
        tasks = {"t": task(**losses)}
        return start_loss("t", tasks["t"], BalanceContext(tasks, {"t": 0.1}))

    entropy = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert found() == pytest.approx(entropy)
    assert found(own={"weight": 2.0}, ranknet={"weight": 0.5}) == pytest.approx(2 * entropy + 0.5 * math.log(2))
    assert found(listwise={}) is None, "it depends on the lengths of the lists, so it is measured"
    a = torch.full((10,), math.log(0.1 / 0.9))
    y = torch.tensor([1.0] + [0.0] * 9)
    smooth = F.binary_cross_entropy_with_logits(torch.full((10,), math.log(0.14 / 0.86)), 0.9 * y + 0.05).item()
    least = -(0.05 * math.log(0.05) + 0.95 * math.log(0.95))
    assert found(own={"smoothing": 0.1}) == pytest.approx(smooth - least, rel=1e-5)
    assert found(own=None, focal={"gamma": 0.0}) == pytest.approx(
        F.binary_cross_entropy_with_logits(a, y).item(), rel=1e-5
    )


def test_gradients_of_the_sum_in_double_precision() -> None:
    """Against differences, since `TaskLosses` computes in fp32."""
    x = rows()
    tasks = {"t": task(own={"smoothing": 0.1}, focal={}, ranknet={}, listwise={})}
    x["logits"].requires_grad_()
    totals = counts(TaskLosses(tasks, OrderLoss()), x, 1)
    cost(tasks, x, 1, totals).total.backward()
    with torch.no_grad():
        for row in range(12):
            up, down = (
                x["logits"].detach().clone().index_add(0, torch.tensor([row]), torch.tensor([[d]]))
                for d in (1e-2, -1e-2)
            )
            slope = (
                cost(tasks, x | {"logits": up}, 1, totals).total - cost(tasks, x | {"logits": down}, 1, totals).total
            ) / 2e-2
            assert x["logits"].grad[row].item() == pytest.approx(slope.item(), abs=3e-4)
