"""DUPN: the formulas, and D1 to D6 (docs/formulas.md §10)."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.model import Model
from raymtl.config.presets import apply_preset
from raymtl.errors import ConfigError
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.sequences.dupn import DUPNSequence, PropertyGatedLSTM
from raymtl.models.slots import Context
from tests.helpers.model_zoo import FUNNEL, compare_with_export, stir

SPEC = InputSpec(
    pooled={"user": 4, "item": 4},
    sequences={"seen": 3, "how": 2, "shop": 2},
    dense=("price", "age"),
    dense_fill=(0.0, 0.0),
)
OPTIONS: dict[str, Any] = {
    "item": ["seen", "shop"],
    "properties": ["how"],
    "user": ["user", "age"],
    "hidden": 6,
    "attention_hidden": 5,
}
LENGTH, HIDDEN = 4, 6


def rows(n: int, seed: int = 1, length: int = LENGTH) -> ModelInput:
    """Rows with histories of 0, 1, ... steps."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.arange(n) % (LENGTH + 1)
    valid = (torch.arange(length) < lengths.unsqueeze(1)).unsqueeze(2)
    sequences = {
        name: (F.pad(torch.randn(n, LENGTH, d, generator=g), (0, 0, 0, length - LENGTH)) * valid, lengths)
        for name, d in SPEC.sequences.items()
    }
    return ModelInput(torch.randn(n, 8, generator=g), torch.randn(n, 2, generator=g), sequences)


def take(inputs: ModelInput, index: Tensor | slice) -> ModelInput:
    sequences = {name: (steps[index], lengths[index]) for name, (steps, lengths) in inputs.sequences.items()}
    return ModelInput(inputs.pooled[index], inputs.dense[index], sequences)


def slot(**options: Any) -> DUPNSequence:
    return stir(DUPNSequence(Context(FUNNEL, SPEC, heads=3), **{**OPTIONS, **options}))


def make() -> Ranker:
    torch.manual_seed(0)
    model = {"preset": "dupn", "sequence": OPTIONS, "trunk": {"hidden": [8]}, "towers": {"hidden": [4]}}
    return build_ranker(Model(**apply_preset(model)), FUNNEL, SPEC, {})


def states(lstm: PropertyGatedLSTM, e: Tensor, p: Tensor) -> Tensor:
    """The cell written out for one row, e [L, d] and p [L, m] -> h [L, hidden]."""
    w_i, w_f, w_g, w_o = lstm.item
    p_i, p_f, p_o = lstm.property
    u_i, u_f, u_g, u_o = lstm.recurrent
    b_i, b_f, b_g, b_o = lstm.bias
    h = c = torch.zeros(len(b_i))
    found = []
    for e_t, p_t in zip(e, p, strict=True):
        i = torch.sigmoid(w_i @ e_t + p_i @ p_t + u_i @ h + b_i)
        f = torch.sigmoid(w_f @ e_t + p_f @ p_t + u_f @ h + b_f)
        o = torch.sigmoid(w_o @ e_t + p_o @ p_t + u_o @ h + b_o)
        c = f * c + i * torch.tanh(w_g @ e_t + u_g @ h + b_g)
        h = o * c.tanh()
        found.append(h)
    return torch.stack(found)


def written_out(dupn: DUPNSequence, inputs: ModelInput) -> Tensor:
    """The paper's formulas, row by row and step by step, without padding or masks."""
    found = []
    for row in range(len(inputs.pooled)):
        n = int(inputs.sequences["seen"][1][row])
        seen, shop, how = (inputs.sequences[name][0][row, :n] for name in ("seen", "shop", "how"))
        x_user = torch.cat((inputs.pooled[row, :4], inputs.dense[row, 1:]))
        user = dupn.user.layers[0](x_user).relu()
        rep = torch.zeros(HIDDEN)
        if n:
            h = states(dupn.lstm, torch.cat((seen, shop), 1), how)
            att = dupn.attention
            scores = [
                (att.score.weight[0] @ (att.state(h[i]) + att.property(how[i]) + att.user(user)).relu()).exp()
                for i in range(n)
            ]
            rep = sum(s * h_i for s, h_i in zip(scores, h, strict=True)) / sum(scores)
        found.append(torch.cat((rep, user)))
    return torch.stack(found)


def test_equals_the_formulas_written_out() -> None:
    dupn, inputs = slot(), rows(12)
    out = dupn(inputs)
    assert out.shape == (12, dupn.width) == (12, 2 * HIDDEN)
    torch.testing.assert_close(out, written_out(dupn, inputs))


