"""Every row once, the same steps on every worker, whatever the shares; errors and stops reach all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch.distributed as dist

from raymtl.data.batch import Collator
from raymtl.errors import DataError
from raymtl.training.synced_loader import SyncedLoader
from tests.helpers.worker_processes import mixed_block, mixed_config, several

CONFIG = mixed_config([None], rows=12)
# rows of the blocks of each unit, per worker: uneven, a worker without any, units of a single row, more than a batch
LAYOUTS: dict[int, list[list[list[int]]]] = {
    1: [[[5, 9], [1], [13]]],
    2: [[[5, 9], [], [3, 3, 3]], [[1], [20], []]],
    3: [[[4], [], [1, 1]], [[], [30, 2], []], [[], [], []]],
}


def blocks_of(layout: list[list[int]], rank: int) -> Iterator[pa.Table]:
    for unit, sizes in enumerate(layout):
        for n, rows in enumerate(sizes):
            block = mixed_block(CONFIG, rows, seed=100 * rank + 10 * unit + n, unit=unit)
            marks = [1_000_000 * rank + 10_000 * unit + 100 * n + i for i in range(rows)]
            yield block.set_column(
                block.schema.get_field_index("dense:age"), "dense:age", pa.array(marks, pa.float32())
            )


def feed_of(rank: int, workers: int, blocks: Iterator[pa.Table]) -> SyncedLoader:
    group = dist.new_group(backend="gloo") if workers > 1 else None
    return SyncedLoader(blocks, Collator(CONFIG, CONFIG.train.batch_size // workers, False), group)


def read_all(rank: int, workers: int) -> list[dict[str, Any]]:
    return [
        {
            "unit": s.unit,
            "rows": s.rows,
            "ends": s.ends_unit,
            "shape": len(s.batch.weight),
            "marks": s.batch.dense[s.batch.valid, 0].tolist(),
            "own": s.batch.weight.sum().item(),
            "observed": (s.batch.observed & s.batch.valid[:, None]).sum(0).tolist(),
            "totals": s.batch.totals.tolist(),
        }
        for s in feed_of(rank, workers, blocks_of(LAYOUTS[workers][rank], rank))
    ]


@pytest.mark.dist
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_row_once_in_the_same_steps(workers: int, tmp_path: Path) -> None:
    per_worker = several(workers, tmp_path / "run", read_all)
    steps = len(per_worker[0])
    assert all(len(answers) == steps for answers in per_worker)
    expected = [
        mark
        for rank in range(workers)
        for block in blocks_of(LAYOUTS[workers][rank], rank)
        for mark in block["dense:age"].to_pylist()
    ]
    seen = [mark for answers in per_worker for step in answers for mark in step["marks"]]
    assert sorted(seen) == sorted(expected)
    for at_step in zip(*per_worker, strict=True):
        assert len({(s["unit"], s["rows"], s["ends"], tuple(s["totals"])) for s in at_step}) == 1
        assert at_step[0]["rows"] == sum(len(s["marks"]) for s in at_step) == at_step[0]["totals"][-1]
        assert at_step[0]["totals"][:-1] == [sum(s["observed"][t] for s in at_step) for t in range(2)]
        assert {s["shape"] for s in at_step} == {CONFIG.train.batch_size // workers}
    units = [s["unit"] for s in per_worker[0]]
    assert units == sorted(units)
    last_of = {u: max(i for i, v in enumerate(units) if v == u) for u in set(units)}
    assert [i for i, s in enumerate(per_worker[0]) if s["ends"]] == sorted(last_of.values())


def broken(rank: int, workers: int) -> tuple[int, str]:
    def blocks() -> Iterator[pa.Table]:
        yield mixed_block(CONFIG, 6, seed=rank)
        if rank == 1:
            raise DataError("part-7.parquet: the label is 3")
        yield mixed_block(CONFIG, 600, seed=rank)

    steps = 0
    try:
        for _ in feed_of(rank, workers, blocks()):
            steps += 1
    except DataError as error:
        return steps, str(error)
    return steps, "no error"


@pytest.mark.dist
def test_one_workers_error_ends_all_with_the_same_sentence(tmp_path: Path) -> None:
    answers = several(2, tmp_path / "run", broken)
    assert answers[0] == answers[1]
    assert answers[0][1] == "part-7.parquet: the label is 3"


def stopped(rank: int, workers: int) -> int:
    feed = feed_of(rank, workers, (mixed_block(CONFIG, 50, seed=n) for n in range(10_000)))
    steps = 0
    for _ in feed:
        steps += 1
        if steps == 3:
            feed.close()
            break
    assert not feed._thread.is_alive()
    return steps


@pytest.mark.dist
def test_close_ends_the_threads_of_all_workers(tmp_path: Path) -> None:
    assert several(2, tmp_path / "run", stopped) == [3, 3]
