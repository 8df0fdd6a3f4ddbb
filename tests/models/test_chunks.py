"""What makes the transformers fast on a CPU changes no number: rows in chunks, scales moved behind the attention."""

import pytest
import torch
from torch import Tensor, nn

from raymtl.models.inputs import ModelInput
from raymtl.models.sequences import steps
from raymtl.models.sequences.tim import TargetAttention
from raymtl.models.trunks import meta
from tests.helpers.model_zoo import rows, stirred


def loss_and_gradients(model: nn.Module, inputs: ModelInput) -> list[Tensor]:
    leaves = [x.requires_grad_() for x, _ in inputs.sequences.values()] + [inputs.pooled.requires_grad_()]
    logits = model(inputs)
    return [logits, *torch.autograd.grad(logits.square().sum(), [*model.parameters(), *leaves])]


@pytest.mark.parametrize("name", ["dtrn", "m2m"])
@pytest.mark.parametrize("n", [0, 1, 7, 32])
def test_chunks_of_rows_change_nothing(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = stirred(name), rows(n)
    together = loss_and_gradients(model, inputs)
    assert steps.rows_per_chunk(inputs.pooled, 2**10) > n
    monkeypatch.setattr(steps, "CHUNK_ELEMENTS", 2**9)
    monkeypatch.setattr(meta, "GROUPS", 3)
    calls: list[int] = []
    attention = next(m for m in model.sequence.modules() if type(m).__name__ == "MultiHeadAttention")
    attention.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    for one, other in zip(together, loss_and_gradients(model, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert len(calls) > 1 or n < 7


def test_portions_are_for_cpus_and_never_of_no_row() -> None:
    assert steps.rows_per_chunk(torch.zeros(4), 2 * steps.CHUNK_ELEMENTS) == 1
    assert steps.rows_per_chunk(torch.zeros(0, 0), 0) == steps.CHUNK_ELEMENTS
    assert steps.rows_per_chunk(torch.zeros(4, device="meta"), 1) is None


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_scale_and_shift_behind_the_attention(dropout: float) -> None:
    """With dropout the sum is left to autograd; without, it has a backward of its own."""
    torch.manual_seed(0)
    attention = TargetAttention(8, 2, dropout)
    for p in attention.parameters():
        p.data.normal_()
    q, memory = torch.randn(5, 8).requires_grad_(), torch.randn(5, 3, 2, 4, 8).requires_grad_()
    scale, shift = (torch.randn(3, 2, 1, 8).requires_grad_() for _ in range(2))
    mask = torch.arange(4) < (torch.arange(10) % 5).view(5, 1, 2, 1)

    def plain() -> Tensor:
        x = memory * scale + shift
        key, value = ((x @ w.T).unflatten(-1, (2, 4)) for w in attention.key_value)  # [B, T, S, L, H, d/H]
        score = torch.einsum("bhe,btslhe->btshl", attention.query(q).unflatten(1, (2, 4)), key) / 2
        weight = score.masked_fill(~mask.unsqueeze(3), -1e9).softmax(-1) * mask.unsqueeze(3)
        return attention.out(torch.einsum("btshl,btslhe->btshe", weight, value).flatten(3)).unsqueeze(3)

    leaves = [q, memory, scale, shift, *attention.parameters()]
    found, expected = attention(q, memory, mask, scale, shift), plain()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad((found * direction).sum(), leaves),
        torch.autograd.grad((expected * direction).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
