"""M2M: the formula, and X3 to X9 (docs/formulas.md §13); X1 and X2 are in test_meta.py, X8 in test_transformer.py."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.config.model import Model
from raymtl.config.presets import apply_preset
from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.layers import GroupedMLP
from raymtl.models.ranker import build_ranker
from raymtl.models.slots import Context
from raymtl.models.trunks import knowledge as knowledge_module
from raymtl.models.trunks.knowledge import ScenarioBlocks, ScenarioKnowledge
from raymtl.models.trunks.m2m import M2M, MetaAttention
from raymtl.models.trunks.meta import LEAK, MetaLayer
from raymtl.objectives.losses import TaskLosses
from tests.helpers.model_zoo import FUNNEL, SPEC, WIDTH, context, make, rows, stir, stirred, take, x_of

D, K = 6, 4
OTHER = SPEC.scenarios - 1
BY_SCENARIO: list[str] = []
BY_ROW = ["user", "age"]
both_kinds = pytest.mark.parametrize("knowledge", [BY_SCENARIO, BY_ROW])


def trunk(knowledge: list[str] = BY_ROW, experts: int = 3, **options: Any) -> M2M:
    torch.manual_seed(0)
    return M2M(context(FUNNEL), experts=experts, hidden=[8, D], knowledge=knowledge, knowledge_dim=K, **options)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few rows fill several."""
    monkeypatch.setattr(knowledge_module, "BLOCK", 4)


def alike(n: int = 3) -> ModelInput:
    """The same row for each of n scenarios."""
    inputs = take(rows(1), torch.zeros(n, dtype=torch.long))
    inputs.scenario = torch.arange(n)
    return inputs


def written_out(m: M2M, x: Tensor, inputs: ModelInput, row: int) -> list[Tensor]:
    """h_t of one row, every generated matrix made; x [d], or [T, d]."""
    s = None
    if m.knowledge is not None:
        known = [m.knowledge.scenario.weight[inputs.scenario[row]]]
        if m.knowledge.mlp.layers[0].in_features > K:
            known += [inputs.pooled[row, :4], inputs.dense[row, :1]]  # user and age
        u = torch.cat(known)
        (layer,) = m.knowledge.mlp.layers
        s = (u @ layer.weight.T + layer.bias).relu() @ m.knowledge.out.weight.T + m.knowledge.out.bias
    h = []
    for t in range(3):
        xt = x if x.dim() == 1 else x[t]
        views = []
        for e in range(len(m.experts.layers[0].weight)):
            view = xt
            for layer in m.experts.layers:
                view = (layer.weight[e] @ view + layer.bias[e]).relu()
            views.append(view)
        if isinstance(m.gates, MetaAttention):
            (to_view,) = m.gates.task_mlp.layers
            task = (to_view.weight @ m.gates.task[t] + to_view.bias).relu()
            scores = []
            for view in views:
                part = torch.cat((view, task))
                for layer in m.gates.layers:
                    part = meta(layer, t, part, s)
                scores.append(part @ m.gates.score)
            weights = torch.stack(scores).softmax(0)
        else:
            weights = (m.gates.weight[t] @ xt).softmax(0)
        out = sum(w * view for w, view in zip(weights, views, strict=True))
        for layer in m.tower:
            out = F.leaky_relu(meta(layer, t, out, s) + out, LEAK)
        h.append(out)
    return h


def meta(layer: MetaLayer, t: int, h: Tensor, s: Tensor | None) -> Tensor:
    weight, bias = layer.weight[t], layer.bias[t]
    if layer.constant_weight is not None:
        weight = torch.cat((weight, layer.constant_weight[t]))
    if hasattr(layer, "weight_of"):
        of = layer.weight_of[t]
        if layer.constant_weight is not None:
            of = torch.cat((of, layer.constant_of[t]), 1)
        weight = weight + sum(s[j] * of[j] for j in range(K))
        bias = bias + sum(s[j] * layer.bias_of[t, j] for j in range(K))
    return F.leaky_relu(h @ weight + bias, LEAK)


