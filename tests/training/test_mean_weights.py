"""Losses over the number of labels times their mean weight: a row counts the same in every batch, on any number of workers."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.task_kinds import BaseRate
from raymtl.config.tasks import Task
from raymtl.objectives.losses import TaskLosses
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.build import build
from tests.helpers.worker_processes import several
from tests.training.test_every_preset import batches
from tests.training.test_requests import ROWS, configured, trained

SAMPLED = ["data.sampling={column: kept}", "tasks.buy.weight_column=price"]
LISTS = ["data.request=request_id", "tasks.click.losses={ranknet: {weight: 0.5}}"]
RATE = 0.05


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A day of which one request in 20 without a click was kept."""
    folder = tmp_path_factory.mktemp("sampled") / "logs"
    write_logs(SynthSpec(days=1, rows_per_day=20_000, users=20_000, items=80), str(folder))
    (path,) = folder.rglob("*.parquet")
    table = pq.read_table(path, partitioning=None)
    request = table.column("request_id").to_numpy()
    clicked = np.isin(request, request[table.column("click").to_numpy() == 1])
    _, place = np.unique(request, return_inverse=True)
    kept = clicked | (np.random.default_rng(0).random(place.max() + 1) < RATE)[place]
    table = table.append_column("kept", [np.where(clicked, 1, RATE).astype(np.float32)])
    pq.write_table(table.filter(kept), path)
    return str(folder)


def slope(logit: float, rows: list[tuple[float, float]], normalizer: float) -> float:
    """The gradient of a batch's loss by the logit that all its rows have, from the label and weight of each."""
    a = torch.full((len(rows), 1), logit, requires_grad=True)
    y, w = torch.tensor(rows).unbind(1)
    there = torch.ones(len(rows), dtype=torch.bool)
    n = torch.tensor([normalizer], dtype=torch.float64)
    losses = TaskLosses({"t": Task(normalizer_floor=0)}, OrderLoss())
    losses(a, y[:, None], there[:, None], w, there, n, torch.tensor(len(rows))).total.backward()
    assert a.grad is not None
    return float(a.grad.sum())


def test_the_mean_over_all_small_batches_is_least_at_the_rate_of_the_complete_logs() -> None:
    """Three positives of weight 1 and one negative that stands for nine: the rate is a quarter. The weights of the batch itself
    as the divisor would make it 0.4."""
    rows = [(1.0, 1.0)] * 3 + [(0.0, 9.0)]
    small = list(itertools.combinations(rows, 2))
    logit = float(np.log(0.25 / 0.75))
    assert sum(slope(logit, list(b), 2 * 3.0) for b in small) == pytest.approx(0, abs=1e-6)
    of_batch = sum(slope(logit, list(b), sum(w for _, w in b)) for b in small)
    assert of_batch < -0.5, "it would raise the logit further"
    biased = float(np.log(0.4 / 0.6))
    by_hand = 3 * (0.4 - 1) + 3 * ((1 * (0.4 - 1) + 9 * 0.4) / 10)
    assert sum(slope(biased, list(b), sum(w for _, w in b)) for b in small) == pytest.approx(by_hand, abs=1e-6)


def of_logs(rank: int, workers: int, logs: str, more: list[str]) -> dict[str, Any]:
    return trained(configured("mmoe", logs, *more), rank, workers)


def by_hand(rank: int, workers: int, logs: str) -> tuple[list[float], list[float], list[float]]:
    """The losses of the first step, those of a model that knows nothing of weights, and those computed here."""
    group = dist.group.WORLD
    assert group is not None
    config = configured("mmoe", logs, *SAMPLED, "train.schedule={decay: none}")
    (batch, *_), rates = batches(config, rank, workers, 1, ROWS)
    assert all(isinstance(rate, BaseRate) and rate.weight > 1.2 for rate in rates.values())

    def losses(known: dict[str, float]) -> tuple[Tensor, Tensor]:
        built = build(config, known, 1, torch.device("cpu"), group)
        built.model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            logits, per_task, _ = built.model(batch)[1]
        return logits, per_task

    logits, per_task = losses(rates)
    unweighted = losses({name: BaseRate(rate, rate.center, rate.spread, rate.terms) for name, rate in rates.items()})[1]
    rows = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none").double().numpy()
    means = np.array([rate.weight for rate in rates.values()])
    weight, seen = batch.weight.double().numpy(), batch.observed.numpy()
    expected = (weight * rows).sum(0, where=seen) / ((seen & (weight > 0)).sum(0) * means)
    return per_task.tolist(), (unweighted / torch.tensor(means)).tolist(), expected.tolist()


@pytest.mark.dist
def test_the_losses_of_a_batch_by_hand(logs: str, tmp_path: Path) -> None:
    ((found, divided, expected),) = several(1, tmp_path / "hand", by_hand, logs)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found == pytest.approx(divided, rel=1e-5)


@pytest.mark.dist
@pytest.mark.parametrize("more", [SAMPLED, [*SAMPLED, *LISTS]], ids=["rows", "lists"])
def test_three_workers_take_the_step_of_one(logs: str, tmp_path: Path, more: list[str]) -> None:
    """A step has 18 requests of ten rows each, so that each of three workers has six of them."""
    (alone,) = several(1, tmp_path / "one", of_logs, logs, more)
    three = several(3, tmp_path / "three", of_logs, logs, more)
    mean = torch.tensor([answer["losses"] for answer in three]).mean(0)
    assert torch.allclose(mean[:, 1:], torch.tensor(alone["losses"])[:, 1:], rtol=1e-5)
    for answer in three:
        for name, gradient in alone["dense"].items():
            assert torch.allclose(answer["dense"][name], gradient, rtol=1e-4, atol=1e-6), name
