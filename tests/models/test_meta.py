"""Meta layers, the groups of rows that share weights, and their memory: X1 and X2 (docs/formulas.md §13)."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raymtl.models.trunks import knowledge, meta
from raymtl.models.trunks.knowledge import RowGroups, ScenarioBlocks
from raymtl.models.trunks.meta import LEAK, MetaLayer, meta_product
from tests.helpers.model_zoo import stir

TASKS, GROUPS, KNOWLEDGE, D_IN, D_OUT = 3, 11, 4, 5, 6


def materialised(h: Tensor, s: Tensor, weight: Tensor, weight_of: Tensor) -> Tensor:
    """Every group's own matrix, made first: what `meta_product` must equal and must never do."""
    w = weight.unsqueeze(1) + torch.einsum("nj,tjio->tnio", s, weight_of)
    return torch.einsum("tnri,tnio->tnro", h.expand(len(weight), -1, -1, -1), w)


def operands(tasks: int, rows: int, dtype: torch.dtype = torch.float64, groups: int = GROUPS) -> list[Tensor]:
    """h for all tasks in one or each its own, s, weight, weight_of."""
    shapes = [(tasks, groups, rows, D_IN), (groups, KNOWLEDGE), (TASKS, D_IN, D_OUT), (TASKS, KNOWLEDGE, D_IN, D_OUT)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("chunk", [1, 300, 2**22])  # groups one by one, a few at a time, all at once
@pytest.mark.parametrize("rows", [1, 4])  # the two forms: by outer product, by generated matrix
@pytest.mark.parametrize("tasks", [1, TASKS])  # h read by all tasks, or each its own
def test_x2_product_and_gradients_equal_the_materialised_form(
    tasks: int, rows: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta, "CHUNK", chunk)
    given = operands(tasks, rows)
    y, expected = meta_product(*given), materialised(*given)
    torch.testing.assert_close(y, expected)
    up = torch.randn_like(y)
    found, wanted = torch.autograd.grad(y, given, up), torch.autograd.grad(expected, given, up)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows", [1, 4])
def test_product_of_no_groups(rows: int) -> None:
    given = operands(TASKS, rows, groups=0)
    y = meta_product(*given)
    assert y.shape == (TASKS, 0, rows, D_OUT)
    for gradient, operand in zip(torch.autograd.grad(y.sum(), given), given, strict=True):
        assert gradient.shape == operand.shape
        assert not gradient.any()


@pytest.mark.parametrize("rows", [1, 4])
def test_gradients_of_weights_are_summed_in_fp32_under_autocast(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand chunks of one group each: a sum in bf16 stops growing at 256 times its parts."""
    monkeypatch.setattr(meta, "CHUNK", 1)
    h, s, weight, weight_of = operands(TASKS, rows, torch.float32, groups=1000)
    h.data.fill_(1)
    s.data.fill_(1)
    with torch.autocast("cpu", torch.bfloat16):
        y = meta_product(h, s, weight, weight_of)
    assert y.dtype == torch.bfloat16
    for gradient in torch.autograd.grad(y.sum(), (weight, weight_of)):
        assert gradient.dtype == torch.float32
        assert (gradient == 1000 * rows).all()


def layer_with(known: int, constant: int = 0) -> MetaLayer:
    return stir(MetaLayer(TASKS, D_IN, D_OUT, known, constant)).double()


def fcn(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Task by task: LeakyReLU(h W_t + b_t)."""
    tasks = [h[t if len(h) == TASKS else 0] @ weight[t] + bias[t] for t in range(TASKS)]
    return F.leaky_relu(torch.stack(tasks), LEAK)


@pytest.mark.parametrize("rows", [1, 4])
def test_x1_no_influence_of_the_knowledge_is_the_plain_layer(rows: int) -> None:
    layer, (h, s, *_) = layer_with(KNOWLEDGE), operands(TASKS, rows)
    assert (layer(h, s) - fcn(h, layer.weight, layer.bias)).abs().max() > 0.1
    layer.weight_of.data.zero_()
    layer.bias_of.data.zero_()
    torch.testing.assert_close(layer(h, s), fcn(h, layer.weight, layer.bias))
    plain = layer_with(0)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.endswith("_of")})
    torch.testing.assert_close(plain(h, None), layer(h, s))


@pytest.mark.parametrize("rows", [1, 4])
def test_x1_constant_knowledge_is_a_plain_layer_for_all_rows(rows: int) -> None:
    layer, (h, *_) = layer_with(KNOWLEDGE), operands(1, rows)
    s = torch.randn(KNOWLEDGE, dtype=torch.float64)
    weight = layer.weight + torch.einsum("j,tjio->tio", s, layer.weight_of)
    bias = layer.bias + torch.einsum("j,tjo->to", s, layer.bias_of)
    torch.testing.assert_close(layer(h, s.expand(GROUPS, -1)), fcn(h, weight, bias))


