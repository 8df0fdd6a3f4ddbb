"""Masked multi-head attention, the part that the sequence slots share."""

import math

import pytest
import torch
from torch import Tensor

from raymtl.errors import ConfigError
from raymtl.models.attention import FeedForward, MultiHeadAttention, masked_attention
from tests.helpers.model_zoo import stir

HEADS = 2


def prefix(*lengths: int, steps: int = 5) -> Tensor:
    return torch.arange(steps) < torch.tensor(lengths).unsqueeze(1)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Row by row and head by head, over the valid steps alone."""
    rows = []
    for n in range(len(q)):
        valid, parts = mask[n], []
        for qh, kh, vh in zip(q[n].chunk(heads, 1), k[n].chunk(heads, 1), v[n].chunk(heads, 1), strict=True):
            weights = (qh @ kh[valid].T / math.sqrt(qh.shape[1])).softmax(1)
            parts.append(weights @ vh[valid])
        rows.append(torch.cat(parts, 1))
    return torch.stack(rows)


@pytest.mark.parametrize("queries", [1, 5])
def test_attention_equals_the_formula(queries: int) -> None:
    q, k, v = torch.randn(6, queries, 8), torch.randn(6, 5, 8), torch.randn(6, 5, 4)
    mask = prefix(1, 2, 3, 4, 5, 5)
    mask[5, 1] = False  # any mask will do, not prefixes only
    y = masked_attention(q, k, v, mask, HEADS)
    assert y.shape == (6, queries, 4)
    torch.testing.assert_close(y, written_out(q, k, v, mask, HEADS))


def test_attention_sums_to_one_over_the_valid_steps() -> None:
    q, k, mask = torch.randn(4, 5, 8) * 9, torch.randn(4, 5, 8) * 9, prefix(1, 3, 4, 5)
    v = torch.where(mask.unsqueeze(2), 1.0, 1e6).expand(-1, -1, 8)
    torch.testing.assert_close(masked_attention(q, k, v, mask, HEADS), torch.ones(4, 5, 8), rtol=0, atol=1e-6)


def test_rows_without_a_valid_step_give_zeros_and_learn_nothing() -> None:
    q, k, v = (torch.randn(3, 5, 8, requires_grad=True) for _ in range(3))
    y = masked_attention(q, k, v, prefix(0, 2, 0), HEADS)
    assert y[1].all()
    assert not y[0].any()
    assert not y[2].any()
    for gradient in torch.autograd.grad(y.sum(), (q, k, v)):
        assert gradient.isfinite().all()
        assert not gradient[0].any()
        assert not gradient[2].any()


@pytest.mark.parametrize(("rows", "steps"), [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_of_no_rows_or_no_steps(rows: int, steps: int, dropout: float) -> None:
    module = MultiHeadAttention(8, HEADS, dropout)
    y = module(torch.randn(rows, 2, 8), torch.randn(rows, steps, 8), torch.ones(rows, steps, dtype=torch.bool))
    assert y.shape == (rows, 2, 8)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_scores_and_softmax_are_fp32_under_autocast() -> None:
    """Scores near 60 lie 0.25 apart in bf16: rounded there, the weights would be wrong by a tenth and more."""
    torch.manual_seed(1)
    q = torch.randn(4, 5, 8).bfloat16() + 7
    k, v, mask = (torch.randn(4, 5, 8) + 4).bfloat16(), torch.rand(4, 5, 8).bfloat16() + 1, prefix(2, 3, 4, 5)
    exact = written_out(q.double(), k.double(), v.double(), mask, HEADS)
    with torch.autocast("cpu", torch.bfloat16):
        y = masked_attention(q.float(), k.float(), v.float(), mask, HEADS)
    torch.testing.assert_close(y.double(), exact, rtol=2**-7, atol=0)


def test_module_projects_and_asks() -> None:
    module = stir(MultiHeadAttention(8, HEADS))
    x, memory, mask = torch.randn(3, 2, 8), torch.randn(3, 5, 8), prefix(2, 5, 3)
    q = x @ module.query.weight.T + module.query.bias
    k = memory @ module.key.weight.T
    v = memory @ module.value.weight.T + module.value.bias
    expected = written_out(q, k, v, mask, HEADS) @ module.out.weight.T + module.out.bias
    torch.testing.assert_close(module(x, memory, mask), expected)


def test_attention_dropout_is_random_in_training_only() -> None:
    module, x, mask = MultiHeadAttention(8, HEADS, 0.5), torch.randn(3, 5, 8), prefix(4, 5, 3)
    assert not torch.equal(module(x, x, mask), module(x, x, mask))
    module.eval()
    assert torch.equal(module(x, x, mask), module(x, x, mask))
    again = MultiHeadAttention(8, HEADS)
    again.load_state_dict(module.state_dict())
    torch.testing.assert_close(again(x, x, mask), module(x, x, mask))


def test_feed_forward() -> None:
    module, x = stir(FeedForward(4, 6, 0.5)), torch.randn(3, 5, 4)
    assert not torch.equal(module(x), module(x))
    module.eval()
    hidden = (x @ module.inner.weight.T + module.inner.bias).relu()
    torch.testing.assert_close(module(x), hidden @ module.outer.weight.T + module.outer.bias)


def test_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.sequence.width is 10, not divisible by model.sequence.heads = 4"):
        MultiHeadAttention(10, 4)
