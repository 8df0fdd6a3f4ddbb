"""ESM²: click, then a decisive action or none, then the purchase (docs/formulas.md §8)."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.config.wiring import trio
from raymtl.errors import ConfigError
from raymtl.models.couplers.esm2 import ESM2
from raymtl.models.couplers.product import Product
from raymtl.models.inputs import InputSpec
from raymtl.models.ranker import build_ranker
from raymtl.models.slots import Context, Derived
from raymtl.objectives.losses import TaskLosses
from tests.helpers.model_zoo import FORK, SPEC, config, make, rows, stirred

AMONG_OTHERS = {
    "spend": Task(kind="real"),
    "click": Task(),
    "buy": Task(parent="click"),
    "like": Task(),
    "cart": Task(parent="click"),
}


def esm2(tasks: dict[str, Task] = FORK, **roles: str) -> ESM2:
    """A coupler whose heads hand on what `heads` put in."""
    coupler = ESM2(Context(tasks, InputSpec({}), len(tasks) + 1, len(tasks) + 1), **roles)
    coupler.head.weight.data = torch.eye(len(tasks) + 1)
    return coupler


def heads(*logits: Tensor) -> Tensor:
    """Tower outputs of which the heads make these logits; of FORK: a1 … a4 of the paper's y1 … y4."""
    return torch.diag_embed(torch.stack(logits, 1))


def outputs(*logits: Tensor) -> tuple[Tensor, ...]:
    """Logits of click, click & action, click & buy, buy given click, action given click."""
    return esm2()(heads(*logits)).unbind(1)