@both_kinds
@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"meta_layers": 2, "tower_layers": 1},
        {"meta_attention": False},
        {"meta_tower": False},
        {"meta_attention": False, "meta_tower": False},
    ],
)
def test_equals_the_formula(options: dict[str, Any], per_task: bool, knowledge: list[str]) -> None:
    m, inputs = stir(trunk(knowledge, **options)), rows(9)
    x = torch.randn(9, 3, WIDTH) if per_task else x_of(inputs)
    h = m(x, inputs)
    assert h.shape == (9, 3, D)
    for row in range(9):
        for t, expected in enumerate(written_out(m, x[row], inputs, row)):
            torch.testing.assert_close(h[row, t], expected, rtol=1e-4, atol=1e-4)


@both_kinds
def test_x3_another_scenario_is_another_mixture(knowledge: list[str]) -> None:
    m, inputs = stir(trunk(knowledge, tower_layers=0)), alike()
    mixture = m(x_of(inputs), inputs)  # without tower layers: R_t
    for t in range(3):
        assert (mixture[0, t] - mixture[1, t]).abs().max() > 1e-3
        assert (mixture[1, t] - mixture[2, t]).abs().max() > 1e-3


@both_kinds
def test_x3_same_scenario_same_representation(knowledge: list[str]) -> None:
    m, inputs = stir(trunk(knowledge)), alike(9)
    inputs.scenario = torch.tensor([1, 0, 1, 1, 0, 2, 1, 0, 1])
    h = m(x_of(inputs), inputs)
    for a in range(9):
        for b in range(a):
            if inputs.scenario[a] == inputs.scenario[b]:
                torch.testing.assert_close(h[a], h[b], rtol=1e-6, atol=1e-6)
            else:
                assert (h[a] - h[b]).abs().max() > 1e-3


@both_kinds
@pytest.mark.parametrize("per_task", [False, True])
def test_x4_attention_sums_to_one_over_the_experts_in_fp32(per_task: bool, knowledge: list[str]) -> None:
    m, inputs, found = stir(trunk(knowledge)), rows(20), []
    m.gates.register_forward_hook(lambda m, args, out: found.append(out))
    x = torch.randn(20, 3, WIDTH) if per_task else x_of(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        h = m(x, inputs)
    assert h.dtype == torch.bfloat16
    (weights,) = found
    assert weights.dtype == torch.float32
    assert weights.shape == (3, 20, 3)  # tasks, rows, experts
    assert (weights >= 0).all()
    assert weights.std(2).min() > 0
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 20), rtol=0, atol=1e-6)


@both_kinds
def test_x5_one_expert_is_the_mixture_whatever_the_scenario(knowledge: list[str]) -> None:
    m, inputs = stir(trunk(knowledge, experts=1, tower_layers=0)), rows(12)
    (view,) = m.experts(x_of(inputs))
    h = m(x_of(inputs), inputs)
    for t in range(3):
        torch.testing.assert_close(h[:, t], view)


@both_kinds
def test_x6_rows_do_not_see_each_other(knowledge: list[str]) -> None:
    m, inputs = stir(trunk(knowledge)), rows(25)
    order = torch.randperm(25)
    h = m(x_of(inputs), inputs)
    torch.testing.assert_close(m(x_of(inputs)[order], take(inputs, order)), h[order], rtol=1e-5, atol=1e-5)
    alone = [m(x_of(inputs)[i : i + 1], take(inputs, slice(i, i + 1))) for i in range(25)]
    torch.testing.assert_close(torch.cat(alone), h, rtol=1e-5, atol=1e-5)
    x = x_of(inputs).requires_grad_()
    (gradient,) = torch.autograd.grad(m(x, inputs)[7].square().sum(), [x])
    assert gradient[7].any()
    assert not gradient[torch.arange(25) != 7].any()


@both_kinds
def test_x7_poisson_loss_is_least_at_the_mean_of_the_labels(knowledge: list[str]) -> None:
    tasks = {"spend": Task(kind="count"), "active": Task(kind="count")}
    torch.manual_seed(0)
    options = {"sequence": {"type": "none"}, "trunk": {"knowledge": knowledge, "hidden": [8, 6], "knowledge_dim": 4}}
    model = build_ranker(config_of(options), tasks, InputSpec({"user": 8}, dense=("age",), scenarios=3), {})
    one = ModelInput(torch.randn(1, 8), torch.randn(1, 1), scenario=torch.tensor([1]))
    inputs = take(one, torch.zeros(32, dtype=torch.long))
    y = torch.poisson(torch.tensor([0.4, 3.0]).expand(32, 2), generator=torch.Generator().manual_seed(1))
    losses, ones = TaskLosses(tasks, OrderLoss()), torch.ones(32)
    observed, valid = torch.ones(32, 2).bool(), torch.ones(32).bool()
    counts = losses.counts(observed, ones, valid)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        total = losses(model(inputs), y, observed, ones, valid, counts[:-1], counts[-1]).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    torch.testing.assert_close(model.predictions(model(inputs)), y.mean(0).expand(32, 2), rtol=1e-3, atol=0)


