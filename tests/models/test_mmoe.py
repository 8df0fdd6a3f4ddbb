"""MMoE: the formula, and M1 to M7 (docs/formulas.md §3)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raymtl.config.model import Model
from raymtl.config.slots.towers import MLPTowers
from raymtl.config.tasks import Task
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.layers import GroupedMLP
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.trunks.mmoe import MMoE
from tests.helpers.model_zoo import FUNNEL, WIDTH, context, make, rows, stir, stirred, x_of


def expert(mlp: GroupedMLP, e: int, x: Tensor) -> Tensor:
    for layer in mlp.layers:
        x = (x @ layer.weight[e].T + layer.bias[e]).relu()
    return x


def written_out(trunk: MMoE, x: Tensor, t: int) -> Tensor:
    """h_t as the paper writes it, expert by expert."""
    gates = trunk.gates
    g = 0 if len(gates.weight) == 1 else t
    scores = x @ gates.weight[g].T + (0 if gates.bias is None else gates.bias[g])
    return sum(scores.softmax(-1)[:, e : e + 1] * expert(trunk.experts, e, x) for e in range(len(scores.T)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize("hidden", [[6], [7, 5], [7, 6, 5]])
def test_equals_the_paper_written_out(hidden: list[int], shared_gate: bool, bias: bool) -> None:
    trunk = stir(MMoE(context(FUNNEL), experts=3, hidden=hidden, gate_bias=bias, shared_gate=shared_gate))
    inputs = rows(20)
    h = trunk(x_of(inputs), inputs)
    assert trunk.width == hidden[-1]
    assert h.shape == ((20, hidden[-1]) if shared_gate else (20, 3, hidden[-1]))
    for t in range(3):
        torch.testing.assert_close(h if shared_gate else h[:, t], written_out(trunk, x_of(inputs), t))


@pytest.mark.parametrize("shared_gate", [False, True])
def test_per_task_inputs(shared_gate: bool) -> None:
    trunk = stir(MMoE(context(FUNNEL), experts=3, hidden=[7, 5], shared_gate=shared_gate))
    x = torch.randn(20, 3, WIDTH)
    h = trunk(x, rows(20))
    assert h.shape == (20, 3, 5)
    for t in range(3):
        torch.testing.assert_close(h[:, t], written_out(trunk, x[:, t], t))


def copy_bottom(mmoe: Ranker, bottom: Ranker) -> None:
    """Give the only expert of `mmoe` the weights of `bottom`, and the same towers."""
    for layer, linear in zip(mmoe.trunk.experts.layers, bottom.trunk.mlp.layers, strict=True):
        layer.weight.data.copy_(linear.weight.data.unsqueeze(0))
        layer.bias.data.copy_(linear.bias.data.unsqueeze(0))
    mmoe.towers.load_state_dict(bottom.towers.state_dict())
    mmoe.coupler.load_state_dict(bottom.coupler.state_dict())


def test_m1_one_expert_is_the_shared_bottom() -> None:
    bottom = stirred("shared_bottom", seed=4)
    mmoe = stirred("mmoe", trunk={"experts": 1, "hidden": [8, 6]})
    assert (mmoe(rows(30)) - bottom(rows(30))).abs().max() > 0.1
    copy_bottom(mmoe, bottom)
    torch.testing.assert_close(mmoe(rows(30)), bottom(rows(30)), rtol=1e-5, atol=1e-5)


def test_m2_identical_experts_make_gates_idle() -> None:
    model = stirred("mmoe")
    for layer in model.trunk.experts.layers:
        for p in layer.parameters():
            p.data.copy_(p.data[:1].expand_as(p))
    before = model(rows(30))
    before.sum().backward()
    assert model.trunk.gates.weight.grad.abs().max() < 1e-4 * model.trunk.experts.layers[0].weight.grad.abs().max()
    model.trunk.gates.weight.data.normal_()
    torch.testing.assert_close(model(rows(30)), before, rtol=1e-5, atol=1e-5)


def test_m3_zero_gates_average_the_experts() -> None:
    model, inputs = make("mmoe"), rows(30)
    assert not model.trunk.gates.weight.any()  # that is also how training starts
    mean = model.trunk.experts(x_of(inputs)).mean(0)
    h = model.trunk(x_of(inputs), inputs)
    for t in range(3):
        torch.testing.assert_close(h[:, t], mean)


def test_m4_one_gate_for_all_is_tied_gates() -> None:
    one, tied = stirred("omoe"), stirred("mmoe", seed=5)
    state = one.state_dict()
    gate = state.pop("trunk.gates.weight")
    tied.load_state_dict(state, strict=False)
    assert (one(rows(30)) - tied(rows(30))).abs().max() > 0.01
    tied.trunk.gates.weight.data.copy_(gate.expand_as(tied.trunk.gates.weight))
    torch.testing.assert_close(tied(rows(30)), one(rows(30)), rtol=1e-5, atol=1e-5)


def test_m5_experts_have_no_order() -> None:
    model, inputs = stirred("mmoe_bias"), rows(30)
    before, order = model(inputs), torch.tensor([2, 0, 1])
    for layer in model.trunk.experts.layers:
        for p in layer.parameters():
            p.data.copy_(p.data[order])
    assert (model(inputs) - before).abs().max() > 0.01
    for p in model.trunk.gates.parameters():
        p.data.copy_(p.data[:, order])
    torch.testing.assert_close(model(inputs), before, rtol=1e-5, atol=1e-5)


def test_m6_a_gate_serves_its_own_task_only() -> None:
    model = stirred("mmoe")
    logits = model(rows(30))
    for t in range(3):
        (gradient,) = torch.autograd.grad(logits[:, t].sum(), [model.trunk.gates.weight], retain_graph=True)
        assert [bool(g.any()) for g in gradient] == [s == t for s in range(3)]


def sines(correlation: float, rows: int, d: int = 20) -> tuple[Tensor, Tensor]:
    """The paper's synthetic regression: two tasks whose weight vectors have the given cosine."""
    g = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(d, 2, generator=g))
    w = torch.stack((u[:, 0], correlation * u[:, 0] + math.sqrt(1 - correlation**2) * u[:, 1]), 1)
    x = torch.randn(rows, d, generator=g)
    z = x @ w
    y = z + sum(torch.sin(a * z + b) for a, b in ((1.0, 0.0), (2.0, 1.0))) + 0.1 * torch.randn(rows, 2, generator=g)
    return x, y / y.std()


