"""The towers: the formulas, T1 to T5 (docs/formulas.md §18), and features by task, R1 to R3."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.inputs import ModelInput
from raymtl.models.layers import GroupedMLP
from raymtl.models.precomputed import X
from raymtl.models.ranker import build_ranker
from raymtl.models.refiners.task_features import TaskFeatures
from raymtl.models.slots import Context, TowersSlot
from raymtl.models.towers.mlp import MLPTowers
from tests.helpers.model_zoo import FORK, FUNNEL, SPEC, config, context, make, rows, stir, stirred, x_of

INPUTS = rows(7)
X7 = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
PER_TASK = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(4))
ACTIVATIONS = {
    "relu": lambda v: v.clamp(min=0),
    "leaky_relu": lambda v: torch.where(v > 0, v, 0.01 * v),
    "gelu": lambda v: v * 0.5 * (1 + torch.erf(v / 2**0.5)),
    "silu": lambda v: v / (1 + (-v).exp()),
}


def towers(**options: Any) -> MLPTowers:
    torch.manual_seed(0)
    return stir(MLPTowers(context(FUNNEL, 5), **options))


def by_hand(mlp: GroupedMLP, group: int, h: Tensor, activation: str, norm: bool) -> Tensor:
    """One tower, in fp64 and without the layers of raymtl."""
    h = h.double()
    for layer in mlp.layers:
        h = h @ layer.weight[group].double().T + layer.bias[group].double()
        if norm:
            centred = h - h.mean(-1, keepdim=True)
            h = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            h = h * layer.norm.weight[group].double() + layer.norm.bias[group].double()
        h = ACTIVATIONS[activation](h)
    return h


@pytest.mark.parametrize("h", [X7, PER_TASK], ids=["one input", "an input per task"])
@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_t1_each_tower_is_its_mlp(activation: Any, norm: str, h: Tensor) -> None:
    slot = towers(hidden=[6, 4], activation=activation, norm=norm)
    found = slot(h, INPUTS)
    assert found.shape == (7, 3, 4)
    for t in range(3):
        own = h if h.dim() == 2 else h[:, t]
        expected = by_hand(slot.mlps, t, own, activation, norm == "layer")
        torch.testing.assert_close(found[:, t].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("h", [X7, PER_TASK], ids=["one input", "an input per task"])
def test_t2_other_widths_by_task(h: Tensor) -> None:
    """The middle task has two layers of its own, the last one a third list of widths; the first keeps the section's."""
    slot = towers(hidden=[6, 4], per_task={"cart": {"hidden": [3, 2, 4]}, "buy": {"hidden": [4]}})
    assert [len(mlp.layers) for mlp in [slot.mlps, *slot.others]] == [2, 3, 1]
    found = slot(h, INPUTS)
    for t, mlp in enumerate([slot.mlps, *slot.others]):
        own = h if h.dim() == 2 else h[:, t]
        torch.testing.assert_close(found[:, t].double(), by_hand(mlp, 0, own, "relu", False), rtol=1e-5, atol=1e-5)


def test_t2_alike_towers_share_a_group() -> None:
    same = towers(hidden=[6, 4], per_task={"click": {"hidden": [5, 4]}, "buy": {"hidden": [5, 4]}})
    assert same.mlps.layers[0].weight.shape == (1, 6, 5)
    assert [mlp.layers[0].weight.shape for mlp in same.others] == [(2, 5, 5)]
    every = towers(hidden=[6, 4], per_task={name: {"hidden": [5, 4]} for name in FUNNEL})
    assert every.mlps is None
    plain = towers(hidden=[5, 4])
    plain.mlps.load_state_dict(every.others[0].state_dict())
    assert torch.equal(every(X7, INPUTS), plain(X7, INPUTS))


def test_t3_dropout_by_task() -> None:
    slot = towers(hidden=[64], dropout=0.25, per_task={"cart": {"dropout": 0.0}, "buy": {"dropout": 0.75}})
    assert not slot.others  # the shapes are alike: one group, three rates
    whole = slot.eval()(X7.repeat(50, 1), INPUTS)
    dropped = slot.train()(X7.repeat(50, 1), INPUTS)
    positive = whole > 0
    for t, (rate, scale) in enumerate([(0.25, 4 / 3), (0.0, 1.0), (0.75, 4.0)]):
        out = dropped[:, t][positive[:, t]] / whole[:, t][positive[:, t]]
        assert abs((out == 0).float().mean().item() - rate) < 0.03
        torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], scale))


