"""PLE and CGC: the formula, and P1 to P5 (docs/formulas.md §4)."""

import pytest
import torch
from torch import Tensor

from raymtl.models.trunks.mmoe import MMoE
from raymtl.models.trunks.ple import PLE
from tests.helpers.model_zoo import FUNNEL, WIDTH, context, rows, stir, stirred, x_of
from tests.models.test_mmoe import expert


def written_out(trunk: PLE, x: Tensor) -> Tensor:
    """The levels as the paper writes them, stream by stream and expert by expert."""
    tasks, own, shared = trunk.levels[0].tasks, trunk.levels[0].own, trunk.levels[0].shared
    streams = [x] * tasks if x.dim() == 2 else list(x.unbind(1))
    common = x if x.dim() == 2 else x.mean(1)

    def mix(gates, g: int, stream: Tensor, candidates: list[Tensor]) -> Tensor:
        scores = stream @ gates.weight[g].T + (0 if gates.bias is None else gates.bias[g])
        assert scores.shape[1] == len(candidates)
        return sum(w.unsqueeze(1) * c for w, c in zip(scores.softmax(-1).unbind(1), candidates, strict=True))

    for level in trunk.levels:
        mine = [[expert(level.experts, t * own + i, streams[t]) for i in range(own)] for t in range(tasks)]
        ours = [expert(level.experts, tasks * own + i, common) for i in range(shared)]
        new = [mix(level.task_gates, t, streams[t], mine[t] + ours) for t in range(tasks)]
        if level.shared_gate is not None:
            common = mix(level.shared_gate, 0, common, [e for m in mine for e in m] + ours)
        streams = new
    return torch.stack(streams, 1)


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("own", "shared"), [(2, 2), (1, 3), (3, 1), (0, 2), (2, 0)])
@pytest.mark.parametrize(("levels", "hidden"), [(1, [7, 5]), (2, [6]), (3, [7, 5])])
def test_equals_the_paper_written_out(
    levels: int, hidden: list[int], own: int, shared: int, bias: bool, per_task: bool
) -> None:
    options = {"levels": levels, "task_experts": own, "shared_experts": shared, "hidden": hidden, "gate_bias": bias}
    trunk = stir(PLE(context(FUNNEL), **options))
    x = torch.randn(20, 3, WIDTH) if per_task else torch.randn(20, WIDTH)
    h = trunk(x, rows(20))
    assert h.shape == (20, 3, hidden[-1])
    torch.testing.assert_close(h, written_out(trunk, x), rtol=1e-4, atol=1e-5)


def test_p1_without_own_experts_one_level_is_mmoe() -> None:
    ple = stir(PLE(context(FUNNEL), levels=1, task_experts=0, shared_experts=3, hidden=[8, 6]))
    mmoe = stir(MMoE(context(FUNNEL), experts=3, hidden=[8, 6]), seed=7)
    inputs = rows(30)
    mmoe.experts.load_state_dict(ple.levels[0].experts.state_dict())
    assert (ple(x_of(inputs), inputs) - mmoe(x_of(inputs), inputs)).abs().max() > 0.01
    mmoe.gates.load_state_dict(ple.levels[0].task_gates.state_dict())
    torch.testing.assert_close(ple(x_of(inputs), inputs), mmoe(x_of(inputs), inputs))


def test_p2_without_shared_experts_tasks_are_independent() -> None:
    model = stirred("ple_own")
    own = model.trunk.levels[0].own
    logits = model(rows(30))
    for t in range(3):
        for level in model.trunk.levels:
            parameters = list(level.parameters())
            for g in torch.autograd.grad(logits[:, t].sum(), parameters, retain_graph=True):
                per_task = g.unflatten(0, (3, own)) if len(g) == 3 * own else g
                assert [bool(part.any()) for part in per_task] == [s == t for s in range(3)]


@pytest.mark.parametrize("levels", [1, 2])
def test_p3_own_experts_reach_others_only_through_the_shared_stream(levels: int) -> None:
    trunk = stir(PLE(context(FUNNEL), levels=levels, task_experts=2, shared_experts=1, hidden=[8, 6]))
    h = trunk(x_of(rows(30)), rows(30))
    weight = trunk.levels[0].experts.layers[0].weight
    for t in range(3):
        (gradient,) = torch.autograd.grad(h[:, t].sum(), [weight], retain_graph=True)
        own, shared = gradient.split((6, 1))
        reached = [bool(g.any()) for g in own.unflatten(0, (3, 2))]
        assert reached == ([s == t for s in range(3)] if levels == 1 else [True] * 3)
        assert shared.any()


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_p4_one_shared_gate_less_than_levels(levels: int) -> None:
    trunk = PLE(context(FUNNEL), levels=levels, task_experts=2, shared_experts=1, hidden=[8])
    assert sum(level.shared_gate is not None for level in trunk.levels) == levels - 1
    assert trunk.levels[-1].shared_gate is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("own", "shared"), [(2, 2), (1, 3), (0, 2), (2, 0)])
@pytest.mark.parametrize("levels", [1, 3])
def test_p5_number_of_parameters(levels: int, own: int, shared: int, bias: bool) -> None:
    tasks, d, (a, b) = 3, WIDTH, (8, 6)
    trunk = PLE(context(FUNNEL), levels=levels, task_experts=own, shared_experts=shared, hidden=[a, b], gate_bias=bias)
    expected = 0
    for level in range(levels):
        width, experts = (b if level else d), tasks * own + shared
        expected += experts * ((width + 1) * a + (a + 1) * b)
        expected += tasks * (own + shared) * (width + bias)
        if shared and level < levels - 1:
            expected += experts * (width + bias)
    assert sum(p.numel() for p in trunk.parameters()) == expected


def test_gates_average_at_the_start() -> None:
    trunk = PLE(context(FUNNEL), levels=2, task_experts=2, shared_experts=2, hidden=[8])
    mixture = trunk.levels[0].mixture(torch.randn(5, WIDTH))
    assert mixture.shape == (5, 4, 8)
    assert mixture[0, 0].tolist() == [0.25, 0.25, 0, 0, 0, 0, 0.25, 0.25]
    assert mixture[0, 3].tolist() == [0.125] * 8
