"""What a training tells Prometheus: declared metrics only, each with its tags, from the ranks that are said to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.data.read import Input, Schedule
from raymtl.telemetry.metrics import METRICS, Gauges
from raymtl.training.progress import Progress
from raymtl.training.trainer import Trainer, Worker
from tests.helpers.mixed_models import make
from tests.helpers.worker_processes import mixed_config, several
from tests.training.test_trainer import blocks, plan_of

DECLARED = {metric.name: metric for metric in METRICS}


class Heard(Gauges):
    """Keeps what is said."""

    def __init__(self, rank: int):
        super().__init__("first", rank)
        self.said: list[tuple[str, float | None, dict[str, str]]] = []

    def set(self, name: str, value: float | None, **tags: str) -> None:
        super().set(name, value, **tags)
        self.said.append((name, value, tags))


def train(rank: int, workers: int) -> list[tuple[str, float | None, dict[str, str]]]:
    config = mixed_config(["row_wise"], rows=12, log_every_steps=2, checkpoint={"every_units": 1})
    loader_groups = [dist.new_group(backend="gloo") for _ in range(2)]
    world = dist.group.WORLD
    assert world is not None
    sizes = [80, 70]

    def open_stream(source: Input, schedule: Schedule, meetings: Sequence[int]) -> Any:
        return blocks(config, sizes, schedule, rank, workers)

    heard = Heard(rank)
    worker = Worker(rank, workers, torch.device("cpu"), world, *loader_groups, open_stream, gauges=heard)
    inputs = {"train": Input(plan_of(sizes))}
    Trainer(worker, config, make(config), inputs, Progress(), None, lambda: None).run()
    return heard.said


@pytest.mark.dist
def test_a_training_sets_what_is_declared(tmp_path: Path) -> None:
    first, second = several(2, tmp_path / "workers", train)
    for rank, said in enumerate((first, second)):
        for name, value, tags in said:
            assert set(tags) == set(DECLARED[name].tags)
            assert DECLARED[name].ranks == "all" or rank == 0
            assert value is not None
            assert value >= 0
    last = {(name, *tags.values()): value for name, value, tags in first}
    assert last["trained_rows",] == 150
    assert last["unit_count",] == 2
    assert last["task_loss_mean", "click"] > 0
    assert 0 < last["collective_seconds", "all_to_all"] < 60
    assert {name for name, *_ in second} == {m.name for m in METRICS if m.ranks == "all"}
