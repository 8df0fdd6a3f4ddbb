"""DTRN = TIM + TRM: the formulas, and C1 to C8 (docs/formulas.md §14)."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.model import Model
from raymtl.config.presets import apply_preset
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.refiners.trm import TRM
from raymtl.models.sequences.conditional_norm import ConditionalNorms, conditional_norm
from raymtl.models.sequences.tim import TargetAttention, TIMSequence
from raymtl.models.slots import Context
from tests.helpers.model_zoo import FUNNEL, compare_with_export, stir

SPEC = InputSpec(
    pooled={"user": 4, "item": 3}, sequences={"clicked": 3, "how": 2, "bought": 3}, dense=("price",), dense_fill=(0.0,)
)
BEHAVIOURS = {"click": ["clicked", "how"], "buy": ["bought"]}
LENGTHS = {"clicked": 5, "how": 5, "bought": 3}
WIDTH, HEADS, TASKS, TYPES = 8, 2, 3, 2
OPTIONS: dict[str, Any] = {
    "behaviours": BEHAVIOURS,
    "target": ["item", "price"],
    "width": WIDTH,
    "heads": HEADS,
    "layers": 1,
    "positions": 4,
}
TRUNKS: dict[str, dict[str, Any]] = {
    "mmoe": {"type": "mmoe", "experts": 3, "hidden": [8, 6]},
    "ple": {"type": "ple", "levels": 2, "task_experts": 2, "shared_experts": 1, "hidden": [8, 6]},
}
every_trunk = pytest.mark.parametrize("trunk", TRUNKS)


def rows(n: int, seed: int = 1, padding: int = 0) -> ModelInput:
    """Rows with click histories of 0 to 5 steps and buy histories of 3 down to 0."""
    g = torch.Generator().manual_seed(seed)
    counts = {"click": torch.arange(n) % 6, "buy": 3 - torch.arange(n) % 4}
    sequences = {}
    for behaviour, features in BEHAVIOURS.items():
        for name in features:
            length = LENGTHS[name]
            valid = torch.arange(length) < counts[behaviour].unsqueeze(1)
            steps = torch.randn(n, length, SPEC.sequences[name], generator=g) * valid.unsqueeze(2)
            sequences[name] = (F.pad(steps, (0, 0, 0, padding)), counts[behaviour])
    return ModelInput(torch.randn(n, 7, generator=g), torch.randn(n, 1, generator=g), sequences)


def take(inputs: ModelInput, index: Tensor | slice) -> ModelInput:
    sequences = {name: (steps[index], lengths[index]) for name, (steps, lengths) in inputs.sequences.items()}
    return ModelInput(inputs.pooled[index], inputs.dense[index], sequences)


def new_tim(heads: int = TASKS, **options: Any) -> TIMSequence:
    torch.manual_seed(0)
    return TIMSequence(Context(FUNNEL, SPEC, heads=heads), **{**OPTIONS, **options})


def tim(**options: Any) -> TIMSequence:
    return stir(new_tim(**options))


def trm(width: int = 5, hidden: int = 4) -> TRM:
    torch.manual_seed(0)
    return TRM(Context(FUNNEL, SPEC, heads=TASKS, width=width), hidden=hidden)


def make(trunk: str = "mmoe") -> Ranker:
    torch.manual_seed(0)
    model = {
        "preset": "dtrn",
        "sequence": OPTIONS,
        "refine": {"hidden": 4},
        "trunk": TRUNKS[trunk],
        "towers": {"hidden": [4]},
    }
    return build_ranker(Model(**apply_preset(model)), FUNNEL, SPEC, {})


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Multi-head attention of q [Q, d] among k, v [n, d], head by head."""
    heads = zip(q.chunk(HEADS, 1), k.chunk(HEADS, 1), v.chunk(HEADS, 1), strict=True)
    return torch.cat([(a @ b.T / (WIDTH / HEADS) ** 0.5).softmax(1) @ c for a, b, c in heads], 1)


