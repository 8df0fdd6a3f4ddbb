"""The loop over units of which some have no row for this run: it ends as finished, and its checkpoints count them as done."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.data.read import Input, Schedule
from raymtl.data.units import Fragment, Plan, Unit
from raymtl.training.progress import Progress
from raymtl.training.row_tracker import TouchedRowTracker
from raymtl.training.trainer import Trainer, Worker
from tests.helpers.mixed_models import make
from tests.helpers.worker_processes import mixed_block, mixed_config, several

BATCH, EPOCHS = 12, 2
CASES: dict[str, list[int]] = {
    "the last ones": [20, 5, 0, 0],
    "the last one of one worker": [24, 13],
    "those in the middle": [0, 12, 0, 7],
    "all": [0, 0],
}
"""Rows of each unit that are left when those of held-out users are taken out; a worker gets every second row."""


def plan_of(sizes: list[int]) -> Plan:
    units = tuple(Unit((Fragment(f"part-{n}", (0,), 0, 30),)) for n in range(len(sizes)))
    return Plan("/nowhere", units, "plan", ("2026-01-01", "2026-01-01"))


def blocks(config: Config, sizes: list[int], schedule: Schedule, rank: int, workers: int) -> Iterator[pa.Table]:
    """Blocks as the reading tasks make them: a unit without a row is an empty one."""
    for place, (_, unit) in enumerate(schedule):
        rows = len(range(rank, sizes[unit], workers))
        yield mixed_block(config, rows, seed=10 * unit + rank, unit=place)


def run_all(rank: int, workers: int, pipeline: str, epochs: int) -> dict[str, Any]:
    """Progress at each checkpoint and at the end of every case, from the start and from its first checkpoint on."""
    found = {}
    loader_groups = [dist.new_group(backend="gloo") if workers > 1 else None for _ in range(2)]
    world = dist.group.WORLD
    assert world is not None
    config = mixed_config([None], rows=BATCH, pipeline=pipeline, epochs=epochs, checkpoint={"every_units": 1})
    shuffle = config.data.shuffle.model_copy(update={"mode": "none"})
    config = config.model_copy(update={"data": config.data.model_copy(update={"shuffle": shuffle})})
    for case, sizes in CASES.items():

        def open_stream(
            source: Input, schedule: Schedule, meetings: Sequence[int], sizes: list[int] = sizes
        ) -> Iterator[pa.Table]:
            return blocks(config, sizes, schedule, rank, workers)

        worker = Worker(rank, workers, torch.device("cpu"), world, *loader_groups, open_stream)
        answers = []
        begin = Progress()
        for _ in range(2):
            saved: list[dict[str, Any]] = []
            touched, progress = TouchedRowTracker(config), Progress(**asdict(begin))

            def save(saved: list[Any] = saved, progress: Progress = progress) -> None:
                saved.append(asdict(progress))

            Trainer(
                worker, config, make(config), {"train": Input(plan_of(sizes))}, progress, None, save, touched.add
            ).run()
            answers.append((saved, asdict(progress), {name: len(rows) for name, rows in touched.rows().items()}))
            begin = Progress(**saved[0])
            if begin.finished:
                break
        found[case] = answers
    found["announced"] = [saved_units(worker, config, announced) for announced in (False, True)]
    return found


def saved_units(worker: Worker, config: Config, announced: bool) -> list[tuple[int, int]]:
    """Epochs and units after which is saved, every third unit being due, where the loss of a node is announced or not."""
    sizes, saved = [12, 12, 12, 12], []
    rare = config.train.model_copy(update={"checkpoint": config.train.checkpoint.model_copy(update={"every_units": 3})})
    config, progress = config.model_copy(update={"train": rare}), Progress()

    def open_stream(source: Input, schedule: Schedule, meetings: Sequence[int]) -> Iterator[pa.Table]:
        return blocks(config, sizes, schedule, worker.rank, worker.workers)

    Trainer(
        replace(worker, open_stream=open_stream, must_save=lambda: announced),
        config,
        make(config),
        {"train": Input(plan_of(sizes))},
        progress,
        None,
        lambda: saved.append((progress.epoch, progress.units_done)),
    ).run()
    return saved


@pytest.mark.dist
@pytest.mark.parametrize(("workers", "pipeline", "epochs"), [(1, "none", EPOCHS), (2, "sparse_dist", 1)])
def test_units_without_a_row(workers: int, pipeline: str, epochs: int, tmp_path: Path) -> None:
    answers = several(workers, tmp_path / "run", run_all, pipeline, epochs)
    for case, sizes in CASES.items():
        rows = sum(sizes)
        for (saved, end, touched), *again in (answer[case] for answer in answers):
            for last in (end, *(progress for _, progress, _ in again)):
                assert last["finished"]
                assert (last["epoch"], last["units_done"], last["rows"]) == (epochs, 0, epochs * rows)
            assert saved[-1] == end
            assert [s["finished"] for s in saved] == [False] * (len(saved) - 1) + [True]
            done = [(s["epoch"], s["units_done"]) for s in saved]
            assert done == sorted(set(done))
            with_rows = [n for n, size in enumerate(sizes) if size]
            expected = [divmod(p * len(sizes) + n + 1, len(sizes)) for p in range(epochs) for n in with_rows]
            assert done == expected + ([] if expected[-1:] == [(epochs, 0)] else [(epochs, 0)])
            assert bool(rows) == any(touched.values())
    calm, announced = answers[0]["announced"]
    assert calm == [place for p in range(epochs) for place in ((p, 3), (p + 1, 0))]
    assert announced == [place for p in range(epochs) for place in ((p, 1), (p, 2), (p, 3), (p + 1, 0))]
    for case in CASES:
        assert len({(len(saved), end["step"]) for (saved, end, _), *_ in (answer[case] for answer in answers)}) == 1
