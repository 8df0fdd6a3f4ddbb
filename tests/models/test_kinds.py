"""G3, G4, G10 and G11 for every kind of label (docs/formulas.md §1.8); binary ones alone have test_ranker.py.

The couplers of funnels multiply probabilities, so these are the presets whose heads stand for themselves.
"""

import math

import pytest
import torch
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.objectives.losses import TaskLosses
from tests.helpers.model_zoo import SPEC, config, large, rows, spec, stir
from tests.helpers.task_kinds import TASKS as KINDS
from tests.helpers.task_kinds import labels_of_kinds, rates_of

every_kind_of_model = pytest.mark.parametrize("name", ["shared_bottom", "mmoe", "ple", "m2m", "dtrn", "nfwfm"])


def built(name: str) -> Ranker:
    torch.manual_seed(0)
    return stir(build_ranker(config(name), KINDS, SPEC, {}))


def weighted(**weights: float) -> TaskLosses:
    return TaskLosses({n: t.model_copy(update={"weight": weights.get(n, 0.0)}) for n, t in KINDS.items()}, OrderLoss())


def cost(losses: TaskLosses, logits: Tensor, y: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """The total, and by task what the loss is above its least."""
    weight, valid = torch.ones(len(y)), torch.ones(len(y), dtype=torch.bool)
    counts = losses.counts(observed, weight, valid)
    found = losses(logits, y, observed, weight, valid, counts[:-1], counts[-1])
    return found.total, found.per_task - losses.lower_bound(y, observed, weight, valid, counts[:-1])


def gradient(model: Ranker, total: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(model.parameters()), retain_graph=True))


@every_kind_of_model
def test_g3_a_task_without_labels_moves_nothing(name: str) -> None:
    model, y = built(name), labels_of_kinds(16)
    logits = model(rows(16))
    for t, task in enumerate(KINDS):
        observed = torch.ones(16, len(KINDS), dtype=torch.bool)
        only = weighted(**{task: 1.0})
        assert any(g.any() for g in gradient(model, cost(only, logits, y, observed)[0]))
        observed[:, t] = False
        without, _ = cost(only, logits, y, observed)
        assert without.item() == 0
        assert not any(g.any() for g in gradient(model, without))


@every_kind_of_model
def test_g4_labels_of_masked_rows_are_never_read(name: str) -> None:
    model, y = built(name), labels_of_kinds(16)
    observed, losses = torch.rand(16, len(KINDS)) < 0.5, weighted(**dict.fromkeys(KINDS, 1.0))
    logits = model(rows(16))
    found = []
    for junk in (0.0, math.nan, 1e30, -math.inf, -1.0):  # the last: log(1 + y) is infinite there
        total, _ = cost(losses, logits, torch.where(observed, y, junk), observed)
        assert total.isfinite()
        found.append([total, *gradient(model, total)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@every_kind_of_model
def test_g10_task_weight_scales_its_gradient(name: str) -> None:
    model, y = built(name), labels_of_kinds(32)
    observed, logits = torch.rand(32, len(KINDS)) < 0.7, model(rows(32))

    def of(**weights: float) -> list[Tensor]:
        return gradient(model, cost(weighted(**weights), logits, y, observed)[0])

    one = dict.fromkeys(KINDS, 1.0)
    together = of(**one)
    for task in KINDS:
        for base, single, more in zip(together, of(**{task: 1.0}), of(**{**one, task: 3.0}), strict=True):
            scale = 1e-5 * max(1.0, base.abs().max().item())  # the total may be far larger than this task's part
            torch.testing.assert_close(more - base, 2 * single, rtol=1e-4, atol=scale)


@pytest.mark.parametrize("name", ["mmoe", "ple", "m2m_no_attention"])
def test_g11_overfits_256_rows(name: str) -> None:
    """Down to the least there is, which for a count is not 0 (`TaskLosses.least`). Without transformers, which take seconds."""
    torch.manual_seed(3)
    wide = spec(20)
    inputs, y = rows(256, spec=wide), labels_of_kinds(256)
    model = build_ranker(large(name), KINDS, wide, rates_of(y))
    losses, observed = weighted(**dict.fromkeys(KINDS, 1.0)), torch.ones(256, len(KINDS), dtype=torch.bool)
    steps = 150
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for _ in range(steps):
        total, _ = cost(losses, model(inputs), y, observed)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        decay.step()
    above = dict(zip(KINDS, cost(losses, model(inputs), y, observed)[1].tolist(), strict=True))
    # Thresholds that all rows share, a least σ, and kinks where the gradient does not get smaller take more steps
    slow = {"stars": 0.9, "paid": 0.1, "delay": 0.05, "late": 0.2}
    assert all(value < slow.get(task, 0.02) for task, value in above.items()), above