def written_out(slot: TIMSequence, inputs: ModelInput) -> Tensor:
    """The formulas for every row, task and type by itself, without padding or masks: [B, T, S·d]."""
    norms = slot.norms

    def cln(x: Tensor, norm: int, task: int, kind: int) -> Tensor:
        condition = torch.cat((norms.task[task], norms.behaviour[kind]))
        made = []
        for place in (
            norm % len(norms.gamma),
            norm % len(norms.gamma) + len(norms.gamma),
        ):  # the network of γ, and that of β
            hidden = (norms.hidden.weight[place] @ condition + norms.hidden.bias[place]).relu()
            made.append(norms.weight[place] @ hidden + norms.bias[place])
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return made[0] * norms.gamma[norm, 0] * x + made[1] + norms.beta[norm, 0]

    def feed(layer: nn.Module, x: Tensor) -> Tensor:
        return layer.outer(layer.inner(x).relu())

    def encoded(q: Tensor, row: int, task: int, kind: int) -> Tensor:
        features = list(BEHAVIOURS.values())[kind]
        n = int(inputs.sequences[features[0]][1][row])
        if n == 0:
            return torch.zeros(1, WIDTH)
        x = slot.project[kind](torch.cat([inputs.sequences[name][0][row, :n] for name in features], 1))
        x = x + slot.position.weight[[min(n - 1 - i, 3) for i in range(n)]]
        for i, (attention, feed_forward) in enumerate(zip(slot.attention, slot.feed_forward, strict=True)):
            heard = attend(attention.query(x), attention.key(x), attention.value(x))
            x = cln(x + attention.out(heard), 2 * i, task, kind)
            x = cln(x + feed(feed_forward, x), 2 * i + 1, task, kind)
        key, value = slot.target_attention.key_value
        return attend(slot.target_attention.query(q), x @ key.T, x @ value.T)

    def one(row: int, task: int, kind: int) -> Tensor:
        q = slot.query(torch.cat((inputs.pooled[row, 4:], inputs.dense[row]))).unsqueeze(0)
        heard = encoded(q, row, task, kind)
        z = cln(q + slot.target_attention.out(heard), -2, task, kind)
        return cln(z + feed(slot.target_feed_forward, z), -1, task, kind)[0]

    batch, tasks = len(inputs.pooled), len(norms.task)
    return torch.stack(
        [
            torch.stack([torch.cat([one(row, task, kind) for kind in range(TYPES)]) for task in range(tasks)])
            for row in range(batch)
        ]
    )


def test_c1_without_conditions_it_is_a_layer_norm() -> None:
    norms = ConditionalNorms(3, TASKS, TYPES, WIDTH, 4)
    for p in (norms.gamma, norms.beta):
        p.data.normal_()
    scale, shift = norms()
    assert scale.shape == shift.shape == (3, TASKS, TYPES, 1, WIDTH)
    x = 5 * torch.randn(4, 1, TYPES, 6, WIDTH) + 2
    for i in range(3):
        plain = F.layer_norm(x, (WIDTH,), norms.gamma[i, 0], norms.beta[i, 0], eps=1e-6)
        torch.testing.assert_close(conditional_norm(x, scale[i], shift[i]), plain.expand(-1, TASKS, -1, -1, -1))
    norms.task.data.normal_()
    norms.weight.data.normal_()
    assert norms()[0].std(1).min() > 0.001


def test_c2_at_the_start_all_tasks_hear_the_same() -> None:
    out = new_tim()(rows(12))
    assert out.shape == (12, TASKS, TYPES * WIDTH)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    assert (out[..., :WIDTH] - out[..., WIDTH:]).abs().amax((1, 2))[1] > 0.1  # kinds differ: they have other steps
    stirred_out = tim()(rows(12))
    assert (stirred_out[:, 0] - stirred_out[:, 1]).abs().max() > 0.1


def test_c2_at_the_start_the_trunk_reads_the_plain_input() -> None:
    model, inputs, read = make(), rows(12), []
    model.trunk.register_forward_pre_hook(lambda m, args: read.append(args[0]))
    model(inputs)
    plain = torch.cat((inputs.pooled, inputs.dense, model.sequence(inputs)[:, 0]), 1)
    torch.testing.assert_close(read[0], plain.unsqueeze(1).expand(-1, TASKS, -1))


def test_c3_same_embedding_of_the_task_same_interest() -> None:
    slot, inputs = tim(), rows(12)
    slot.norms.task.data[1] = slot.norms.task.data[0]
    out = slot(inputs)
    torch.testing.assert_close(out[:, 1], out[:, 0])
    assert (out[:, 2] - out[:, 0]).abs().max() > 0.1


def test_c3_same_embedding_of_the_behaviour_same_interest() -> None:
    slot, inputs = tim(behaviours={"click": ["clicked"], "buy": ["bought"]}), rows(12)
    inputs.sequences["bought"] = inputs.sequences["clicked"]
    slot.project[1].load_state_dict(slot.project[0].state_dict())
    first, second = slot(inputs).chunk(2, 2)
    assert (first - second).abs().max() > 0.1
    slot.norms.behaviour.data[1] = slot.norms.behaviour.data[0]
    first, second = slot(inputs).chunk(2, 2)
    torch.testing.assert_close(first, second)