@pytest.mark.parametrize("known", [0, KNOWLEDGE])
def test_constant_part_of_the_input_is_a_concatenation(known: int) -> None:
    layer, (h, s, *_) = layer_with(known, constant=2), operands(1, 3)
    c = torch.randn(TASKS, 2, dtype=torch.float64)
    wide = MetaLayer(TASKS, D_IN + 2, D_OUT, known).double()
    wide.bias.data.copy_(layer.bias)
    wide.weight.data.copy_(torch.cat((layer.weight, layer.constant_weight), 1))
    if known:
        wide.bias_of.data.copy_(layer.bias_of)
        wide.weight_of.data.copy_(torch.cat((layer.weight_of, layer.constant_of), 2))
    both = torch.cat((h.expand(TASKS, -1, -1, -1), c[:, None, None].expand(-1, GROUPS, 3, -1)), 3)
    given = s if known else None
    torch.testing.assert_close(layer(h, given, c), wide(both, given))


def test_untrained_layer_is_the_plain_one() -> None:
    layer = MetaLayer(TASKS, 40, 30, KNOWLEDGE, constant=20)
    assert not layer.weight_of.any()
    assert not layer.bias_of.any()
    assert not layer.constant_of.any()
    bound = (6 / (60 + 30)) ** 0.5  # Glorot, of the whole input
    for weight in (layer.weight, layer.constant_weight):
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)


class Sizes(TorchDispatchMode):
    """Records the number of elements of every tensor that an operation returns, in forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # An expanded tensor owns no more than its storage.
        numbers = [
            min(t.numel(), t.untyped_storage().size() // t.element_size())
            for t in tree_leaves(out)
            if isinstance(t, Tensor)
        ]
        self.largest = max([self.largest, *numbers])
        return out


def largest(product: Callable[..., Tensor], *given: Tensor) -> int:
    with Sizes() as sizes:
        y = product(*given)
        y.backward(torch.ones_like(y))
    return sizes.largest


@contextmanager
def without_memory() -> Iterator[None]:
    """Tensors that have shapes and no numbers: 2048 rows of width 256 cost nothing."""
    with FakeTensorMode():
        yield


@pytest.mark.parametrize("rows", [1, 4])
def test_no_matrix_per_row_is_ever_kept(rows: int) -> None:
    batch, width, k, tasks = 2048, 256, 64, 2
    with without_memory():
        shapes = [(1, batch, rows, width), (batch, k), (tasks, width, width), (tasks, k, width, width)]
        given = [torch.empty(shape, requires_grad=True) for shape in shapes]
        parameters = given[-1].numel()
        found = largest(meta_product, *given)
        assert parameters <= found <= max(parameters, 2 * meta.CHUNK) < batch * width**2 / 8
        assert largest(materialised, *given) >= tasks * batch * width**2  # so the recorder does see it


@pytest.mark.parametrize("rows", [1, 4])
def test_memory_of_small_chunks(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with numbers in it: forward and backward stay below B·D·D."""
    monkeypatch.setattr(meta, "CHUNK", 1024)
    batch, width, k = 128, 16, 4
    given = [torch.randn(s, requires_grad=True) for s in ((2, batch, rows, width), (batch, k), (2, width, width))]
    given.append(torch.randn(2, k, width, width, requires_grad=True))
    assert largest(meta_product, *given) <= 2 * batch * rows * width < batch * width**2
    assert all(g.grad is not None for g in given)


@pytest.mark.parametrize("seed", range(30))
def test_blocks_hold_rows_of_one_scenario(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "BLOCK", 3)
    torch.manual_seed(seed)
    rows, scenarios = int(torch.randint(0, 40, ())), int(torch.randint(1, 9, ()))
    scenario = torch.randint(0, scenarios, (rows,)) if seed % 3 else torch.full((rows,), scenarios - 1)
    blocks = ScenarioBlocks(scenario, scenarios)
    x = torch.stack((torch.arange(rows), scenario), 1).double().unsqueeze(0) + 1  # [1, B, 2], no zeros
    spread = blocks.to_groups(x)
    assert torch.equal(blocks.to_rows(spread), x)
    held = spread[0].flatten(0, 1)[:, 0]
    assert sorted(held[held > 0].tolist()) == list(range(1, rows + 1))  # every row has one place
    for block, s in zip(spread[0], blocks.scenario, strict=True):
        assert set(block[:, 1].tolist()) <= {0.0, s.item() + 1.0}


def test_blocks_suffice_for_every_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways to spread 5 rows over 3 scenarios in blocks of 2."""
    monkeypatch.setattr(knowledge, "BLOCK", 2)
    for split in itertools.product(range(3), repeat=5):
        spread = ScenarioBlocks(torch.tensor(split), 3).to_groups(torch.ones(1, 5))
        assert spread.shape == (1, 5, 2)
        assert spread.sum() == 5


def test_every_row_is_its_own_group() -> None:
    x = torch.randn(2, 5, 4)
    assert RowGroups().to_groups(x).shape == (2, 5, 1, 4)
    assert torch.equal(RowGroups().to_rows(RowGroups().to_groups(x)), x)
