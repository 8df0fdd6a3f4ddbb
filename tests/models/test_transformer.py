"""M2M's sequence encoder: the formula, X6 and X8 (docs/formulas.md §13)."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raymtl.errors import ConfigError
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.sequences.transformer import StepEncoder, TransformerSequence
from raymtl.models.slots import Context
from tests.helpers.model_zoo import FUNNEL, SPEC, STEPS, rows, stir, take

BEHAVIOURS = {"seen": ["items", "kinds"], "carts": ["carts"]}


def encoder(spec: InputSpec = SPEC, **options: Any) -> TransformerSequence:
    options = {"behaviours": BEHAVIOURS, "heads": 2, "layers": 2, "width": 6, **options}
    torch.manual_seed(0)
    return stir(TransformerSequence(Context(FUNNEL, spec, heads=3), **options)).eval()


def normed(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def written_out(m: StepEncoder, steps: Tensor, heads: int) -> Tensor:
    """The mean over the encoded steps [l, d] of one row, padding left out."""
    ages = torch.arange(len(steps) - 1, -1, -1).clamp(max=len(m.position.weight) - 1)
    x = torch.cat((steps, m.position.weight[ages]), 1) @ m.project.weight.T + m.project.bias
    for layer in m.layers:
        a = layer.attention
        q, k, v = x @ a.query.weight.T + a.query.bias, x @ a.key.weight.T, x @ a.value.weight.T + a.value.bias
        parts = [
            (qh @ kh.T / math.sqrt(qh.shape[1])).softmax(1) @ vh
            for qh, kh, vh in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True)
        ]
        x = normed(x + torch.cat(parts, 1) @ a.out.weight.T + a.out.bias, layer.attention_norm)
        f = layer.feed_forward
        hidden = (x @ f.inner.weight.T + f.inner.bias).relu()
        x = normed(x + hidden @ f.outer.weight.T + f.outer.bias, layer.feed_forward_norm)
    return x.mean(0)


@pytest.mark.parametrize("positions", [2, 50])  # 2: older steps share the second one
@pytest.mark.parametrize("layers", [1, 2])
def test_encoder_equals_the_formula(layers: int, positions: int) -> None:
    module, inputs = encoder(layers=layers, positions=positions), rows(12)
    y = module(inputs)
    assert y.shape == (12, module.width) == (12, 12)
    items, lengths = inputs.sequences["items"]
    carts, cart_lengths = inputs.sequences["carts"]
    assert sorted(set(lengths.tolist()) | set(cart_lengths.tolist())) == list(range(STEPS + 1))
    for n in range(12):
        seen = torch.cat((items[n], inputs.sequences["kinds"][0][n]), 1)[: lengths[n]]
        for m, steps, part in zip(module.encoders, (seen, carts[n, : cart_lengths[n]]), y[n].chunk(2), strict=True):
            torch.testing.assert_close(part, written_out(m, steps, 2) if len(steps) else torch.zeros(6))


def padded(inputs: ModelInput, steps: int, junk: float) -> ModelInput:
    def longer(embeddings: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        more = torch.cat((embeddings, torch.zeros(len(embeddings), steps, embeddings.shape[2])), 1)
        beyond = torch.arange(more.shape[1]) >= lengths.unsqueeze(1)
        return more.masked_fill(beyond.unsqueeze(2), junk), lengths

    return dataclasses.replace(inputs, sequences={n: longer(*pair) for n, pair in inputs.sequences.items()})


@pytest.mark.parametrize("junk", [0.0, 1e4])
def test_x8_padding_changes_nothing(junk: float) -> None:
    module, inputs = encoder(), rows(20)
    torch.testing.assert_close(module(padded(inputs, 7, junk)), module(inputs))


def test_empty_sequences_give_zeros_and_learn_nothing() -> None:
    module, inputs = encoder(), rows(5)
    empty = dataclasses.replace(
        inputs, sequences={n: (torch.zeros_like(e), torch.zeros_like(k)) for n, (e, k) in inputs.sequences.items()}
    )
    y = module(empty)
    assert not y.any()
    y.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_x6_rows_do_not_see_each_other() -> None:
    module, inputs = encoder(), rows(6)
    for name, (steps, lengths) in inputs.sequences.items():
        inputs.sequences[name] = (steps.requires_grad_(), lengths.clamp(min=1))
    y = module(inputs)
    for n in range(6):
        for gradient in torch.autograd.grad(
            y[n].square().sum(), [s for s, _ in inputs.sequences.values()], retain_graph=True
        ):
            assert gradient[n].any()
            assert not gradient[torch.arange(6) != n].any()
    order = torch.randperm(6)
    torch.testing.assert_close(module(take(inputs, order)), y[order])


def test_the_order_of_the_steps_counts() -> None:
    module, inputs = encoder(), rows(8)
    full = torch.full((8,), STEPS)
    inputs.sequences = {n: (torch.randn_like(e), full) for n, (e, _) in inputs.sequences.items()}
    turned = dataclasses.replace(inputs, sequences={n: (e.flip(1), k) for n, (e, k) in inputs.sequences.items()})
    assert (module(turned) - module(inputs)).abs().max() > 0.01
    for m in module.encoders:
        m.position.weight.data.zero_()  # without positions the encoder reads a set
    torch.testing.assert_close(module(turned), module(inputs))


def test_positions_start_small_and_every_sequence_is_a_behaviour_by_default() -> None:
    torch.manual_seed(0)
    module = TransformerSequence(Context(FUNNEL, SPEC, heads=3), heads=2, layers=1, width=6)
    assert [m.project.in_features for m in module.encoders] == [4 + 16, 2 + 16, 4 + 16]
    assert module.width == 18
    assert module.encoders[0].position.weight.shape == (50, 16)
    assert module.encoders[0].position.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_norms_are_fp32_under_autocast() -> None:
    module, inputs = encoder(), rows(30)
    exact = module(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(inputs)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_model_without_sequences_is_refused() -> None:
    with pytest.raises(ConfigError, match="no feature has the kind `sequence`"):
        encoder(InputSpec({"user": 4}), behaviours=None)
