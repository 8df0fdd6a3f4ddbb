"""Algebra of probabilities in logits against 60-digit decimals (docs/formulas.md §1.5)."""

import math
from collections.abc import Callable
from decimal import Decimal, getcontext

import pytest
import torch
from torch import Tensor

from raymtl.objectives.algebra import logit_mix, logit_prod, sym_kl

EXTREMES = (-1e4, -80.0, -10.0, 0.0, 10.0, 80.0, 1e4)
ROWS = 300


@pytest.fixture(autouse=True)
def _sixty_digits():
    before, getcontext().prec = getcontext().prec, 60
    yield
    getcontext().prec = before


def sigma(x: float) -> Decimal:
    return 1 / (1 + (-Decimal(x)).exp())


def logit(p: Decimal) -> Decimal:
    return (p / (1 - p)).ln()


def chain(*x: float) -> Decimal:
    return logit(math.prod((sigma(a) for a in x), start=Decimal(1)))


def mix(g: float, on: float, off: float) -> Decimal:
    return logit(sigma(g) * sigma(on) + (1 - sigma(g)) * sigma(off))


def kl_four_terms(a: float, b: float) -> Decimal:
    p, q = sigma(a), sigma(b)
    one_way = p * (p / q).ln() + (1 - p) * ((1 - p) / (1 - q)).ln()
    return one_way + q * (q / p).ln() + (1 - q) * ((1 - q) / (1 - p)).ln()


def worst(ours: Callable[..., Tensor], exact: Callable[..., Decimal], count: int, reach: float) -> float:
    """Largest error over random logits, relative where the exact value is beyond ±1."""
    x = (2 * torch.rand(count, ROWS) - 1) * reach
    found = ours(*x)
    assert found.dtype == torch.float32
    errors = []
    for i, columns in enumerate(x.T.tolist()):
        target = exact(*columns)
        errors.append(abs(Decimal(found[i].item()) - target) / max(1, abs(target)))
    return float(max(errors))


@pytest.mark.parametrize(
    ("ours", "exact", "count", "reach"),
    [
        (logit_prod, chain, 2, 20.0),
        (logit_mix, mix, 3, 20.0),
        (lambda a, *x: logit_prod(a, logit_mix(*x)), lambda a, *x: logit(sigma(a) / (1 + (-mix(*x)).exp())), 4, 20.0),
        (sym_kl, kl_four_terms, 2, 20.0),
    ],
    ids=["product", "mixture", "esm2", "symmetric KL"],
)
def test_exact_to_a_few_roundings(
    ours: Callable[..., Tensor], exact: Callable[..., Decimal], count: int, reach: float
) -> None:
    assert worst(ours, exact, count, reach) < 4e-7


def test_s2_product_equals_log_odds_in_float64() -> None:
    a, b = (40 * torch.rand(2, 2000, dtype=torch.float64) - 20).float()
    p = a.double().sigmoid() * b.double().sigmoid()
    torch.testing.assert_close(logit_prod(a, b).double(), p.log() - torch.log1p(-p), rtol=1e-6, atol=1e-6)


def test_s6_finite_with_finite_gradients_at_any_logit() -> None:
    for ours, count in ((logit_prod, 2), (logit_mix, 3), (sym_kl, 2)):
        corners = torch.cartesian_prod(*[torch.tensor(EXTREMES)] * count).requires_grad_()
        found = ours(*corners.unbind(1))
        found.sum().backward()
        assert found.isfinite().all()
        assert corners.grad is not None
        assert corners.grad.isfinite().all()


@pytest.mark.parametrize(("ours", "count"), [(logit_prod, 2), (logit_mix, 3), (sym_kl, 2)])
def test_gradients(ours: Callable[..., Tensor], count: int) -> None:
    x = 6 * torch.rand(count, 20, dtype=torch.float64) - 3
    torch.autograd.gradcheck(ours, tuple(column.requires_grad_() for column in x.unbind()))
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(ours, (zero,) * count)


def test_a_product_never_exceeds_its_factors_not_even_by_rounding() -> None:
    a, b = 60 * torch.randn(2, 100_000)
    assert (logit_prod(a, b) <= torch.minimum(a, b)).all()


def test_a_rare_positive_keeps_its_gradient() -> None:
    a, b = torch.tensor([-10.0, -10.0], requires_grad=True).unbind()
    a.retain_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit_prod(a, b), torch.tensor(1.0))
    loss.backward()
    assert a.grad is not None
    assert a.grad.item() == pytest.approx(-1.0, abs=1e-4)


def test_computed_in_fp32_at_least() -> None:
    a, b, c = torch.randn(3, 100).bfloat16()
    for found, exact in (
        (logit_prod(a, b), logit_prod(a.float(), b.float())),
        (logit_mix(a, b, c), logit_mix(a.float(), b.float(), c.float())),
        (sym_kl(a, b), sym_kl(a.float(), b.float())),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, exact)
    assert logit_prod(a.double(), b.double()).dtype == torch.float64


def test_shapes_broadcast_and_may_be_empty() -> None:
    a, b = torch.randn(4), torch.randn(3, 4)
    torch.testing.assert_close(logit_prod(a, b)[1], logit_prod(a, b[1]))
    for found in (logit_prod(a[:0], b[:, :0]), logit_mix(a[:0], b[:, :0], a[:0]), sym_kl(a[:0], b[:, :0])):
        assert found.shape == (3, 0)