def test_d1_properties_never_enter_the_candidate() -> None:
    dupn = slot()
    assert sum(p.numel() for p in dupn.lstm.parameters()) == 4 * HIDDEN * (5 + HIDDEN + 1) + 3 * HIDDEN * 2
    before = dupn.lstm.input_weight().detach().unflatten(0, (4, HIDDEN))
    optimizer = torch.optim.AdamW(dupn.parameters(), lr=0.05, weight_decay=0.1)
    for step in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=step % 2 == 1):
            dupn(rows(16, seed=step)).float().square().sum().backward()
        optimizer.step()
    after = dupn.lstm.input_weight().detach().unflatten(0, (4, HIDDEN))
    assert not after[2, :, 5:].any()
    moved = (after - before).abs() > 1e-3
    moved[2, :, 5:] = True
    assert moved.all()


def test_d1_the_first_candidate_does_not_hear_properties() -> None:
    """With all gates open, whatever the properties say, they change nothing; with gates that listen, they do."""
    lstm, e = stir(PropertyGatedLSTM(3, 2, HIDDEN)), torch.randn(8, LENGTH, 3)
    one, other = torch.randn(2, 8, LENGTH, 2)
    assert (lstm(e, one) - lstm(e, other)).abs().max() > 0.05
    lstm.bias.data[[0, 1, 3]] = 100
    torch.testing.assert_close(lstm(e, one), lstm(e, other), rtol=0, atol=1e-6)


def test_d2_a_constant_property_shifts_the_gates_biases() -> None:
    lstm, e, p = stir(PropertyGatedLSTM(3, 2, HIDDEN)), torch.randn(8, LENGTH, 3), torch.randn(2)
    plain = nn.LSTM(3, HIDDEN, batch_first=True)
    i, f, o = lstm.property @ p
    with torch.no_grad():
        plain.weight_ih_l0.copy_(lstm.item.flatten(0, 1))
        plain.weight_hh_l0.copy_(lstm.recurrent.flatten(0, 1))
        plain.bias_hh_l0.zero_()
        plain.bias_ih_l0.copy_(lstm.bias.flatten())
    h = lstm(e, p.expand(8, LENGTH, 2))
    assert (h - plain(e)[0]).abs().max() > 0.01
    plain.bias_ih_l0.data += torch.cat((i, f, torch.zeros(HIDDEN), o)).detach()
    torch.testing.assert_close(h, plain(e)[0])


def test_d3_steps_beyond_the_end_change_nothing() -> None:
    dupn, inputs, longer = slot(), rows(12), rows(12, length=LENGTH + 3)
    torch.testing.assert_close(dupn(longer), dupn(inputs), rtol=1e-6, atol=1e-6)
    for steps, lengths in longer.sequences.values():
        steps += 7 * (torch.arange(LENGTH + 3) >= lengths.unsqueeze(1)).unsqueeze(2)
        steps.requires_grad_()
    out = dupn(longer)
    torch.testing.assert_close(out, dupn(inputs), rtol=1e-6, atol=1e-6)
    out.square().sum().backward()
    for steps, lengths in longer.sequences.values():
        beyond = torch.arange(LENGTH + 3) >= lengths.unsqueeze(1)
        assert not steps.grad[beyond].any()
        assert steps.grad[~beyond].any(1).all()


class Constant(nn.Module):
    def __init__(self, out: Tensor):
        super().__init__()
        self.out = out

    def forward(self, inputs: ModelInput) -> Tensor:
        return self.out


def test_d4_user_vector_once_per_request_serves_all_candidates() -> None:
    model = stir(make()).eval()
    request, candidates = take(rows(4), slice(3, 4)), rows(9, seed=5)
    for name, (steps, lengths) in request.sequences.items():
        candidates.sequences[name] = (steps.expand(9, -1, -1), lengths.expand(9))
    candidates.pooled[:, :4] = request.pooled[:, :4]
    candidates.dense[:, 1:] = request.dense[:, 1:]
    full = model(candidates)
    assert full.std(0).min() > 0.01
    once = model.sequence(request)
    model.sequence = Constant(once.expand(9, -1))
    torch.testing.assert_close(model(candidates), full)


def test_d4_reads_says_what_the_vector_depends_on() -> None:
    dupn, inputs = slot(), rows(8)
    assert dupn.reads == ("seen", "shop", "how", "user", "age")
    before = dupn(inputs)
    for name, change in {
        "user": inputs.pooled[:, :4],
        "item": inputs.pooled[:, 4:],
        "price": inputs.dense[:, :1],
        "age": inputs.dense[:, 1:],
        **{name: steps for name, (steps, _) in inputs.sequences.items()},
    }.items():
        kept = change.clone()
        change += 1.0
        assert torch.equal(dupn(inputs), before) == (name not in dupn.reads), name
        change.copy_(kept)