def final_loss(trunk: dict[str, Any], x: Tensor, y: Tensor, batch: int = 256) -> tuple[float, int]:
    """Mean loss of the last 50 steps of one pass over the rows, and the number of parameters."""
    torch.manual_seed(0)
    spec = InputSpec({}, dense=tuple(f"x{i}" for i in range(x.shape[1])))
    pair = {"a": Task(kind="real"), "b": Task(kind="real")}
    model = build_ranker(Model(trunk=trunk, towers=MLPTowers(hidden=[])), pair, spec, {})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for some, target in zip(x.split(batch), y.split(batch), strict=True):
        loss = (model(ModelInput(some[:, :0], some)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-50:]) / 50, sum(p.numel() for p in model.parameters())


def test_m7_gates_pay_off_as_tasks_part() -> None:
    """The shared part ends in one unit, so that a shared bottom of the same size must compromise (docs/losses.md)."""
    gaps = []
    for correlation in (1.0, 0.5, 0.0):
        x, y = sines(correlation, 300 * 256)
        mmoe, size = final_loss({"type": "mmoe", "experts": 4, "hidden": [8, 1]}, x, y)
        bottom, size_of_bottom = final_loss({"type": "shared_bottom", "hidden": [40, 1]}, x, y)
        assert size <= size_of_bottom
        assert mmoe < 0.1
        gaps.append(bottom - mmoe)
    assert gaps[0] < 0.05
    assert gaps[1] > gaps[0] + 0.1
    assert gaps[2] > gaps[1] + 0.1