def test_the_paper_written_out() -> None:
    a = 3 * torch.randn(4, 200)
    y1, y2, y3, y4 = a.double().sigmoid()
    ctr, ctavr, ctcvr, cvr, avr = (logit.double().sigmoid() for logit in outputs(*a))
    torch.testing.assert_close(ctr, y1, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(ctavr, y1 * y2, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(cvr, (1 - y2) * y4 + y2 * y3, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(ctcvr, y1 * ((1 - y2) * y4 + y2 * y3), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(avr, y2, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_esm2_what_follows_a_click_is_not_more_probable(dtype: torch.dtype) -> None:
    a = torch.cat((5 * torch.randn(4, 5000), 40 * torch.randn(4, 5000)), 1)
    found = esm2()(heads(*a).to(dtype))
    assert found.dtype == torch.float32
    ctr, ctavr, ctcvr, cvr, avr = found.sigmoid().unbind(1)
    assert (ctavr <= torch.minimum(ctr, avr)).all()
    assert (ctcvr <= torch.minimum(ctr, cvr)).all()


def test_esm2_where_both_ways_are_alike_the_action_does_not_matter() -> None:
    a1, a3 = torch.randn(2, 200)
    a2 = (5 * torch.randn(200)).requires_grad_()
    _, _, ctcvr, cvr, _ = outputs(a1, a2, a3, a3)
    torch.testing.assert_close(cvr, a3, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(cvr.sum() + ctcvr.sum(), a2)[0].abs().max() < 1e-6


@pytest.mark.parametrize(("certain", "way"), [(60.0, 2), (-60.0, 3)], ids=["y2 to 1", "y2 to 0"])
def test_esm2_a_certain_action_leaves_one_way(certain: float, way: int) -> None:
    a = 3 * torch.randn(4, 200)
    a[1] = certain
    torch.testing.assert_close(outputs(*a)[3], a[way], rtol=1e-6, atol=1e-6)


def test_esm2_a_certain_click_leaves_the_mixture() -> None:
    a, y = torch.randn(4, 200), (torch.rand(200) < 0.3).float()
    a[0] = 60.0
    _, _, ctcvr, _, _ = outputs(*a)
    y2, y3, y4 = a[1:].double().sigmoid()
    mixture = y2 * y3 + (1 - y2) * y4
    expected = F.binary_cross_entropy(mixture, y.double())
    torch.testing.assert_close(F.binary_cross_entropy_with_logits(ctcvr, y).double(), expected, rtol=1e-6, atol=0.0)


def test_esm2_with_tied_ways_is_esmm_with_a_head_for_the_action() -> None:
    a1, a2, a3 = 3 * torch.randn(3, 200)
    ours = esm2()(heads(a1, a2, a3, a3))
    esmm = Product(Context(FORK, InputSpec({}), 3, 3))
    esmm.head.weight.data = torch.eye(3)
    theirs = esmm(heads(a1, a2, a3))
    assert Product.derived(FORK, {}).keys() == {"cart_given_click", "buy_given_click"}
    torch.testing.assert_close(ours, theirs[:, [0, 1, 2, 4, 3]], rtol=1e-5, atol=1e-5)


def test_esm2_is_finite_at_any_logit() -> None:
    a = torch.cartesian_prod(*[torch.tensor([-1e4, -80.0, 0.0, 80.0, 1e4])] * 4).requires_grad_()
    found = outputs(*a.unbind(1))
    torch.stack(found).sum().backward()
    assert all(logit.isfinite().all() for logit in found)
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_a_row_without_an_observed_action_still_teaches_the_purchase() -> None:
    model, y = stirred("esm2"), torch.ones(20, 3)
    observed = torch.ones(20, 3).bool()
    observed[:, 1] = False
    ones = torch.ones(20)
    loss = TaskLosses(FORK, OrderLoss())(
        model(rows(20))[:, :3], y, observed, ones, ones.bool(), torch.tensor([20.0, 0.0, 20.0]), torch.tensor(20.0)
    )
    assert loss.per_task[1] == 0
    gradient = torch.autograd.grad(loss.total, model.coupler.head.bias)[0]
    assert gradient.all()  # y2 too: it decides how the two ways are mixed


def test_tasks_beside_the_three_have_plain_heads() -> None:
    a = torch.randn(6, 100)
    found = esm2(AMONG_OTHERS, click="click", action="cart", buy="buy")(heads(*a)).unbind(1)
    spend, a1, a3, like, a2, a4 = a
    expected = outputs(a1, a2, a3, a4)
    assert torch.equal(found[0], spend)
    assert torch.equal(found[3], like)
    for mine, same in ((1, 0), (4, 1), (2, 2), (5, 3), (6, 4)):
        torch.testing.assert_close(found[mine], expected[same])


def test_the_bias_belongs_to_the_heads_of_its_task() -> None:
    a, bias = torch.randn(6, 30), torch.randn(30, 5)
    coupler = esm2(AMONG_OTHERS, action="cart", buy="buy")
    biased = [x + b for x, b in zip(a, [*bias.unbind(1), bias[:, 2]], strict=True)]  # both ways end in the purchase
    torch.testing.assert_close(coupler(heads(*a), bias), coupler(heads(*biased)))


def test_derived_outputs() -> None:
    expected = {"cvr": Derived("buy", "click"), "cart_given_click": Derived("cart", "click")}
    assert ESM2.derived(FORK, {"click": None, "action": None, "buy": None}) == expected
    assert list(ESM2.derived({**FORK, "cvr": Task()}, {})) == ["buy_given_click", "cart_given_click"]
    model = stirred("esm2").eval()
    logits = model(rows(9))
    assert list(model.outputs.derived) == list(expected)
    ctr, ctavr, ctcvr, cvr, avr = model.predictions(logits).unbind(1)
    torch.testing.assert_close(ctr * cvr, ctcvr)
    torch.testing.assert_close(ctr * avr, ctavr)


@pytest.mark.parametrize("rates", [(0.05, 0.004, 1e-4), (0.3, 0.1, 0.29), (1e-3, 1e-3, 1e-3)])
def test_starts_at_the_base_rates(rates: tuple[float, ...]) -> None:
    model = build_ranker(config("esm2"), FORK, SPEC, dict(zip(FORK, rates, strict=True)))
    means = model.predictions(model(rows(512))).mean(0)[:3]
    torch.testing.assert_close(means, torch.tensor(rates), rtol=0.2, atol=0.0)


def test_one_tower_more_than_tasks() -> None:
    assert make("esm2").towers.mlps.layers[0].weight.shape[0] == 4
    plain = make("mmoe", FORK, coupler={"type": "esm2"})
    assert plain(rows(3)).shape == (3, 5)


@pytest.mark.parametrize(
    ("tasks", "roles", "found"),
    [
        (FORK, {}, ("click", "cart", "buy")),
        (FORK, {"buy": "cart"}, ("click", "buy", "cart")),
        (FORK, {"click": "click", "action": "buy"}, ("click", "buy", "cart")),
        (AMONG_OTHERS, {}, ("click", "buy", "cart")),  # in the order of the tasks: they must be named here
        ({**FORK, "like": Task(parent="click")}, {"action": "like", "buy": "buy"}, ("click", "like", "buy")),
        ({**FORK, "pay": Task(parent="buy")}, {}, ("click", "cart", "buy")),
        (
            {**FORK, "view": Task(), "zoom": Task(parent="view"), "save": Task(parent="view")},
            {"buy": "save"},
            ("view", "zoom", "save"),
        ),
    ],
)
def test_the_roles_are_found(tasks: dict[str, Task], roles: dict[str, Any], found: tuple[str, ...]) -> None:
    assert trio(tasks, *(roles.get(role) for role in ("click", "action", "buy"))) == found


CHAIN = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="cart")}


@pytest.mark.parametrize(
    ("tasks", "roles", "says"),
    [
        (CHAIN, {}, "none of `click`, `cart`, `buy` has two children"),
        (CHAIN, {"click": "click", "action": "cart", "buy": "buy"}, "tasks.buy.parent must be `click`"),
        ({**FORK, "view": Task(), "a": Task(parent="view"), "b": Task(parent="view")}, {}, "2 of .* have two children"),
        ({**FORK, "like": Task(parent="click")}, {"click": "click"}, "ambiguous which child of `click` is the action"),
        (FORK, {"buy": "click"}, "tasks.click.parent is null"),
        (FORK, {"action": "cart", "buy": "cart"}, "action and buy are both `cart`"),
        (FORK, {"buy": "bye"}, "model.coupler.buy is `bye`, which is not one of the tasks .* did you mean `buy`?"),
        (FORK, {"click": "buy"}, r"ambiguous which child of `buy` is the action .*children: none"),
    ],
)
def test_roles_that_cannot_be(tasks: dict[str, Task], roles: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        trio(tasks, *(roles.get(role) for role in ("click", "action", "buy")))
