"""The losses beside that of the kind, against their formulas written out row by row."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raymtl.config.losses import FocalLoss, ListTerm, ListwiseLoss, RankNetLoss, TaskLossTerms
from raymtl.config.schema import field_type
from raymtl.objectives.metrics.grouped import grouped_auc
from raymtl.objectives.terms.base import ListLoss, RowLoss, build

B = 40


def lists(seed: int = 0, rows: int = B, labels: int = 2) -> dict[str, Tensor]:
    """Rows of lists of 1 to 9 rows, in order; some do not count."""
    random = np.random.default_rng(seed)
    index = np.repeat(np.arange(rows), random.integers(1, 10, rows))[:rows]
    weight = random.integers(0, 4, rows) / 2
    found = {
        "logit": random.normal(0, 2, rows),
        "label": random.integers(0, labels, rows).astype(float),
        "weight": weight,
    }
    return {name: torch.from_numpy(values) for name, values in found.items()} | {"index": torch.from_numpy(index)}


def pairs_of(x: dict[str, Tensor], window: int) -> dict[int, float]:
    """RankNet's loss of each list that has a pair, pair by pair."""
    a, y, w, of = (x[name].tolist() for name in ("logit", "label", "weight", "index"))
    sums: dict[int, list[float]] = {}
    for i in range(len(a)):
        for j in range(len(a)):
            if of[i] == of[j] and y[i] > y[j] and w[i] * w[j] > 0 and abs(i - j) <= window:
                total = sums.setdefault(of[i], [0.0, 0.0])
                total[0] += w[i] * w[j] * math.log1p(math.exp(a[j] - a[i]))
                total[1] += w[i] * w[j]
    return {g: total / count for g, (total, count) in sums.items()}


def shares_of(x: dict[str, Tensor], _: int) -> dict[int, float]:
    """The listwise loss of each list with a label above 0, list by list."""
    found = {}
    for g in x["index"].unique().tolist():
        own = (x["index"] == g) & (x["weight"] > 0)
        a, y, w = (x[name][own].numpy() for name in ("logit", "label", "weight"))
        if len(a) and (w * y).sum() > 0:
            q = np.exp(a) / ((w / w.mean()) * np.exp(a)).sum()
            found[g] = float(-((w * y) / (w * y).sum() * np.log(q)).sum())
    return found


LISTS: list[tuple[str, ListTerm, Callable[[dict[str, Tensor], int], dict[int, float]], int]] = [
    ("ranknet", RankNetLoss(), pairs_of, 64),
    ("ranknet", RankNetLoss(window=3), pairs_of, 3),
    ("listwise", ListwiseLoss(), shares_of, 0),
]


@pytest.mark.parametrize(("key", "section", "by_hand", "window"), LISTS, ids=["all pairs", "window", "listwise"])
@pytest.mark.parametrize("labels", [2, 5])
def test_list_losses_are_the_formulas(key, section, by_hand, window, labels) -> None:
    x = lists(labels, labels=labels)
    found = build(key, section).loss(**x)
    assert isinstance(found, Tensor)
    assert found.shape == (B,)
    expected = by_hand(x, window)
    assert len(expected) > 3
    for g, value in expected.items():
        assert found[g].item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("key", "section"), [(key, section) for key, section, _, _ in LISTS])
def test_gradients_of_list_losses(key, section) -> None:
    x = lists(7, 24, labels=3)
    term = build(key, section)

    def total(logit: Tensor) -> Tensor:
        return (term.loss(logit, x["label"], x["weight"], x["index"]) * torch.arange(1, 25)).sum()

    assert torch.autograd.gradcheck(total, x["logit"].clone().requires_grad_())


@pytest.mark.parametrize(
    ("key", "section"), [(key, section) for key, section, _, _ in LISTS if section != RankNetLoss(window=3)]
)
def test_a_row_of_weight_two_is_two_rows(key, section) -> None:
    x = lists(3, labels=3)
    weight = torch.randint(0, 4, (B,), generator=torch.Generator().manual_seed(0))
    copies = {name: values.repeat_interleave(weight) for name, values in x.items()} | {
        "weight": torch.ones(int(weight.sum())).double()
    }
    term, gradients = build(key, section), []
    for rows in (x | {"weight": weight.double()}, copies):
        logit = rows["logit"].clone().requires_grad_()
        term.loss(**(rows | {"logit": logit}))[: int(x["index"].max()) + 1].sum().backward()
        gradients.append(torch.zeros(B, dtype=torch.float64).index_add(0, _source(weight, rows), logit.grad))
    torch.testing.assert_close(*gradients)


def _source(weight: Tensor, rows: dict[str, Tensor]) -> Tensor:
    every = torch.arange(B)
    return every if len(rows["logit"]) == B else every.repeat_interleave(weight)


