"""AIT: the formula, and A1 to A9 (docs/formulas.md §5); A10 is in test_ait_cross.py."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.models.couplers.ait import AIT, attend, funnel_levels
from raymtl.models.inputs import InputSpec
from raymtl.models.slots import Context
from raymtl.objectives.losses import TaskLosses
from tests.helpers.model_zoo import FUNNEL, TREE, labels, make, rows, stir, stirred

K = 5


def coupler(tasks: dict[str, Task], seed: int = 0, **options: Any) -> AIT:
    return stir(AIT(Context(tasks, InputSpec({}), len(tasks), K), width=K, **options), seed)


def written_out(ait: AIT, tasks: dict[str, Task], q: Tensor) -> Tensor:
    """The recursion of the paper, task by task."""
    names, z = list(tasks), {}
    levels, _ = funnel_levels(tasks)
    transition = {names[t]: i for i, t in enumerate(t for level in levels[1:] for t in level)}
    for i, (name, task) in enumerate(tasks.items()):
        if task.parent is None:
            z[name] = q[:, i]
            continue
        depth, position = next((d, level.index(i)) for d, level in enumerate(levels) if i in level)
        info = ait.transfer.info[depth - 1]
        p = (z[task.parent] @ info.weight[position].T + info.bias[position]).relu()
        h1, h2, h3 = ait.transfer.attention[transition[name] if len(ait.transfer.attention) > 1 else 0]
        scores = torch.stack([((u @ h2.T) * (u @ h3.T)).sum(1) / math.sqrt(K) for u in (p, q[:, i])], 1).softmax(1)
        z[name] = scores[:, :1] * (p @ h1.T) + scores[:, 1:] * (q[:, i] @ h1.T)
    return torch.stack([z[n] @ ait.head.weight[i] + ait.head.bias[i] for i, n in enumerate(names)], 1)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tasks", [FUNNEL, TREE], ids=["chain", "tree"])
def test_equals_the_paper_written_out(tasks: dict[str, Task], share: bool) -> None:
    ait, q = coupler(tasks, share_attention=share), torch.randn(20, len(tasks), K)
    torch.testing.assert_close(ait(q), written_out(ait, tasks, q))
    bias = torch.randn(20, len(tasks))
    torch.testing.assert_close(ait(q, bias), written_out(ait, tasks, q) + bias)


def test_levels_of_a_tree() -> None:
    levels, parents = funnel_levels(TREE)
    assert levels == [[0, 1, 6], [2, 3, 4], [5]]
    assert parents == [[], [1, 1, 0], [0]]


def maps(seed: int = 0) -> Tensor:
    return torch.randn(1, 3 * K, K, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("autocast", [False, True])
def test_a1_weights_are_a_distribution(autocast: bool) -> None:
    q, p = torch.randn(2, 3, 20, K)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, w = attend(q, p, maps())
    assert w.shape == (2, 3, 20)
    assert w.dtype == torch.float32
    assert (w >= 0).all()
    assert w.std() > 0.1
    torch.testing.assert_close(w.sum(0), torch.ones(3, 20), rtol=0, atol=1e-6)


def test_a2_equal_candidates_share_equally() -> None:
    q = torch.randn(1, 20, K)
    z, w = attend(q, q, maps())
    assert torch.equal(w, torch.full((2, 1, 20), 0.5))
    torch.testing.assert_close(z, q @ maps()[0, :K].T)


def test_a3_without_h2_the_blend_is_uniform() -> None:
    q, p = torch.randn(2, 1, 20, K)
    without = maps()
    without[:, K : 2 * K] = 0
    z, w = attend(q, p, without)
    assert torch.equal(w, torch.full((2, 1, 20), 0.5))
    torch.testing.assert_close(z, (q + p) @ without[0, :K].T / 2)


def penalty(logits: Tensor, tasks: dict[str, Task], alpha: float = 1.0, space: str = "probability") -> Tensor:
    losses = TaskLosses(
        {n: t.model_copy(update={"weight": 0.0}) for n, t in tasks.items()}, OrderLoss(alpha=alpha, space=space)
    )
    n = len(logits)
    return losses(
        logits, torch.zeros_like(logits), torch.zeros_like(logits).bool(), torch.ones(n), torch.ones(n).bool(),
        torch.zeros(len(tasks)), torch.tensor(float(n)),
    ).total  # fmt: skip


def test_a4_order_loss_zero_when_monotone() -> None:
    falling = torch.tensor([[2.0, 1.0, 0.5], [0.0, 0.0, -3.0]], requires_grad=True)
    value = penalty(falling, FUNNEL)
    assert value.item() == 0
    assert not torch.autograd.grad(value, falling)[0].any()
    mixed = torch.tensor([[0.0, 1.0, -1.0], [0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    p = mixed.sigmoid()
    gaps = (p[0, 1] - p[0, 0]) + (p[1, 1] - p[1, 0]) + (p[1, 2] - p[1, 1]) + (p[2, 2] - p[2, 1])
    torch.testing.assert_close(penalty(mixed, FUNNEL), gaps / 3)
    torch.testing.assert_close(penalty(mixed, FUNNEL, alpha=0.6), 0.6 * gaps / 3)
    assert penalty(mixed[:, :1], {"click": Task()}).item() == 0


def test_a5_the_two_candidates_have_no_order() -> None:
    q, p = torch.randn(2, 1, 20, K)
    z, w = attend(q, p, maps())
    z_swapped, w_swapped = attend(p, q, maps())
    torch.testing.assert_close(z_swapped, z)
    torch.testing.assert_close(w_swapped, w.flip(0))
    assert (w[0] - w[1]).abs().max() > 0.1


def test_a6_without_information_z_is_the_damped_tower() -> None:
    ait, q = coupler({"click": Task(), "buy": Task(parent="click")}), torch.randn(20, 2, K)
    for p in ait.transfer.info.parameters():
        p.data.zero_()
    h1, h2, h3 = ait.transfer.attention[0]
    score = ((q[:, 1] @ h2.T) * (q[:, 1] @ h3.T)).sum(1) / math.sqrt(K)
    w_q = (score.exp() / (score.exp() + 1)).unsqueeze(1)  # the score of the zero vector is 0
    z = w_q * (q[:, 1] @ h1.T)
    torch.testing.assert_close(ait(q)[:, 1], z @ ait.head.weight[1] + ait.head.bias[1])


def test_a7_the_first_task_does_not_see_later_towers() -> None:
    model = stirred("aitm")
    logits = model(rows(30))
    for t in range(3):
        for g in torch.autograd.grad(logits[:, t].sum(), list(model.towers.parameters()), retain_graph=True):
            assert [bool(part.any()) for part in g] == [s <= t for s in range(3)]


@pytest.mark.parametrize("stop", [False, True])
def test_a8_stop_gradient_keeps_later_tasks_out_of_earlier_towers(stop: bool) -> None:
    model = stirred("aitm", coupler={"type": "ait", "width": 4, "stop_gradient": stop})
    logits, y = model(rows(64)), labels(64, 3)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 2], y[:, 2])
    for g in torch.autograd.grad(loss, list(model.towers.parameters())):
        assert [bool(part.any()) for part in g] == [not stop, not stop, True]


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_a9_penalty_is_a_mean(space: str) -> None:
    logits = torch.randn(17, 3)
    once = penalty(logits, FUNNEL, space=space)
    assert once > 0
    torch.testing.assert_close(penalty(logits.repeat(4, 1), FUNNEL, space=space), once)


def test_starts_as_the_authors_code() -> None:
    ait = make("aitm", towers={"hidden": [64]}, coupler={"type": "ait", "width": 64}).coupler
    assert ait.transfer.attention.std().item() == pytest.approx(0.01, rel=0.05)
    bound = math.sqrt(6 / 128)  # Glorot
    assert ait.transfer.info[0].weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not ait.transfer.info[0].bias.any()
    assert len(ait.transfer.attention) == 1
    assert ait.head.weight[0].std().item() == pytest.approx(0.01, rel=0.3)
    assert (ait.head.weight[1:].abs().amax(1) > 0.8 * math.sqrt(6 / 65)).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="no task has a `parent`"):
        AIT(Context({"a": Task(), "b": Task()}, InputSpec({}), 2, K), width=K)
    with pytest.raises(ConfigError, match=r"coupler.width is 7 but the towers end at 5"):
        AIT(Context(FUNNEL, InputSpec({}), 3, K), width=7)