def config_of(slots: dict[str, Any]) -> Model:
    return Model(**apply_preset({"preset": "m2m", **slots}))


def test_x9_an_unseen_scenario_goes_by_its_features() -> None:
    """After some training without a row of `other`."""
    m, inputs = trunk(BY_ROW), rows(60)
    inputs.scenario %= OTHER
    optimizer = torch.optim.Adam(m.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        (m(x_of(inputs), inputs) - 1).square().mean().backward()
        optimizer.step()
    x, fresh = x_of(alike(2)), alike(2)
    fresh.scenario = torch.full((2,), OTHER)
    same = m(x, fresh)
    assert same.isfinite().all()
    torch.testing.assert_close(same[0], same[1])
    fresh.dense = fresh.dense + torch.tensor([[0.0], [2.0]])
    by_features = m(x, fresh)
    torch.testing.assert_close(by_features[0], same[0])
    assert (by_features[0] - by_features[1]).abs().max() > 1e-4
    assert not m.knowledge.scenario.weight[OTHER].any()


def test_x9_an_unseen_scenario_without_features_is_finite() -> None:
    m, inputs = stir(trunk(BY_SCENARIO)), rows(20)
    inputs.scenario = torch.full((20,), OTHER)
    assert m(x_of(inputs), inputs).isfinite().all()


def test_other_starts_at_zero_and_the_rest_does_not() -> None:
    weight = trunk().knowledge.scenario.weight
    assert [bool(row.all()) for row in weight] == [True, True, False]
    assert not weight[OTHER].any()


@both_kinds
def test_untrained_the_scenario_changes_nothing(knowledge: list[str]) -> None:
    m, inputs = trunk(knowledge), alike()
    h = m(x_of(inputs), inputs)
    torch.testing.assert_close(h, h[:1].expand_as(h))
    assert (m.knowledge(inputs)[0].std(0) > 0).any()  # though what is known of them differs


@pytest.mark.parametrize("off", [("meta_attention",), ("meta_tower",), ("meta_attention", "meta_tower")])
def test_ablations_take_the_scenario_out_of_their_part(off: tuple[str, ...]) -> None:
    m, inputs, weights = stir(trunk(**dict.fromkeys(off, False))), alike(), []
    m.gates.register_forward_hook(lambda m, args, out: weights.append(out))
    h = m(x_of(inputs), inputs)
    differs = (weights[0].transpose(0, 1) if "meta_attention" not in off else weights[0]).std(0).max() > 1e-3
    assert differs == ("meta_attention" not in off)
    assert (h.std(0).max() > 1e-3) == (len(off) < 2)
    generated = {name.split(".")[0] for name, _ in m.named_parameters() if name.endswith("_of")}
    assert generated == {part for part, key in (("gates", "meta_attention"), ("tower", "meta_tower")) if key not in off}
    assert (m.knowledge is None) == (len(off) == 2)


def test_without_both_no_scenario_is_needed() -> None:
    spec = InputSpec({"user": WIDTH})
    m = M2M(
        Context(FUNNEL, spec, heads=3, width=WIDTH),
        **{"experts": 2, "hidden": [D], "knowledge_dim": K, "meta_attention": False, "meta_tower": False},
    )
    assert m(torch.randn(4, WIDTH), ModelInput(torch.randn(4, WIDTH), torch.zeros(4, 0))).shape == (4, 3, D)


@pytest.mark.parametrize("scenarios", [0, 3])
def test_knowledge_reads_what_there_is(scenarios: int) -> None:
    spec = dataclasses.replace(SPEC, scenarios=scenarios)
    m = stir(ScenarioKnowledge(Context(FUNNEL, spec, heads=3), ["price", "item"], K))
    inputs = rows(7)
    s, _ = m(inputs)
    parts = [m.scenario.weight[inputs.scenario]] if scenarios else []
    u = torch.cat([*parts, inputs.dense[:, 2:], inputs.pooled[:, 4:]], 1)
    expected = (u @ m.mlp.layers[0].weight.T + m.mlp.layers[0].bias).relu() @ m.out.weight.T + m.out.bias
    torch.testing.assert_close(s, expected)


def test_neither_scenario_nor_knowledge_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no scenario column and model\.trunk\.knowledge is empty"):
        M2M(Context(FUNNEL, InputSpec({"user": 4}), 3, 4), experts=2, hidden=[D], knowledge_dim=K)


@pytest.mark.parametrize("per_task", [False, True])
def test_rows_of_a_scenario_share_their_groups(per_task: bool) -> None:
    """The generated weights are as many as groups, far fewer than rows; and the result is that of a group per row."""
    m, inputs, groups = stir(trunk(BY_SCENARIO)), rows(40), []
    m.knowledge.register_forward_hook(lambda m, args, out: groups.append(out))
    x = torch.randn(40, 3, WIDTH) if per_task else x_of(inputs)
    together = m(x, inputs)
    s, blocks = groups[0]
    assert isinstance(blocks, ScenarioBlocks)
    assert len(s) == 40 // 4 + 3
    alone = torch.cat([m(x[i : i + 1], take(inputs, slice(i, i + 1))) for i in range(40)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@both_kinds
def test_no_rows(knowledge: list[str]) -> None:
    m, none = stir(trunk(knowledge)), take(rows(3), slice(0, 0))
    h = m(x_of(none), none)
    assert h.shape == (0, 3, D)
    h.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in m.parameters())


@both_kinds
def test_every_parameter_learns(knowledge: list[str]) -> None:
    m, inputs = stir(trunk(knowledge, meta_layers=2)), rows(60)
    m(x_of(inputs), inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in m.parameters())


@both_kinds
def test_autocast_stays_near_full_precision(knowledge: list[str]) -> None:
    m, inputs = stir(trunk(knowledge)), rows(30)
    exact = m(x_of(inputs), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = m(x_of(inputs), inputs)
    rounded.float().sum().backward()
    assert not torch.equal(rounded.float(), exact)
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in m.parameters())


class Flat(torch.nn.Module):
    def __init__(self, m: M2M):
        super().__init__()
        self.m = m

    def forward(self, x: Tensor, pooled: Tensor, dense: Tensor, scenario: Tensor) -> Tensor:
        return self.m(x, ModelInput(pooled, dense, scenario=scenario))


@pytest.mark.parametrize("block", [4, 64])
@both_kinds
def test_exported_graph_takes_any_number_of_rows(
    knowledge: list[str], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge_module, "BLOCK", block)
    m, batch = stir(trunk(knowledge)).eval(), torch.export.Dim("batch", min=1)

    def given(n: int) -> tuple[Tensor, ...]:
        inputs = rows(n, seed=n)
        return x_of(inputs), inputs.pooled, inputs.dense, inputs.scenario

    graph = torch.export.export(Flat(m), given(6), dynamic_shapes=({0: batch},) * 4).module()
    for n in (1, 3, 150):
        x, pooled, dense, scenario = given(n)
        expected = m(x, ModelInput(pooled, dense, scenario=scenario))
        torch.testing.assert_close(graph(*given(n)), expected, rtol=1e-5, atol=1e-5)


def test_several_backward_passes_through_one_forward() -> None:
    """Methods that balance tasks by their gradients need it."""
    m, inputs = stir(trunk()), rows(12)
    h = m(x_of(inputs), inputs)
    weights = list(m.parameters())
    parts = [
        torch.autograd.grad(h[:, t].sum(), weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        for t in range(3)
    ]
    together = torch.autograd.grad(h.sum(), weights)
    for whole, *of_tasks in zip(together, *parts, strict=True):
        torch.testing.assert_close(sum(of_tasks), whole, rtol=1e-4, atol=1e-4)


def test_experts_are_those_of_the_configuration() -> None:
    model = make("m2m")
    assert isinstance(model.trunk.experts, GroupedMLP)
    assert model.towers.mlps is None  # the meta tower is the tower
    assert model.trunk.width == 6
    assert stirred("m2m")(rows(5)).shape == (5, 3)
