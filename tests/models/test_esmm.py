"""ESMM and its generalisation to any funnel (docs/formulas.md §7 and §15)."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.data.labels import make_labels
from raymtl.errors import ConfigError
from raymtl.models.couplers.product import MAX_SHARE, Product
from raymtl.models.inputs import InputSpec
from raymtl.models.ranker import build_ranker
from raymtl.models.slots import Context, Derived
from raymtl.objectives.algebra import logit_prod
from raymtl.objectives.losses import TaskLosses
from tests.helpers.model_zoo import FUNNEL, SPEC, TREE, config, make, rows, stirred

ESMM = {"click": Task(), "buy": Task(parent="click")}


def product(tasks: dict[str, Task] = ESMM) -> Product:
    """A coupler whose heads hand on what `heads` put in."""
    coupler = Product(Context(tasks, InputSpec({}), len(tasks), len(tasks)))
    coupler.head.weight.data = torch.eye(len(tasks))
    return coupler


def heads(logits: Tensor) -> Tensor:
    """Tower outputs [B, T, T] of which the heads make these logits [B, T]."""
    return torch.diag_embed(logits)


def click_and_buy(a_click: Tensor, a_buy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of click, of click and buy, and of buy given click."""
    ctr, ctcvr, cvr = product()(heads(torch.stack((a_click, a_buy), 1))).unbind(1)
    return ctr, ctcvr, cvr


def losses(logits: Tensor, y: Tensor, tasks: dict[str, Task] = ESMM, alpha: float = 0.0, **order: Any) -> Any:
    n, t = y.shape
    fn = TaskLosses(tasks, OrderLoss(alpha=alpha, **order))
    all_rows = torch.ones(n).bool()
    return fn(
        logits[:, :t],
        y,
        torch.ones_like(y).bool(),
        torch.ones(n),
        all_rows,
        torch.full((t,), float(n)),
        torch.tensor(float(n)),
    )


def test_every_funnel_written_out() -> None:
    a = 2 * torch.randn(50, 7, dtype=torch.float64)
    p = {name: column.sigmoid() for name, column in zip(TREE, a.unbind(1), strict=True)}
    expected = [
        *(p["share"], p["click"], p["click"] * p["cart"], p["click"] * p["like"], p["share"] * p["repost"]),
        *(p["click"] * p["cart"] * p["buy"], a[:, 6]),
        *(p["cart"], p["like"], p["repost"], p["buy"]),
    ]
    found = product(TREE)(heads(a.float()))
    values = [*found[:, :6].sigmoid().unbind(1), found[:, 6], *found[:, 7:].sigmoid().unbind(1)]
    assert found.shape == (50, 11)
    for value, target in zip(values, expected, strict=True):
        torch.testing.assert_close(value.double(), target, rtol=1e-5, atol=1e-7)


def test_derived_outputs_and_their_names() -> None:
    assert Product.derived(ESMM, {}) == {"cvr": Derived("buy", "click")}
    assert list(Product.derived(TREE, {}).items()) == [
        ("cart_given_click", Derived("cart", "click")),
        ("like_given_click", Derived("like", "click")),
        ("repost_given_share", Derived("repost", "share")),
        ("buy_given_cart", Derived("buy", "cart")),
    ]
    assert list(Product.derived({**ESMM, "cvr": Task()}, {})) == ["buy_given_click"]
    with pytest.raises(ConfigError, match=r"tasks\.buy_given_cart has the name of an output of model\.coupler"):
        Product.derived({**TREE, "buy_given_cart": Task()}, {})
    model = stirred("esmm", ESMM).eval()
    logits = model(rows(9))
    assert list(model.outputs.derived) == ["cvr"]
    predictions = model.predictions(logits)
    torch.testing.assert_close(predictions[:, 0] * predictions[:, 2], predictions[:, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_s1_the_product_is_not_above_its_factors(dtype: torch.dtype) -> None:
    a = torch.cat((5 * torch.randn(5000, 2), 30 * torch.randn(5000, 2), torch.tensor([[80.0, -80.0], [80.0, 80.0]])))
    a = torch.cat((a, -a))
    logits = product()(heads(a).to(dtype))
    assert logits.dtype == torch.float32
    p = logits.sigmoid()
    assert (p[:, 1] <= torch.minimum(p[:, 0], p[:, 2])).all()
    assert (p[:, 1] > 0).float().mean() > 0.9


def test_s2_the_logit_is_that_of_the_product() -> None:
    a, b = 40 * torch.rand(2, 2000) - 20
    p = a.double().sigmoid() * b.double().sigmoid()
    torch.testing.assert_close(click_and_buy(a, b)[1].double(), p.log() - torch.log1p(-p), rtol=1e-6, atol=1e-6)


def test_s3_rows_without_a_click_teach_the_conversion() -> None:
    a, b = torch.randn(2, 20, requires_grad=True)
    b.retain_grad()
    logits = product()(heads(torch.stack((a, b), 1)))
    losses(logits, torch.zeros(20, 2)).total.backward()
    assert b.grad is not None
    assert (b.grad > 0).all()  # a conversion seems a little less likely there
    # d/db −log(1 − pq) = pq(1 − q)/(1 − pq)
    p, q = a.sigmoid(), b.sigmoid()
    torch.testing.assert_close(b.grad, p * q * (1 - q) / (1 - p * q) / 20)


def test_s4_a_conversion_counts_only_after_a_click() -> None:
    random = np.random.default_rng(0)
    click, z = (random.random((2, 64)) < 0.5).astype(np.float32)
    flipped = np.where(click == 0, 1 - z, z)
    assert (flipped != z).any()
    found = []
    for conversion in (z, flipped):
        table = pa.table({"click": click, "buy": conversion})
        made = make_labels(table, ESMM, True, broken=lambda *_: pytest.fail("labels are sound"))
        y = torch.tensor(np.stack([made.final[name] for name in ESMM], 1))
        logits = product()(heads(torch.randn(64, 2, generator=torch.Generator().manual_seed(1))))
        found.append(losses(logits, y))
        assert y[:, 1].sum() == (click * z).sum()
    assert torch.equal(found[0].per_task, found[1].per_task)


@pytest.mark.parametrize("certain", [20.0, 80.0, 1e4])
def test_s5_where_the_click_is_certain_only_the_conversion_is_left(certain: float) -> None:
    b, y = torch.randn(50), (torch.rand(50) < 0.4).float()
    _, ctcvr, _ = click_and_buy(torch.full((50,), certain), b)
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(ctcvr, y), F.binary_cross_entropy_with_logits(b, y), rtol=1e-6, atol=1e-7
    )


def test_s6_no_nan_at_any_logit() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([-1e4, -80.0, 0.0, 80.0, 1e4])] * 3)
    for y in (torch.zeros(125, 3), torch.ones(125, 3)):
        a = corners.clone().requires_grad_()
        found = losses(product(FUNNEL)(heads(a)), y, FUNNEL)
        found.total.backward()
        assert found.total.isfinite()
        assert a.grad is not None
        assert a.grad.isfinite().all()


