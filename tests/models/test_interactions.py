"""DCN-v2 and SENet: the formulas, V1 to V4 and Q1 to Q3 (docs/formulas.md §16)."""

import pytest
import torch
from torch import Tensor
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from raymtl.errors import ConfigError
from raymtl.models.ranker import Ranker
from raymtl.models.refiners.dcn_v2 import DCNv2
from raymtl.models.refiners.senet import SENet
from raymtl.models.slots import Context
from tests.helpers.model_zoo import FUNNEL, SPEC, make, rows, stir

FIELDS = (4, 3, 1, 5)
WIDTH = sum(FIELDS)
CONTEXT = Context(FUNNEL, SPEC, heads=3, width=WIDTH, fields=FIELDS)
INPUTS = rows(7)
X = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(3))


def dcn(layers: int = 3, rank: int | None = None) -> DCNv2:
    return stir(DCNv2(CONTEXT, layers=layers, rank=rank))


@pytest.mark.parametrize("rank", [None, 2])
def test_v1_it_is_torchrecs_cross_network(rank: int | None) -> None:
    slot = dcn(3, rank)
    other = CrossNet(WIDTH, 3) if rank is None else LowRankCrossNet(WIDTH, 3, rank)
    for n, layer in enumerate(slot.layers):
        weights = [factor.weight.data for factor in layer.factors]
        if rank is None:
            other.kernels[n].data = weights[0]
        else:
            other.V_kernels[n].data, other.W_kernels[n].data = weights
        other.bias[n].data = layer.factors[-1].bias.data.view_as(other.bias[n])
    torch.testing.assert_close(slot(X, INPUTS), other(X), rtol=1e-5, atol=1e-5)


def test_v2_without_weights_it_changes_nothing() -> None:
    slot = dcn()
    for parameter in slot.parameters():
        parameter.data.zero_()
    assert torch.equal(slot(X, INPUTS), X)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_v3_products_of_one_element_more_than_layers(layers: int) -> None:
    slot, x = dcn(layers).double(), X.double()
    at = torch.stack([slot(t * x, INPUTS) for t in range(layers + 3)])  # a polynomial in t
    scale = at.abs().max()
    assert at.diff(n=layers + 2, dim=0).abs().max() < 1e-12 * scale
    assert at.diff(n=layers + 1, dim=0).abs().max() > 1e-6 * scale


def test_v4_low_rank_is_the_product_of_its_factors() -> None:
    low, full = dcn(2, rank=3), dcn(2)
    for one, two in zip(low.layers, full.layers, strict=True):
        first, second = one.factors
        two.factors[0].weight.data = second.weight.data @ first.weight.data
        two.factors[0].bias.data = second.bias.data
    torch.testing.assert_close(low(X, INPUTS), full(X, INPUTS), rtol=1e-5, atol=1e-5)


def test_it_takes_an_input_per_task() -> None:
    x = torch.stack((X, 2 * X, -X), 1)
    for slot in (dcn(), stir(SENet(CONTEXT, reduction=2))):
        alone = torch.stack([slot(x[:, t], INPUTS) for t in range(3)], 1)
        torch.testing.assert_close(slot(x, INPUTS), alone)


def by_hand(slot: SENet, x: Tensor) -> Tensor:
    parts = x.split(FIELDS, 1)
    z = torch.stack([part.mean(1) for part in parts], 1)
    hidden = (z @ slot.squeezed.T).clamp(min=0)
    a = 2 / (1 + (-hidden @ slot.excited.T).exp())
    return torch.cat([part * a[:, i : i + 1] for i, part in enumerate(parts)], 1)


@pytest.mark.parametrize("reduction", [1, 2, 9])
def test_senet_equals_the_formula_written_out(reduction: int) -> None:
    slot = SENet(CONTEXT, reduction=reduction)
    assert slot.squeezed.shape == (-(-len(FIELDS) // reduction), len(FIELDS))
    assert torch.equal(slot(X, INPUTS), X)  # Q1
    stir(slot)
    found = slot(X, INPUTS)
    torch.testing.assert_close(found, by_hand(slot, X))
    factors = (found / X).split(FIELDS, 1)  # Q2
    assert all((part - part[:, :1]).abs().max() < 1e-5 for part in factors)
    swapped = torch.cat((X[:, [1, 0, *range(2, WIDTH)]],), 1)  # Q3
    torch.testing.assert_close(slot.gate(swapped), slot.gate(X))


def test_gates_are_in_fp32_under_autocast() -> None:
    slot = stir(SENet(CONTEXT, reduction=2))
    with torch.autocast("cpu", torch.bfloat16):
        assert slot.gate(X).dtype == slot(X, INPUTS).dtype == torch.float32


def test_the_fields_are_features_and_the_histories() -> None:
    def sizes(model: Ranker) -> list[int]:
        return model.refine._sizes.int().tolist()

    senet = {"type": "senet"}
    assert sizes(make("mmoe", refine=senet)) == [4, 4, 1, 1, 1]
    assert sizes(make("nfwfm", refine=senet)) == [5, 4, 4, 1, 1, 1]  # the interaction is of several features
    histories = make("m2m", refine=senet)
    assert sizes(histories) == [4, 4, 1, 1, 1, histories.sequence.width]


def test_a_rank_above_the_width_is_refused() -> None:
    dcn(rank=WIDTH)
    with pytest.raises(ConfigError, match=f"model.refine.rank is {WIDTH + 1}, more than the {WIDTH} numbers"):
        dcn(rank=WIDTH + 1)
