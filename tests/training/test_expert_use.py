"""Expert use at log lines: the numbers by hand, over workers and without padding, in the log and for TensorBoard."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.data.read import Input, Schedule
from raymtl.telemetry.scalars import scalars
from raymtl.training.expert_use import use_record, use_sums
from raymtl.training.progress import Progress
from raymtl.training.rundir import RunFolder
from raymtl.training.runlog import METRICS, RunLogger
from raymtl.training.trainer import Trainer, Worker
from tests.helpers.mixed_models import make
from tests.helpers.model_zoo import FORK, FUNNEL, rows_of, stirred
from tests.helpers.worker_processes import mixed_config, several
from tests.training.test_trainer import blocks, plan_of

GATES = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], [[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], [[torch.nan] * 3] * 2])
"""[B, T, E]: three rows of which the last is padding, two tasks, three experts of which the last is dead."""
VALID = torch.tensor([True, True, False])


def test_the_numbers_by_hand() -> None:
    sums = use_sums([GATES], VALID).tolist()
    assert use_record(sums, [(2, 3)], ["click", "buy"]) == {
        "gates": {"click": [0.5, 0.5, 0.0], "buy": [0.5, 0.5, 0.0]},
        "entropy": {"click": 0.0, "buy": pytest.approx(math.log(2))},
        "dead": 1,
    }


def test_sums_are_additive_over_workers() -> None:
    gates = torch.rand(6, 2, 4).softmax(-1)
    valid = torch.tensor([True] * 5 + [False])
    whole = use_sums([gates], valid)
    parts = [use_sums([gates[some]], valid[some]) for some in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(parts), whole)


def test_without_rows_or_experts_there_is_nothing() -> None:
    assert use_record(use_sums([GATES], VALID & False).tolist(), [(2, 3)], ["click", "buy"]) is None
    assert use_record(use_sums([], VALID).tolist(), [], ["click"]) is None


STREAMS = {
    "mmoe": {"click", "cart", "buy"},
    "omoe": {"all"},
    "pepnet_mmoe": {"click", "cart", "buy"},
    "m2m": {"click", "cart", "buy"},
    "m2m_no_attention": {"click", "cart", "buy"},
    "cgc": {"click", "cart", "buy"},
    "ple": {"level1/click", "level1/cart", "level1/buy", "level1/shared", "level2/click", "level2/cart", "level2/buy"},
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_trunk_with_experts(name: str) -> None:
    model = stirred(name)
    inputs = rows_of(name, 8)
    model.eval()(inputs)
    assert not model.trunk.mixtures
    model.train()(inputs)
    mixtures = model.trunk.mixtures
    assert not any(mixture.requires_grad for mixture in mixtures)
    sums = use_sums(mixtures, torch.ones(8, dtype=torch.bool)).tolist()
    found = use_record(sums, [(m.shape[1], m.shape[2]) for m in mixtures], list(FUNNEL))
    assert set(found["gates"]) == STREAMS[name]
    assert all(sum(gates) == pytest.approx(1) for gates in found["gates"].values())
    assert all(0 <= found["entropy"][name] <= math.log(len(gates)) for name, gates in found["gates"].items())


def test_further_towers_of_a_coupler() -> None:
    model = stirred("mmoe", FORK, coupler={"type": "esm2"})
    model.train()(rows_of("mmoe", 8))
    (mixture,) = model.trunk.mixtures
    found = use_record(use_sums([mixture], torch.ones(8) > 0).tolist(), [tuple(mixture.shape[1:])], list(FORK))
    assert list(found["gates"]) == ["click", "cart", "buy", "tower4"]


def logged(rank: int, workers: int, folder: str) -> Config:
    config = mixed_config(["row_wise"], rows=12, log_every_steps=2, checkpoint={"every_units": 1})
    loader_groups = [dist.new_group(backend="gloo") for _ in range(2)]
    world = dist.group.WORLD
    assert world is not None
    sizes = [80, 70]

    def open_stream(source: Input, schedule: Schedule, meetings: Sequence[int]) -> Any:
        return blocks(config, sizes, schedule, rank, workers)

    worker = Worker(rank, workers, torch.device("cpu"), world, *loader_groups, open_stream)
    log = RunLogger(RunFolder.open(folder), None, 0) if rank == 0 else None
    Trainer(worker, config, make(config), {"train": Input(plan_of(sizes))}, Progress(), log, lambda: None).run()
    if log is not None:
        log.close()
    return config


@pytest.mark.dist
def test_a_training_logs_it(tmp_path: Path) -> None:
    several(2, tmp_path / "workers", logged, str(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert lines
    for line in lines:
        assert {name: sum(gates) for name, gates in line["experts"]["gates"].items()} == pytest.approx(
            {"click": 1, "buy": 1}
        )
        shown = scalars(line)
        assert shown["train/gate/click/2"] == line["experts"]["gates"]["click"][1]
        assert shown["train/gate_entropy/buy"] == line["experts"]["entropy"]["buy"] <= math.log(2)
        assert shown["train/dead_experts"] == 0