@pytest.mark.parametrize("train", [False, True])
def test_d5_empty_histories_are_finite(train: bool) -> None:
    dupn, inputs = slot().train(train), rows(15)
    empty = inputs.sequences["seen"][1] == 0
    assert empty.sum() == 3
    out = dupn(inputs)
    assert not out[empty, :HIDDEN].any()
    assert out[~empty, :HIDDEN].any(1).all()
    only_empty = dupn(take(inputs, empty))
    torch.testing.assert_close(only_empty, out[empty])
    only_empty.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dupn.parameters())
    assert not any(p.grad.any() for p in (*dupn.lstm.parameters(), *dupn.attention.parameters()))


@pytest.mark.parametrize("autocast", [False, True])
def test_d6_attention_sums_to_one_over_the_valid_steps(autocast: bool) -> None:
    dupn, inputs = slot(), rows(30)
    found: list[Tensor] = []
    dupn.attention.register_forward_hook(lambda m, args, out: found.append(out))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        dupn(inputs)
    (weight,) = found
    lengths = inputs.sequences["seen"][1]
    valid = torch.arange(LENGTH) < lengths.unsqueeze(1)
    assert weight.dtype == torch.float32
    assert (weight[valid] > 0).all()
    assert not weight[~valid].any()
    torch.testing.assert_close(weight.sum(1), (lengths > 0).float(), rtol=0, atol=1e-6)
    assert (weight[lengths == LENGTH].std(1) > 0.001).all()


def test_batch_of_none_one_and_any_order() -> None:
    dupn, inputs = slot(), rows(7)
    together = dupn(inputs)
    torch.testing.assert_close(torch.cat([dupn(take(inputs, slice(i, i + 1))) for i in range(7)]), together)
    order = torch.randperm(7)
    torch.testing.assert_close(dupn(take(inputs, order)), together[order])
    none = take(inputs, slice(0, 0))
    none.sequences["seen"][0].requires_grad_()
    out = dupn(none)
    assert out.shape == (0, 2 * HIDDEN)
    out.sum().backward()  # also the tables take part in every step
    assert none.sequences["seen"][0].grad.shape == (0, LENGTH, 3)
    assert all(p.grad is not None and not p.grad.any() for p in dupn.parameters())


def test_every_parameter_learns() -> None:
    dupn = slot()
    dupn(rows(20)).square().sum().backward()
    for name, p in dupn.named_parameters():
        assert p.grad.any(), name


def test_without_properties_and_without_user() -> None:
    dupn, inputs = slot(item=["seen"], properties=[], user=[]), rows(12)
    out = dupn(inputs)
    assert out.shape == (12, dupn.width) == (12, HIDDEN)
    assert dupn.reads == ("seen",)
    out.square().sum().backward()
    assert all(p.grad.any() for p in dupn.parameters())
    assert slot(item=None).reads[:3] == ("seen", "shop", "how")
    with pytest.raises(ConfigError, match="has no `item`"):
        slot(item=None, properties=["seen", "shop", "how"])


def test_autocast_stays_near_full_precision() -> None:
    dupn, inputs = slot(), rows(64)
    exact = dupn(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = dupn(inputs).float()
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()


def test_first_states_forget_slowly() -> None:
    lstm = PropertyGatedLSTM(3, 2, 16)
    assert lstm.bias.tolist() == [[0.0] * 16, [1.0] * 16, [0.0] * 16, [0.0] * 16]
    for block in lstm.recurrent:
        torch.testing.assert_close(block @ block.T, torch.eye(16))
    bound = (6 / (3 + 16)) ** 0.5
    assert 0.9 * bound < lstm.item.abs().max() <= bound


def test_exported_graph_equals_eval() -> None:
    compare_with_export(stir(make()), rows(5), lambda n: rows(n, seed=n))


def test_overfits_the_order_of_a_history() -> None:
    """The label is whether the last step resembles the first, which no mean over the steps can tell."""
    torch.manual_seed(2)
    spec = InputSpec({"user": 2}, sequences={"seen": 4})
    dupn = DUPNSequence(Context(FUNNEL, spec, heads=3), user=["user"], hidden=16, attention_hidden=8)
    head = nn.Linear(dupn.width, 1)
    steps = torch.randn(128, 5, 4)
    y = ((steps[:, 0] * steps[:, -1]).sum(1, keepdim=True) > 0).float()
    inputs = ModelInput(torch.randn(128, 2), torch.zeros(128, 0), {"seen": (steps, torch.full((128,), 5))})
    optimizer = torch.optim.Adam([*dupn.parameters(), *head.parameters()], lr=2e-2)
    for _ in range(120):
        loss = F.binary_cross_entropy_with_logits(head(dupn(inputs)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