def test_c4_a_task_trains_all_types_and_no_other_task() -> None:
    model, inputs = stir(make()), rows(24)
    norms = model.sequence.norms
    logits = model(inputs)
    for t in range(TASKS):
        task, behaviour = torch.autograd.grad(logits[:, t].sum(), [norms.task, norms.behaviour], retain_graph=True)
        assert [bool(g.any()) for g in task] == [s == t for s in range(TASKS)]
        assert behaviour.any(1).all()


@pytest.mark.parametrize("per_task", [False, True])
def test_c5_at_the_start_refinement_changes_nothing(per_task: bool) -> None:
    refine, x = trm(), torch.randn((6, TASKS, 5) if per_task else (6, 5))
    assert refine.width == 5
    r = refine(x, rows(6))
    assert torch.equal(r, x if per_task else x.unsqueeze(1).expand(-1, TASKS, -1))
    stir(refine)
    assert (refine(x, rows(6)) - r).abs().max() > 0.1


def test_c6_a_gate_of_zero_lets_no_gradient_through() -> None:
    refine, x = trm(), torch.randn(6, 5, requires_grad=True)
    refine.bias.data[:, 2] = -1000
    r = refine(x, rows(6))
    r.sum().backward()
    assert not r[..., 2].any()
    assert x.grad.any(0).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("per_task", [False, True])
def test_trm_equals_the_formula_written_out(per_task: bool) -> None:
    refine, x = stir(trm()), torch.randn((6, TASKS, 5) if per_task else (6, 5))
    r = refine(x, rows(6))
    assert r.shape == (6, TASKS, 5)
    for t in range(TASKS):
        raw = x[:, t] if per_task else x
        hidden = (raw @ refine.hidden.weight[t].T + refine.hidden.bias[t]).relu()
        torch.testing.assert_close(r[:, t], raw * 2 / (1 + (-hidden @ refine.weight[t].T - refine.bias[t]).exp()))


@pytest.mark.parametrize("layers", [1, 2])
def test_c7_folding_equals_looping(layers: int) -> None:
    slot, inputs = tim(layers=layers), rows(9)
    torch.testing.assert_close(slot(inputs), written_out(slot, inputs), rtol=1e-4, atol=1e-5)


