"""Logits to predictions in the label's unit."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from raymtl.config.task_kinds import BaseRate
from raymtl.config.tasks import Task
from raymtl.objectives.link import OutputScale
from raymtl.objectives.outputs import Outputs
from tests.helpers.worker_processes import several


def test_each_column_has_its_own_link() -> None:
    tasks = {"a": Task(), "b": Task(kind="count"), "c": Task(kind="real"), "d": Task(kind="real", transform="log1p")}
    logits = torch.tensor([[0.0, 0.0, -2.5, 0.0], [2.0, 1.0, 7.0, 1.0], [0.0, 99.0, 1.0, 1000.0]])
    found = Outputs(tasks).predictions(logits)
    assert found[:, 0].tolist() == pytest.approx([0.5, 0.880797, 0.5])
    assert found[:, 1].tolist() == pytest.approx([1.0, 2.718282, np.exp(80)], rel=1e-5)
    assert found[:, 2].tolist() == [-2.5, 7.0, 1.0]
    assert found[:2, 3].tolist() == pytest.approx([0.0, 1.718282])
    assert found.isfinite().all()


def test_half_precision_is_widened() -> None:
    found = Outputs({"a": Task()}).predictions(torch.full((2, 1), -9.0, dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    assert found[0, 0].item() == pytest.approx(1.2339e-4, rel=1e-4)


def test_a_missing_column_is_refused() -> None:
    with pytest.raises(ValueError, match="1 columns for 2 outputs"):
        Outputs({"a": Task(), "b": Task()}).predictions(torch.zeros(2, 1))


# The factor of log1p tasks

SPEND = {"buy": Task(), "spend": Task(kind="real", transform="log1p")}


def spends(rows: int, rate: Tensor, seed: int) -> Tensor:
    """Amounts of 5 to 500, zero in all but a share `rate` of the rows."""
    g = torch.Generator().manual_seed(seed)
    amount = torch.exp(torch.randn(rows, generator=g) + 4)
    return torch.where(torch.rand(rows, generator=g) < rate, amount, 0.0)


def scale_of(labels: Tensor) -> OutputScale:
    logs = labels.double().log1p()
    rate = BaseRate(labels.mean().item(), logs.mean().item(), logs.std().item())
    made = OutputScale.of(Outputs(SPEND), {"spend": rate})
    assert made is not None
    return made


def learn(scale: OutputScale, logits: Tensor, labels: Tensor, group: dist.ProcessGroup | None = None) -> None:
    both = torch.stack([torch.zeros_like(logits), logits], 1), torch.stack([(labels > 0).float(), labels], 1)
    workers = 1 if group is None else dist.get_world_size(group)
    ones = torch.ones(len(labels))
    scale.learn(*both, ones, torch.ones(len(labels), 2).bool(), ones.sum() * workers, group)


def test_an_untrained_log1p_head_predicts_the_mean_and_not_the_median() -> None:
    labels = spends(200_000, torch.tensor(0.01), seed=0)
    scale = scale_of(labels)
    logits = scale(torch.zeros(1, 2))
    assert Outputs(SPEND).predictions(scale.corrected(logits))[0, 1].item() == pytest.approx(
        labels.mean().item(), rel=1e-4
    )
    assert Outputs(SPEND).predictions(logits)[0, 1] < 0.1 * labels.mean()


def test_the_factor_makes_predictions_sum_to_zero_inflated_labels() -> None:
    """The best possible logits E[log(1 + y)] of rows that buy in 0.2 to 2 %: without the factor the sum is 5 % of the labels'."""
    scale = scale_of(spends(100_000, torch.tensor(0.01), seed=1))
    for seed in range(40):
        rate = torch.linspace(0.002, 0.02, 5000)
        learn(scale, rate * 4.0, spends(5000, rate, seed))
    rate = torch.linspace(0.002, 0.02, 500_000)
    logits, labels = torch.stack([rate, rate * 4.0], 1), spends(len(rate), rate, seed=99)
    found = Outputs(SPEND).predictions(scale.corrected(logits))[:, 1]
    assert found.sum() / labels.sum() == pytest.approx(1, abs=0.1)
    assert Outputs(SPEND).predictions(logits)[:, 1].sum() / labels.sum() < 0.1
    assert (found - labels).square().mean() < (labels.mean() - labels).square().mean()


def test_the_factor_follows_the_model_within_the_run() -> None:
    """Early predictions, ten times too low, weigh nothing at the end; a batch that is no outlier moves it little."""
    scale, labels = scale_of(torch.full((9,), 10.0)), torch.full((50,), 10.0)
    for n in range(400):
        learn(scale, torch.full((50,), 1.0 if n < 100 else 10.0).log1p(), labels)
    assert scale.factor.item() == pytest.approx(1, abs=0.05)


def test_predictions_of_amounts_are_never_negative_and_nothing_is_hidden() -> None:
    scale = scale_of(spends(10_000, torch.tensor(0.1), seed=0))
    learn(scale, torch.full((10,), -3.0), torch.ones(10))  # every prediction is 0
    assert scale.factor.isfinite().all()
    logits = torch.tensor([-5.0, -1e-3, 0.0, 1.0, 79.0, 1e6, np.nan, np.inf, -np.inf])
    fixed = scale.corrected(torch.stack([torch.zeros(9), logits], 1))
    found = Outputs(SPEND).predictions(fixed)[:, 1]
    assert (found[:6] >= 0).all()
    assert found[:6].isfinite().all()
    assert fixed[:, 1].isfinite().tolist() == logits.isfinite().tolist()
    assert not fixed[:, 0].any()


def test_models_of_binary_tasks_have_no_scale() -> None:
    assert OutputScale.of(Outputs({"click": Task()}), {}) is None


def _learn_on_two(rank: int, workers: int) -> list[float]:
    rate = torch.full((4000,), 0.05)
    scale, labels = scale_of(torch.tensor([0.0, 3.0])), spends(4000, rate, seed=5)
    for n in range(5):
        own = slice(n * 800 + rank * 400, n * 800 + rank * 400 + 800 // workers)
        learn(scale, torch.linspace(0.1, 0.3, 4000)[own], labels[own], dist.group.WORLD if workers > 1 else None)
    return scale.state_dict()["means"].flatten().tolist()


@pytest.mark.ray
def test_two_workers_have_the_factor_of_one(tmp_path: Path) -> None:
    one = _learn_on_two(0, 1)
    for found in several(2, tmp_path / "two", _learn_on_two):
        assert found == pytest.approx(one, rel=1e-5)