@pytest.mark.parametrize(("key", "section"), [(key, section) for key, section, _, _ in LISTS])
def test_a_constant_in_a_list_changes_nothing(key, section) -> None:
    x = lists(4)
    shift = torch.randn(B, dtype=torch.float64)[x["index"]]
    term = build(key, section)
    torch.testing.assert_close(term.loss(**x), term.loss(**(x | {"logit": x["logit"] + shift})))
    torch.testing.assert_close(term.loss(**x), term.loss(**(x | {"weight": 3 * x["weight"]})))


def test_ranknet_bounds_the_area_within_a_list() -> None:
    x = lists(5)
    found = build("ranknet", RankNetLoss()).loss(**x)
    for g in pairs_of(x, B):
        own = (x["index"] == g) & (x["weight"] > 0)
        every = torch.zeros(int(own.sum()), dtype=torch.int64)
        area, _, _ = grouped_auc(every, 1, x["logit"][own].float(), x["label"][own] == 1, x["weight"][own])
        assert area is not None
        assert found[g].item() >= (1 - area) * math.log(2)


def test_listwise_of_one_positive_is_the_cross_entropy_of_a_class() -> None:
    a, index = torch.randn(3, 7, dtype=torch.float64), torch.arange(3).repeat_interleave(7)
    label = F.one_hot(torch.tensor([2, 0, 6]), 7).double().flatten()
    found = build("listwise", ListwiseLoss()).loss(a.flatten(), label, torch.ones(21).double(), index)
    torch.testing.assert_close(found[:3], F.cross_entropy(a, torch.tensor([2, 0, 6]), reduction="none"))


@pytest.mark.parametrize("labels", [2, 4])
def test_listwise_cannot_fall_below_its_bound(labels) -> None:
    x = lists(6, labels=labels)
    term = build("listwise", ListwiseLoss())
    least = term.lower_bound(x["label"], x["weight"], x["index"])
    assert (term.loss(**x) >= least - 1e-12).all()
    best = torch.where(x["label"] > 0, x["label"], 1e-30).log()  # q = t / v
    torch.testing.assert_close(term.loss(**(x | {"logit": best})), least)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, None), (0.5, 0.9), (3.0, None)])
def test_focal_is_the_formula(gamma, alpha) -> None:
    a = torch.tensor([-3.0, -0.1, 0.0, 1.5, 4.0, 12.0, -12.0], dtype=torch.float64).requires_grad_()
    y = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    term = build("focal", FocalLoss(gamma=gamma, alpha=alpha))
    found = term.loss(a, y)
    for logit, label, value in zip(a.tolist(), y.tolist(), found.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_t = p if label else 1 - p
        factor = 1.0 if alpha is None else alpha if label else 1 - alpha
        assert value == pytest.approx(-factor * (1 - p_t) ** gamma * math.log(p_t), rel=1e-9)
    assert torch.autograd.gradcheck(lambda logit: term.loss(logit, y), a)
    if gamma == 0:
        torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(a, y, reduction="none"))


def test_focal_is_finite_for_any_logit() -> None:
    a = torch.tensor([-1e4, 1e4, -200.0, 200.0], requires_grad=True)
    for label in (0.0, 1.0):
        found = build("focal", FocalLoss(alpha=0.25)).loss(a, torch.full((4,), label))
        (gradient,) = torch.autograd.grad(found.sum(), a)
        assert found.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("rate", [0.001, 0.3])
def test_start_losses_are_those_of_constant_predictions(rate) -> None:
    term = build("focal", FocalLoss(alpha=0.25))
    a = torch.tensor([math.log(rate / (1 - rate))] * 2, dtype=torch.float64)
    yes, no = term.loss(a, torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    assert term.start_loss(rate) == pytest.approx(rate * yes + (1 - rate) * no)
    x = lists(1)
    level = build("ranknet", RankNetLoss()).loss(**(x | {"logit": torch.zeros(B).double()}))
    assert {round(level[g].item(), 12) for g in pairs_of(x, B)} == {round(math.log(2), 12)}
    assert build("ranknet", RankNetLoss()).start_loss() == math.log(2)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor):
                self.size = max(self.size, value.numel())
        return found


@pytest.mark.parametrize(("key", "section"), [("ranknet", RankNetLoss()), ("listwise", ListwiseLoss())])
def test_memory_of_one_list_of_8192_rows_is_not_its_square(key, section) -> None:
    logit = torch.randn(8192, requires_grad=True)
    label = (torch.rand(8192) < 0.1).float()
    with Largest() as seen:
        found = build(key, section).loss(logit, label, torch.ones(8192), torch.zeros(8192, dtype=torch.int64))
        found[0].backward()
    assert found[0].isfinite()
    assert seen.size <= 8192 * 66


def test_every_section_has_a_class() -> None:
    for key in TaskLossTerms.model_fields:
        section = field_type(TaskLossTerms, key).section
        assert section is not None
        if key != "own":
            assert isinstance(build(key, section()), ListLoss if issubclass(section, ListTerm) else RowLoss)