def test_t4_norms_are_in_fp32_under_autocast() -> None:
    slot = towers(hidden=[6], norm="layer")
    seen: list[Tensor] = []
    slot.mlps.layers[0].norm.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        slot(X7, INPUTS)
    assert seen[0].dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": [6, 4], "activation": "gelu", "norm": "layer"},
        {"hidden": [4], "activation": "silu", "per_task": {"cart": {"hidden": [3, 4]}}},
    ],
)
def test_t5_gradients_in_fp64(options: dict[str, Any]) -> None:
    slot = towers(**options).double()
    names = [name for name, _ in slot.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in slot.parameters()]
    h = X7[:3].double().requires_grad_()

    def call(h: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(slot, dict(zip(names, weights, strict=True)), (h, INPUTS))

    assert torch.autograd.gradcheck(call, (h, *values))


def test_weights_of_versions_without_a_type_keep_their_names() -> None:
    names = {name for name, _ in make("mmoe").towers.named_parameters()}
    assert names == {"mlps.layers.0.weight", "mlps.layers.0.bias"}
    torch.manual_seed(0)
    plain = build_ranker(config("mmoe"), FUNNEL, SPEC, {})
    assert torch.equal(plain(INPUTS), make("mmoe", towers={"type": "mlp", "hidden": [4]})(INPUTS))


def test_own_towers_need_a_tower_per_task() -> None:
    with pytest.raises(ConfigError, match="has 4 towers for 3 tasks"):
        MLPTowers(Context(FORK, SPEC, heads=4, width=5), hidden=[4], per_task={"click": {"dropout": 0.5}})


class Gathered(TowersSlot):
    """Towers from outside, which know tensors alone and read a feature."""

    def __init__(self, context: Context, *, width: int):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(context.width + len(context.spec.dense), width)
        self._heads = context.heads

    def forward(self, h: X, inputs: ModelInput) -> Tensor:
        both = torch.cat((h, inputs.dense), 1)
        return F.relu(self.linear(both)).unsqueeze(1).expand(-1, self._heads, -1)


def test_towers_of_ones_own() -> None:
    section = {"type": "custom", "path": f"{__name__}:Gathered", "options": {"width": 6}}
    model = make("no_towers", towers=section)
    assert isinstance(model.towers, Gathered)
    assert model(INPUTS).shape == (7, 3)


# Features by task

READS = {"click": ["user", "hour"], "buy": ["item", "age", "price"]}
NAMES = [*["user"] * 4, *["item"] * 4, "age", "hour", "price"]


def test_r1_columns_of_other_features_are_zeros() -> None:
    slot = TaskFeatures(Context(FUNNEL, SPEC, heads=3, width=11, sources=[[name] for name in NAMES]), reads=READS)
    x = x_of(INPUTS)
    found = slot(x, INPUTS)
    for t, task in enumerate(FUNNEL):
        kept = torch.tensor([float(name in READS.get(task, NAMES)) for name in NAMES])
        assert torch.equal(found[:, t], x * kept)
    each = torch.stack((x, -x, 2 * x), 1)
    assert torch.equal(slot(each, INPUTS)[:, 0], found[:, 0])
    x[:, 0] = torch.inf  # of the user
    assert slot(x, INPUTS)[:, 2].isfinite().all()


@pytest.mark.parametrize("trunk", ["mmoe", "shared_bottom", "no_towers"])
def test_r2_a_task_does_not_depend_on_what_it_may_not_read(trunk: str) -> None:
    model = stirred(trunk, refine={"type": "task_features", "reads": READS})
    before = model(INPUTS)
    other = rows(7)
    other.pooled[:, 4:] += 1  # the item
    moved = (model(other) - before).abs().amax(0) > 1e-4
    assert moved.tolist() == [False, True, True]
    other = rows(7)
    other.dense[:, 1] += 1  # the hour
    moved = (model(other) - before).abs().amax(0) > 1e-4
    assert moved.tolist() == [True, True, False]


def test_r3_histories_are_read_together() -> None:
    with_user = {"type": "task_features", "reads": {"click": ["user"], "cart": ["items", "kinds", "carts"]}}
    model = stirred("mmoe", refine=with_user, sequence={"type": "pooled"})
    before, other = model(INPUTS), rows(7)
    other.sequences["carts"] = (other.sequences["carts"][0] + 1, other.sequences["carts"][1])
    moved = (model(other) - before).abs().amax(0) > 1e-5
    assert moved.tolist() == [False, True, True]


@pytest.mark.parametrize(
    "sequence",
    [
        {"type": "pooled"},
        {"type": "transformer", "width": 4, "heads": 1},
        {"type": "dupn", "item": ["items"], "properties": ["kinds"], "hidden": 4},
        {"type": "dupn", "item": ["items"], "properties": ["kinds", "gap"], "hidden": 4},
    ],
)
def test_r3_a_task_reads_the_numbers_of_its_histories(sequence: dict[str, Any]) -> None:
    spec = replace(SPEC, sequences={"items": 4, "gap": 1, "kinds": 2}, numbers={"gap": "items"})
    reads = {"click": ["user"], "cart": ["items", "kinds"]}
    section = config("mmoe", refine={"type": "task_features", "reads": reads}, sequence=sequence)
    model = stir(build_ranker(section, FUNNEL, spec, {}))
    given, other = rows(7, spec=spec), rows(7, spec=spec)
    numbers, lengths = given.sequences["gap"]
    other.sequences["gap"] = numbers + 3 * (numbers != 0), lengths
    moved = (model(other) - model(given)).abs().amax(0) > 1e-5
    assert moved.tolist() == [False, True, True]


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not say on which features"):
        make("dtrn", refine={"type": "task_features", "reads": {"click": ["user"]}})
    with pytest.raises(ConfigError, match="has 4 towers for 3 tasks"):
        make("esm2", refine={"type": "task_features", "reads": {"click": ["user"]}})
