"""PEPNet: EPNet and PPNet, H1 to H6 (docs/formulas.md §18)."""

import pytest
import torch
from torch import Tensor

from raymtl.errors import ConfigError
from raymtl.models.gate_units import GateUnits
from raymtl.models.inputs import InputSpec, Pick
from raymtl.models.precomputed import linear
from raymtl.models.ranker import build_ranker
from raymtl.models.refiners.epnet import EPNet
from raymtl.models.requests import Columns, RequestX
from raymtl.models.slots import Context
from raymtl.models.towers.mlp import MLPTowers
from raymtl.models.towers.ppnet import PPNet
from tests.helpers.model_zoo import FUNNEL, SPEC, config, context, make, rows, stir, stirred, x_of

INPUTS = rows(7)
PRIOR = ["user", "item", "age"]
EACH = torch.randn(7, 3, 11, generator=torch.Generator().manual_seed(4))


def epnet() -> EPNet:
    torch.manual_seed(0)
    return stir(EPNet(context(FUNNEL), features=["hour"], hidden=5))


def ppnet(**options: float) -> PPNet:
    torch.manual_seed(0)
    return stir(PPNet(context(FUNNEL), hidden=[6, 4], features=PRIOR, gate_hidden=3, **options))


def gate_by_hand(gate: GateUnits, unit: int, task: int, given: Tensor, x: Tensor) -> Tensor:
    """2σ(V ReLU(W [given ‖ x] + b) + c) in fp64."""
    hidden = gate.weights[unit].shape[2]
    own = slice(unit * hidden, (unit + 1) * hidden)
    w = torch.cat((gate.given, gate.x), 1)[own].double()
    h = (torch.cat((given, x), 1).double() @ w.T + gate.x_bias[own].double()).clamp(min=0)
    return 2 / (1 + (-(h @ gate.weights[unit][task].double().T + gate.biases[unit][task].double())).exp())


@pytest.mark.parametrize("per_task", [False, True])
def test_h1_epnet_is_the_formula(per_task: bool) -> None:
    slot, x = epnet(), EACH if per_task else x_of(INPUTS)
    given = torch.cat((slot.scenario.weight[INPUTS.scenario], INPUTS.dense[:, 1:2]), 1)
    found = slot(x, INPUTS)
    assert found.shape == x.shape
    for t in range(3 if per_task else 1):
        own = x[:, t] if per_task else x
        expected = own.double() * gate_by_hand(slot.gate, 0, 0, given, own)
        torch.testing.assert_close((found[:, t] if per_task else found).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per_task", [False, True])
def test_h2_ppnet_is_the_formula(per_task: bool) -> None:
    slot, h = ppnet(), EACH if per_task else x_of(INPUTS)
    given = torch.cat((INPUTS.pooled, INPUTS.dense[:, :1]), 1)
    found = slot(h, INPUTS)
    for t in range(3):
        own = z = (h[:, t] if per_task else h).double()
        for number, layer in enumerate(slot.layers):
            z = (z @ layer.weight[t].double().T + layer.bias[t].double()).clamp(min=0)
            z = z * gate_by_hand(slot.gates, number, t, given, own.float())
        torch.testing.assert_close(found[:, t].double(), z, rtol=1e-4, atol=1e-4)


def test_h3_at_the_start_every_gate_is_one() -> None:
    torch.manual_seed(0)
    plain = MLPTowers(context(FUNNEL), hidden=[6, 4])
    gated = PPNet(context(FUNNEL), hidden=[6, 4], features=PRIOR, gate_hidden=3)
    gated.layers.load_state_dict(plain.mlps.layers.state_dict())
    x = x_of(INPUTS)
    assert torch.equal(gated(x, INPUTS), plain(x, INPUTS))
    assert torch.equal(EPNet(context(FUNNEL), features=[], hidden=5)(x, INPUTS), x)


def test_h4_no_gradient_reaches_x_through_a_gate() -> None:
    """The gradient of x is that of a model whose gates are given numbers."""
    x = x_of(INPUTS).requires_grad_()
    slot = epnet()
    (found,) = torch.autograd.grad(slot(x, INPUTS).sum(), x)
    (gate,) = slot.gate(slot._given(INPUTS), x)
    torch.testing.assert_close(found, gate.squeeze(1).detach())
    towers = ppnet()
    gates = [gate.detach() for gate in towers.gates(Pick(SPEC, PRIOR)(INPUTS), x)]
    z = x
    for layer, gate in zip(towers.layers, gates, strict=True):
        z = layer(z) * gate.transpose(0, 1)
    (expected,) = torch.autograd.grad(z.sum(), x)
    (found,) = torch.autograd.grad(towers(x, INPUTS).sum(), x)
    torch.testing.assert_close(found, expected)


def test_h4_nor_through_shared_columns() -> None:
    user, item = torch.randn(2, 3, requires_grad=True), torch.randn(5, 2, requires_grad=True)
    x = RequestX(user, item, torch.tensor([0, 0, 1, 1, 1]), Columns([True, False, True, True, False]))
    weight = torch.randn(4, 5, requires_grad=True)
    linear(x.detach(), weight).sum().backward()
    assert weight.grad.any()
    assert user.grad is None
    assert item.grad is None


def test_h5_rows_of_one_scenario_share_the_gate_up_to_x() -> None:
    """The scenario moves the gate; the embedding of `other` starts at zero."""
    torch.manual_seed(0)
    start = EPNet(context(FUNNEL), hidden=5)
    assert not start.scenario.weight[-1].any()
    model = stirred("pepnet")
    here, there = rows(7), rows(7)
    here.scenario, there.scenario = torch.zeros(7, dtype=torch.int64), torch.ones(7, dtype=torch.int64)
    assert (model(here) - model(there)).abs().min() > 1e-6


def test_h6_gradients_in_fp64() -> None:
    x = x_of(INPUTS)[:3].double()
    gate = stir(GateUnits(4, 11, 3, 3, [6, 4])).double()
    names = [name for name, _ in gate.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in gate.parameters()]
    given = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()

    def call(given: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.func.functional_call(gate, dict(zip(names, weights, strict=True)), (given, x)))

    assert torch.autograd.gradcheck(call, (given, *values))


def test_factors_are_in_fp32_under_autocast() -> None:
    gate = stir(GateUnits(4, 11, 3, 3, [6]))
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = gate(torch.randn(7, 4), x_of(INPUTS))
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 2


def test_the_preset_is_the_papers_model() -> None:
    model = make("pepnet")
    assert isinstance(model.refine, EPNet)
    assert isinstance(model.towers, PPNet)
    assert not list(model.trunk.parameters())  # the towers read O_ep itself


def test_a_gate_needs_something_to_read() -> None:
    spec = InputSpec(pooled={"user": 4})
    with pytest.raises(ConfigError, match="no scenario column"):
        build_ranker(config("mmoe", refine={"type": "epnet"}), FUNNEL, spec, {})
    with pytest.raises(ConfigError, match="no scenario column"):
        EPNet(Context(FUNNEL, spec, heads=3, width=4), hidden=3)