def test_a_positive_that_was_thought_impossible_still_teaches() -> None:
    # p·q = 2e-9 would be clipped to 1e-7, and its gradient with it.
    a = torch.full((1, 2), -10.0, requires_grad=True)
    losses(product()(heads(a)), torch.ones(1, 2)).total.backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, torch.tensor([[-2.0, -1.0]]), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_order_loss_on_product_heads_is_at_most_a_rounding(space: str) -> None:
    a = 20 * torch.randn(2000, 7)
    logits = product(TREE)(heads(a))
    assert losses(logits, torch.zeros(2000, 7), TREE, alpha=1.0, space=space).order <= torch.finfo(torch.float32).eps
    assert losses(a, torch.zeros(2000, 7), TREE, alpha=1.0, space=space).order > 0.1


def test_the_bias_belongs_to_the_heads_not_to_the_products() -> None:
    a, bias = torch.randn(30, 7), torch.randn(30, 7)
    coupler = product(TREE)
    torch.testing.assert_close(coupler(heads(a), bias), coupler(heads(a + bias)))


def test_serving_multiplies_the_click_without_its_position() -> None:
    model = stirred("esmm_position", ESMM)
    inputs = rows(20)
    served = model.eval()(inputs)
    own = model.coupler.head(model.towers(model.trunk(model.input(inputs), inputs), inputs))
    torch.testing.assert_close(served[:, 0], own[:, 0])
    torch.testing.assert_close(served[:, 1], logit_prod(own[:, 0], own[:, 1]))
    inputs.bias_present = None
    trained = model.train()(inputs)
    position = model.bias(inputs)[:, 0]
    assert position.abs().mean() > 0.01
    torch.testing.assert_close(trained[:, 0], own[:, 0] + position)
    torch.testing.assert_close(trained[:, 1], logit_prod(own[:, 0] + position, own[:, 1]))
    assert torch.equal(trained[:, 2], served[:, 2])  # the conversion after a click knows nothing of positions


@pytest.mark.parametrize("rates", [(0.05, 0.002, 1e-5), (0.3, 0.29, 0.28), (1e-4, 1e-4, 1e-4)])
def test_products_start_at_the_base_rates(rates: tuple[float, ...]) -> None:
    model = build_ranker(config("esmm"), FUNNEL, SPEC, dict(zip(FUNNEL, rates, strict=True)))
    means = model.predictions(model(rows(512))).mean(0)[:3]
    torch.testing.assert_close(means, torch.tensor(rates), rtol=0.2, atol=0.0)


def test_a_child_more_frequent_than_its_parent_starts_at_a_share_that_can_learn() -> None:
    model = build_ranker(config("esmm"), ESMM, SPEC, {"click": 0.01, "buy": 0.02})
    cvr = model.predictions(model(rows(512)))[:, 2].mean()
    assert cvr.item() == pytest.approx(MAX_SHARE, abs=0.01)
    assert make("esmm").coupler.head.bias[0] == 0  # nothing is known: one half, and most of it in each step
    assert make("esmm").coupler.head.bias[1:].tolist() == pytest.approx([math.log(MAX_SHARE / (1 - MAX_SHARE))] * 2)


def test_the_towers_share_the_tables_only() -> None:
    model = make("esmm")
    assert not list(model.trunk.parameters())
    assert model.towers.mlps.layers[0].weight.shape[0] == 3


def test_a_funnel_is_needed() -> None:
    with pytest.raises(ConfigError, match="`product` multiplies along the funnel but no task has a `parent`"):
        Product(Context({"a": Task(), "b": Task()}, InputSpec({}), 2, 4))
