"""AIT's cross form, with any number of predecessors (docs/formulas.md §6), and its order loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.config.wiring import levels, listened_to, order_pairs
from raymtl.errors import ConfigError
from raymtl.models.couplers.ait import AIT
from raymtl.models.couplers.ait_cross import CrossAttention
from raymtl.objectives.losses import TaskLosses
from tests.helpers.model_zoo import FUNNEL, context, make, rows, stir, stirred

K = 5
TASKS = {
    "pay": Task(),  # listens to a task that is listed later
    "click": Task(),
    "like": Task(),
    "cart": Task(parent="click"),
    "buy": Task(parent="cart"),
    "spend": Task(kind="real"),
}
BEFORE = {"buy": ["click", "cart"], "pay": ["buy", "like"], "spend": ["buy"]}


def coupler(tasks: dict[str, Task], before: Mapping[str, Sequence[str]] | None = None, **options: Any) -> AIT:
    return stir(AIT(context(tasks, K), width=K, mode="cross", predecessors=before, **options))


def easyrec(q: Tensor, passed: list[Tensor], attention: CrossAttention, n: int) -> Tensor:
    """The whole attention over [cur, dep_1 …], of which row 0 is returned: task n of its group, [B, k]."""
    g, b = attention.transfer.weight[n], attention.transfer.bias[n]
    u = [q, *((z @ g.T + b).relu() for z in passed)]
    weights, biases = attention.key_value[n], attention.key_value_bias[n]
    keys = torch.stack([x @ weights[i, 0].T + biases[i, 0] for i, x in enumerate(u)], 1)  # [B, m + 1, k]
    values = torch.stack([x @ weights[i, 1].T + biases[i, 1] for i, x in enumerate(u)], 1)
    query = q @ attention.query[n].T + attention.query_bias[n]
    scores = (keys @ query.unsqueeze(2)).squeeze(2) / math.sqrt(q.shape[1])
    return (scores.softmax(1).unsqueeze(2) * values).sum(1)


def written_out(ait: AIT, q: Tensor, above: dict[str, list[str]]) -> Tensor:
    """Task by task, in an order in which everything listened to is known."""
    names = list(above)
    depth = {name: d for d, level in enumerate(levels(above)) for name in level}
    groups: dict[tuple[int, int], list[str]] = {}
    for name in sorted(names, key=lambda n: depth[n]):
        if above[name]:
            groups.setdefault((depth[name], len(above[name])), []).append(name)
    z = {name: q[:, i] for i, name in enumerate(names) if not above[name]}
    for (_, group), attention in zip(sorted(groups.items()), ait.transfer.attentions, strict=True):
        for n, name in enumerate(group):
            z[name] = easyrec(q[:, names.index(name)], [z[p] for p in above[name]], attention, n)
    return torch.stack([z[n] @ ait.head.weight[i] + ait.head.bias[i] for i, n in enumerate(names)], 1)


@pytest.mark.parametrize(
    ("tasks", "before"),
    [
        (FUNNEL, {}),
        (FUNNEL, {"buy": ["click", "cart"]}),
        (TASKS, BEFORE),
        ({"a": Task(), "b": Task(), "c": Task(parent="a"), "d": Task(parent="a"), "e": Task(parent="b")}, {}),
    ],
    ids=["chain", "two before buy", "tasks in any order", "tree"],
)
def test_equals_easyrec_written_out(tasks: dict[str, Task], before: dict[str, list[str]]) -> None:
    ait, q = coupler(tasks, before), torch.randn(20, len(tasks), K)
    expected = written_out(ait, q, listened_to(tasks, before))
    torch.testing.assert_close(ait(q), expected)
    bias = torch.randn(20, len(tasks))
    torch.testing.assert_close(ait(q, bias), expected + bias)


def test_e1_row_zero_is_one_query_against_all_keys() -> None:
    attention = stir(CrossAttention(1, 1, K, 0.0))
    shared = torch.randn(3, K, K)
    attention.query.data[0] = shared[0]
    attention.key_value.data[0] = shared[1:].expand(2, 2, K, K)
    attention.query_bias.data.zero_()
    attention.key_value_bias.data.zero_()
    attention.transfer.weight.data[0] = torch.eye(K)
    attention.transfer.bias.data.zero_()
    u = torch.rand(2, 20, K)  # not negative: the identity passes the ReLU
    z, w = attention(u[:1], u[1:].unsqueeze(0))
    full = (u.transpose(0, 1) @ shared[0].T) @ (u.transpose(0, 1) @ shared[1].T).transpose(1, 2) / math.sqrt(K)
    expected = full.softmax(-1)
    torch.testing.assert_close(w[0].T, expected[:, 0])
    torch.testing.assert_close(z[0], (expected @ (u.transpose(0, 1) @ shared[2].T))[:, 0])


@pytest.mark.parametrize("autocast", [False, True])
def test_weights_are_a_distribution_in_fp32(autocast: bool) -> None:
    attention = stir(CrossAttention(2, 3, K, 0.0))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, w = attention(torch.randn(2, 20, K), torch.randn(2, 3, 20, K))
    assert w.shape == (2, 4, 20)
    assert w.dtype == torch.float32
    assert (w >= 0).all()
    assert w.std() > 0.05
    torch.testing.assert_close(w.sum(1), torch.ones(2, 20), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stop", [False, True])
def test_e2_stop_gradient_keeps_later_tasks_out_of_earlier_towers(stop: bool) -> None:
    options = {"type": "ait", "width": 4, "mode": "cross", "predecessors": {"buy": ["click", "cart"]}}
    model = stirred("aitm", coupler={**options, "stop_gradient": stop})
    logits = model(rows(64))
    for g in torch.autograd.grad(logits[:, 2].sum(), list(model.towers.parameters()), retain_graph=True):
        assert [bool(part.any()) for part in g] == [not stop, not stop, True]
    for g in torch.autograd.grad(logits[:, 0].sum(), list(model.towers.parameters())):
        assert [bool(part.any()) for part in g] == [True, False, False]


def test_e4_predecessors_have_no_order_but_that_of_their_weights() -> None:
    attention, other = stir(CrossAttention(1, 2, K, 0.0)), CrossAttention(1, 2, K, 0.0)
    other.load_state_dict(attention.state_dict())
    swap = [0, 2, 1]
    other.key_value.data = attention.key_value.data[:, swap]
    other.key_value_bias.data = attention.key_value_bias.data[:, swap]
    q, passed = torch.randn(1, 20, K), torch.randn(1, 2, 20, K)
    z, w = attention(q, passed)
    z_swapped, w_swapped = other(q, passed.flip(1))
    torch.testing.assert_close(z_swapped, z)
    torch.testing.assert_close(w_swapped, w[:, swap])
    assert (attention(q, passed.flip(1))[0] - z).abs().max() > 0.1


def order(logits: Tensor, alpha: float, before: dict[str, list[str]], tasks: dict[str, Task]) -> Tensor:
    n, t = logits.shape
    fn = TaskLosses(tasks, OrderLoss(alpha=alpha), predecessors=before)
    none, ones = torch.zeros(n, t), torch.ones(n)
    return fn(logits, none, none.bool(), ones, ones.bool(), torch.zeros(t), torch.tensor(float(n))).total


def test_order_pairs_follow_the_wiring() -> None:
    assert order_pairs(FUNNEL, {}) == [("cart", "click"), ("buy", "cart")]
    assert order_pairs(FUNNEL, {"buy": ["click"]}) == [("cart", "click"), ("buy", "cart"), ("buy", "click")]
    # `spend` is no probability, and names outside the trained tasks are skipped.
    assert order_pairs(TASKS, {**BEFORE, "like": ["view"], "view": ["like"]}) == [
        *(("pay", "buy"), ("pay", "like"), ("cart", "click"), ("buy", "cart"), ("buy", "click"))
    ]
    conditional = {"click": Task(), "buy": Task(given="click"), "pay": Task(given="click")}
    # P(buy | click) may well be above P(click).
    assert order_pairs(conditional, {"buy": ["click"], "pay": ["buy"]}) == [("pay", "buy")]


def test_order_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, -1.0, 2.0], [1.0, 3.0, 2.0]])
    p = logits.sigmoid()
    parent_gaps = (p[0, 2] - p[0, 1]) + (p[1, 1] - p[1, 0])
    click_gaps = (p[0, 2] - p[0, 0]) + (p[1, 2] - p[1, 0])
    torch.testing.assert_close(order(logits, 0.6, {}, FUNNEL), 0.3 * parent_gaps)
    torch.testing.assert_close(order(logits, 0.6, {"buy": ["click", "cart"]}, FUNNEL), 0.3 * (parent_gaps + click_gaps))


def test_e5_without_strength_there_is_no_penalty() -> None:
    logits = torch.randn(20, 6, requires_grad=True)
    value = order(logits, 0.0, BEFORE, TASKS)
    assert value.item() == 0
    assert not torch.autograd.grad(value, logits)[0].any()
    assert order(logits, 1.0, BEFORE, TASKS) > 0


def test_a10_the_modes_are_different_models() -> None:
    itself = stir(AIT(context(FUNNEL, K), width=K))
    cross = coupler(FUNNEL)
    cross.head.load_state_dict(itself.head.state_dict())
    h1, h2, h3 = itself.transfer.attention.data[0]
    for attention, info in zip(cross.transfer.attentions, itself.transfer.info, strict=True):
        attention.transfer.load_state_dict(info.state_dict())
        attention.query.data[:] = h2
        attention.key_value.data[:] = torch.stack((h3, h1))
        attention.query_bias.data.zero_()
        attention.key_value_bias.data.zero_()
    q = torch.randn(50, 3, K)
    difference = (cross(q) - itself(q)).abs().amax(0)
    assert difference[0] < 1e-6  # a task without predecessors is its own tower in both
    assert (difference[1:] > 0.1).all()
    # With the same projections the modes differ in the query alone: a predecessor equal to the tower makes them one.
    cross.transfer.attentions[0].transfer.weight.data[:] = torch.eye(K)
    cross.transfer.attentions[0].transfer.bias.data.zero_()
    q = torch.rand(50, 1, K).expand(-1, 3, -1)
    z = cross.transfer(q.transpose(0, 1))[1]
    torch.testing.assert_close(z, q[:, 1] @ h1.T)


@pytest.mark.parametrize("trunk", ["shared_bottom", "no_towers", "mmoe", "omoe", "ple", "cgc"])
def test_any_trunk(trunk: str) -> None:
    options = {"type": "ait", "width": 4, "mode": "cross"}
    model = stirred(trunk, towers={"hidden": [4]}, coupler=options)
    found = model(rows(9))
    assert found.shape == (9, 3)
    q = model.towers(model.trunk(model.refine(model.input(rows(9)), rows(9)), rows(9)), rows(9))
    torch.testing.assert_close(found, written_out(model.coupler, q, listened_to(FUNNEL, {})))


def test_one_step_per_level_not_per_task() -> None:
    wide = {"a": Task(), **{f"b{i}": Task(parent="a") for i in range(6)}}
    transfer = coupler(wide).transfer
    assert [a.query.shape[0] for a in transfer.attentions] == [6]
    assert len(coupler(TASKS, BEFORE).transfer.attentions) == 4  # cart; buy; then pay with two and spend with one


def test_starts_as_the_other_layers_do() -> None:
    coupler = make("aitm", towers={"hidden": [64]}, coupler={"type": "ait", "width": 64, "mode": "cross"}).coupler
    attention, bound = coupler.transfer.attentions[0], math.sqrt(6 / 128)  # Glorot
    for weight in (attention.query, attention.key_value, attention.transfer.weight):
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert coupler.head.weight.std().item() == pytest.approx(0.01, rel=0.2)


def test_dropout_is_on_what_is_passed_in_training_only() -> None:
    ait, q = coupler(FUNNEL, dropout=0.5), torch.randn(30, 3, K)
    trained = torch.stack([ait(q) for _ in range(20)])
    assert (trained.std(0)[:, 1:] > 0).any()
    assert not (trained[:, :, 0] - trained[0, :, 0]).any()
    ait.eval()
    assert torch.equal(ait(q), ait(q))


def test_levels_wait_for_the_last_task_they_listen_to() -> None:
    above = listened_to(TASKS, BEFORE)
    assert above["cart"] == ["click"]
    assert above["buy"] == ["click", "cart"]
    assert levels(above) == [["click", "like"], ["cart"], ["buy"], ["pay", "spend"]]


@pytest.mark.parametrize(
    ("before", "circle"),
    [
        ({"click": ["buy"]}, "click → buy → cart → click"),
        ({"click": ["click"]}, "click → click"),
        ({"cart": ["buy"], "buy": ["cart"]}, "cart → buy → cart"),
    ],
)
def test_a_circle_is_named(before: dict[str, list[str]], circle: str) -> None:
    with pytest.raises(ConfigError, match=f"model.coupler.predecessors form a cycle: {circle}"):
        coupler(FUNNEL, before)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="predecessors needs mode `cross`"):
        AIT(context(FUNNEL, K), width=K, predecessors={"buy": ["click"]})
    with pytest.raises(ConfigError, match="no task has a `parent`"):
        coupler({"a": Task(), "b": Task()})
    assert coupler({"a": Task(), "b": Task()}, {"b": ["a"]})(torch.randn(3, 2, K)).shape == (3, 2)
