"""Losses per task on several workers: the same step as on one if no list is cut, and the same after a checkpoint."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import checkpoint
from raymtl.training.build import build
from raymtl.training.progress import Progress
from tests.helpers.worker_processes import several
from tests.training.test_every_preset import batches
from tests.training.test_requests import ROWS, configured, trained

LOSSES = [
    "data.request=request_id",
    "tasks.click.losses={ranknet: {weight: 0.5}, listwise: {weight: 0.3, within: group}}",
    "tasks.cart.losses={own: null, focal: {gamma: 1.5, alpha: 0.3}, listwise: {}}",
    "tasks.buy.losses={own: {weight: 2.0, smoothing: 0.1}}",
    "tasks.buy.weight_column=price",
    "train.balance={type: famo}",
]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("losses") / "logs")
    write_logs(SynthSpec(days=1, rows_per_day=1_000, users=20_000, items=80), folder)
    return folder


def of_losses(rank: int, workers: int, logs: str, more: list[str]) -> dict[str, Any]:
    return trained(configured("mmoe", logs, *more), rank, workers)


@pytest.mark.dist
def test_three_workers_take_the_step_of_one(logs: str, tmp_path: Path) -> None:
    """A step has 18 requests of ten rows, of as many users, so that each of three workers has six of them."""
    (alone,) = several(1, tmp_path / "one", of_losses, logs, LOSSES)
    three = several(3, tmp_path / "three", of_losses, logs, LOSSES)
    plain = several(1, tmp_path / "plain", of_losses, logs, LOSSES[:1])[0]
    mean = torch.tensor([answer["losses"] for answer in three]).mean(0)
    assert torch.allclose(mean[:, 1:], torch.tensor(alone["losses"])[:, 1:], rtol=1e-5)
    assert not torch.allclose(mean[0, 1:4], torch.tensor(plain["losses"])[0, 1:4], rtol=0.01)
    for answer in three:
        for name, gradient in alone["dense"].items():
            assert torch.allclose(answer["dense"][name], gradient, rtol=1e-4, atol=1e-6), name


def saved_and_resumed(rank: int, workers: int, logs: str, folder: str) -> list[list[float]]:
    """Losses of the last step, of a run without a stop and of one that comes back from a checkpoint before it."""
    group = dist.group.WORLD
    assert group is not None
    config = configured("mmoe", logs, *LOSSES)
    some, rates = batches(config, rank, workers, 4, ROWS)

    def step(built: Any, batch: Any) -> list[float]:
        torch.manual_seed(3)
        built.optimizers.zero_grad()
        loss, (_, per_task, *_) = built.model(batch)
        loss.backward()
        built.optimizers.step()
        return [loss.item(), *per_task.tolist()]

    built = build(config, rates, 4, torch.device("cpu"), group)
    for batch in some[:2]:
        step(built, batch)
    checkpoint.save(built, Progress(step=2), folder, group, False)
    through = [step(built, batch) for batch in copy.deepcopy(some[2:])]
    again = build(config, rates, 4, torch.device("cpu"), group)
    checkpoint.load(again, folder, model_only=False, group=group)
    return [*through, *(step(again, batch) for batch in some[2:])]


@pytest.mark.dist
def test_a_checkpoint_resumes_them(logs: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    for answer in several(2, tmp_path / "run", saved_and_resumed, logs, str(tmp_path / "checkpoint")):
        assert answer[:2] == answer[2:]