def test_c7_as_many_streams_as_the_coupler_reads() -> None:
    slot, inputs = tim(heads=2), rows(5)
    assert slot(inputs).shape == (5, 2, slot.width)
    torch.testing.assert_close(slot(inputs), written_out(slot, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_c8_an_empty_type_gives_a_finite_vector_that_knows_only_the_target(layers: int) -> None:
    slot, inputs = tim(layers=layers), rows(24)
    no_click = inputs.sequences["clicked"][1] == 0
    inputs.pooled[:, 4:] = inputs.pooled[:1, 4:]
    inputs.dense[:] = inputs.dense[:1]
    for steps, _ in inputs.sequences.values():
        steps.requires_grad_()
    out = slot(inputs)
    assert out.isfinite().all()
    click, buy = out[no_click].split(WIDTH, 2)
    assert len(click) == 4
    torch.testing.assert_close(click, click[:1].expand_as(click))
    assert (buy[0] - buy[1]).abs().max() > 0.001
    click.sum().backward()
    assert not any(steps.grad.any() for steps, _ in inputs.sequences.values())
    assert all(p.grad.isfinite().all() for p in slot.parameters() if p.grad is not None)
    inputs.pooled = inputs.pooled + 1
    assert (slot(inputs)[no_click][..., :WIDTH] - click).abs().max() > 0.1


def test_padding_changes_nothing() -> None:
    slot, inputs, longer = tim(), rows(12), rows(12, padding=2)
    before = slot(inputs)
    torch.testing.assert_close(slot(longer), before, rtol=1e-5, atol=1e-5)
    for steps, lengths in longer.sequences.values():
        steps += 7 * (torch.arange(steps.shape[1]) >= lengths.unsqueeze(1)).unsqueeze(2)
    torch.testing.assert_close(slot(longer), before, rtol=1e-5, atol=1e-5)


def test_positions_count_back_from_the_most_recent_step() -> None:
    slot, inputs = tim(), rows(6)  # rows of 0 to 5 clicks, 4 positions
    x, mask = slot._steps(inputs)
    places = x[:, 0, 0] - slot.project[0](torch.cat((inputs.sequences["clicked"][0], inputs.sequences["how"][0]), 2))
    for row in range(6):
        expected = [max(0, min(row - 1 - i, 3)) for i in range(5)]
        torch.testing.assert_close(places[row], slot.position.weight[expected])
    assert mask[:, 0].sum(2).tolist() == [[0, 3], [1, 2], [2, 1], [3, 0], [4, 3], [5, 2]]


@pytest.mark.parametrize("autocast", [False, True])
def test_g8_weights_of_the_target_sum_to_one(autocast: bool) -> None:
    attention = stir(TargetAttention(WIDTH, HEADS, 0.0))
    memory, asked = torch.randn(7, TASKS, TYPES, 4, WIDTH), torch.randn(7, HEADS, WIDTH)
    mask = torch.arange(4) < (torch.arange(14) % 5).view(7, 1, TYPES, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        weight = attention.weights(asked, memory, mask)
    assert weight.shape == (7, TASKS, TYPES, HEADS, 4)
    assert weight.dtype == torch.float32
    seen = mask.unsqueeze(3).expand_as(weight)
    assert (weight[seen] > 0).all()
    assert not weight[~seen].any()
    some = mask.any(3).unsqueeze(3).expand_as(weight[..., 0]).float()
    torch.testing.assert_close(weight.sum(4), some, rtol=0, atol=1e-6)


def test_norms_are_exact_under_autocast() -> None:
    norms, x = stir(ConditionalNorms(1, TASKS, TYPES, WIDTH, 4)), 100 + torch.randn(4, 1, TYPES, 6, WIDTH)
    exact = conditional_norm(x, *(part[0] for part in norms()))
    with torch.autocast("cpu", torch.bfloat16):
        scale, shift = norms()
        under_autocast = conditional_norm(x, scale[0], shift[0])
    assert torch.equal(under_autocast, exact)


def test_gates_are_in_fp32_under_autocast() -> None:
    refine, x = stir(trm()), torch.randn(64, 5)
    exact = refine.gate(x)
    with torch.autocast("cpu", torch.bfloat16):
        gate = refine.gate(x)
        r = refine(x, rows(64))
    assert gate.dtype == r.dtype == torch.float32
    assert 0 < (gate - exact).abs().max() < 0.05


@every_trunk
def test_batch_of_none_one_and_any_order(trunk: str) -> None:
    model, inputs = stir(make(trunk)).eval(), rows(7)
    together = model(inputs)
    assert together.std(0).min() > 1e-3  # ten times the tolerance below: the rows do differ
    alone = torch.cat([model(take(inputs, slice(i, i + 1))) for i in range(7)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    order = torch.randperm(7)
    torch.testing.assert_close(model(take(inputs, order)), together[order], rtol=1e-4, atol=1e-4)
    none = take(inputs, slice(0, 0))
    for steps, _ in none.sequences.values():
        steps.requires_grad_()
    logits = model.train()(none)
    assert logits.shape == (0, TASKS)
    logits.sum().backward()  # also the tables take part in every step
    assert all(steps.grad is not None for steps, _ in none.sequences.values())
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@every_trunk
def test_every_parameter_learns(trunk: str) -> None:
    model = stir(make(trunk))
    model(rows(48)).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


@every_trunk
def test_autocast_stays_near_full_precision(trunk: str) -> None:
    model, inputs = stir(make(trunk)), rows(64)
    exact = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(inputs)
        rounded.sum().backward()
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_dropout_acts_in_training_only() -> None:
    slot, inputs = tim(dropout=0.5), rows(12)
    assert not torch.equal(slot(inputs), slot(inputs))
    slot.eval()
    assert torch.equal(slot(inputs), slot(inputs))
    torch.testing.assert_close(slot(inputs), tim()(inputs))


@every_trunk
def test_exported_graph_equals_eval(trunk: str) -> None:
    compare_with_export(stir(make(trunk)), rows(5), lambda n: rows(n, seed=n), rtol=1e-4, atol=1e-5)


def test_overfits_tasks_that_care_for_different_behaviour() -> None:
    """One task buys what it clicked, the other what it bought: the same transformer must tell both."""
    torch.manual_seed(1)
    spec = InputSpec({"item": 4}, sequences={"clicked": 4, "bought": 4})
    items = torch.randn(12, 4)
    candidate, clicked, bought = torch.randint(12, (128,)), torch.randint(12, (128, 4)), torch.randint(12, (128, 4))
    y = torch.stack([(history == candidate.unsqueeze(1)).any(1) for history in (clicked, bought)], 1).float()
    full = torch.full((128,), 4)
    inputs = ModelInput(
        items[candidate], torch.zeros(128, 0), {"clicked": (items[clicked], full), "bought": (items[bought], full)}
    )
    model = {
        "preset": "dtrn",
        "sequence": {"target": ["item"], "width": 16},
        "trunk": {"experts": 2, "hidden": [32, 16]},
        "towers": {"hidden": [16]},
    }
    two = {"click": FUNNEL["click"], "buy": FUNNEL["click"]}
    ranker = build_ranker(Model(**apply_preset(model)), two, spec, {})
    optimizer = torch.optim.Adam(ranker.parameters(), lr=1e-2)
    for _ in range(100):
        loss = F.binary_cross_entropy_with_logits(ranker(inputs), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
