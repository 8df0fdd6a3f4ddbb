"""Every row once, the same steps on every worker, whatever the shares; errors and stops reach all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from raymtl.data.batch import Batch, Collator
from raymtl.data.dealing import Deal
from raymtl.errors import DataError
from raymtl.training import synced_loader
from raymtl.training.synced_loader import Step, SyncedLoader
from tests.helpers.worker_processes import mixed_block, mixed_config, several

CONFIG = mixed_config([None], rows=12)
# rows of the blocks of each unit, per worker: uneven, a worker without any, units of a single row, more than a batch
LAYOUTS: dict[int, list[list[list[int]]]] = {
    1: [[[5, 9], [1], [13]]],
    2: [[[5, 9], [], [3, 3, 3]], [[1], [20], []]],
    3: [[[4], [], [1, 1]], [[], [30, 2], []], [[], [], []]],
}
MEETINGS: list[list[int]] = [[1, 2], [2], []]
UNITS = 3


def deal_of(meetings: list[int], workers: int, units: int = UNITS, block_rows: int = 65536) -> Deal:
    return Deal([20] * units, meetings, batch_size=12, workers=workers, block_rows=block_rows)


def blocks_of(layout: list[list[int]], rank: int) -> Iterator[pa.Table]:
    for unit, sizes in enumerate(layout):
        for n, rows in enumerate(sizes):
            block = mixed_block(CONFIG, rows, seed=100 * rank + 10 * unit + n, unit=unit)
            marks = [1_000_000 * rank + 10_000 * unit + 100 * n + i for i in range(rows)]
            yield block.set_column(
                block.schema.get_field_index("dense:age"), "dense:age", pa.array(marks, pa.float32())
            )


def feed_of(rank: int, workers: int, blocks: Iterator[pa.Table], **more: Any) -> SyncedLoader:
    group = dist.new_group(backend="gloo") if workers > 1 else None
    return SyncedLoader(blocks, Collator(CONFIG, CONFIG.train.batch_size // workers, False), group, **more)


def said(step: Step) -> dict[str, Any]:
    batch = step.batch
    return {
        "rows": step.rows,
        "done": step.done,
        "saves": step.must_save,
        "shape": len(batch.weight),
        "marks": batch.dense[batch.valid, 0].tolist(),
        "observed": (batch.observed & batch.valid[:, None]).sum(0).tolist(),
        "totals": batch.totals.tolist(),
    }


def read_all(rank: int, workers: int) -> list[list[dict[str, Any]]]:
    return [
        [said(s) for s in feed_of(rank, workers, blocks_of(LAYOUTS[workers][rank], rank), deal=deal)]
        for deal in [deal_of(meetings, workers) for meetings in MEETINGS] + [None]
    ]


def units_of(marks: list[float]) -> set[int]:
    return {int(mark) % 1_000_000 // 10_000 for mark in marks}


@pytest.mark.dist
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_row_once_in_the_same_steps(workers: int, tmp_path: Path) -> None:
    answers = several(workers, tmp_path / "run", read_all)
    expected = [
        mark
        for rank in range(workers)
        for block in blocks_of(LAYOUTS[workers][rank], rank)
        for mark in block["dense:age"].to_pylist()
    ]
    for case, meetings in enumerate([*MEETINGS, []]):
        per_worker = [answer[case] for answer in answers]
        assert len({len(steps) for steps in per_worker}) == 1
        seen = [mark for steps in per_worker for step in steps for mark in step["marks"]]
        assert sorted(seen) == sorted(expected)
        for at_step in zip(*per_worker, strict=True):
            assert len({(s["rows"], s["done"], s["saves"], tuple(s["totals"])) for s in at_step}) == 1
            assert at_step[0]["rows"] == sum(len(s["marks"]) for s in at_step) == at_step[0]["totals"][-1]
            assert at_step[0]["totals"][:-1] == [sum(s["observed"][t] for s in at_step) for t in range(2)]
            assert {s["shape"] for s in at_step} == {CONFIG.train.batch_size // workers}
        with_rows = {u for rank in range(workers) for u in range(UNITS) if LAYOUTS[workers][rank][u]}
        begin, ends = 0, []
        for end in [*meetings, UNITS]:
            if with_rows & set(range(begin, end)):  # nobody meets after units without a row
                ends.append(end)
            begin = end
        assert [s["done"] for s in per_worker[0] if s["done"]] == ends
        assert per_worker[0][-1]["done"] == UNITS
        assert not any(s["saves"] for s in per_worker[0])
        for steps in per_worker:
            done = 0
            for step in steps:
                assert all(done <= unit for unit in units_of(step["marks"]))
                done = step["done"] or done
                if step["done"]:
                    assert all(unit < done for unit in units_of(step["marks"]))
            rows = [len(s["marks"]) for s in steps]
            full = CONFIG.train.batch_size // workers
            last = [n for n, s in enumerate(steps) if s["done"]]
            for first, end in zip([0, *(n + 1 for n in last)], last, strict=False):
                assert rows[first : end + 1] == sorted(rows[first : end + 1], reverse=True)
                assert sum(0 < count < full for count in rows[first : end + 1]) <= 1


def interrupted(rank: int, workers: int, groups: int) -> list[dict[str, Any]]:
    """A worker wants a checkpoint when another has packed rows of the third of six units; the next meeting is after the sixth."""
    synced_loader._ASKED_AGAIN_S = 0.0
    block_rows = 65536 if groups == 1 else 5
    begun: list[int] = []
    wanted: list[bool] = []

    def wants_meeting() -> bool:
        wanted.append(rank == 1 and len(begun) >= 2 and not any(wanted))
        return wanted[-1]

    def blocks() -> Iterator[pa.Table]:
        for unit in range(6):
            begun.append(unit)
            yield from (b for b in blocks_of([[]] * unit + [[20 + 3 * rank]], rank))

    feed = feed_of(
        rank,
        workers,
        blocks(),
        deal=deal_of([], workers, units=6, block_rows=block_rows),
        wants_meeting=wants_meeting,
    )
    return [said(s) for s in feed]


@pytest.mark.dist
@pytest.mark.parametrize(("groups", "meetings"), [(1, [3, 6]), (2, [4, 6])])
def test_all_meet_where_one_wants_a_checkpoint(groups: int, meetings: list[int], tmp_path: Path) -> None:
    per_worker = several(2, tmp_path / "run", interrupted, groups)
    assert len(per_worker[0]) == len(per_worker[1])
    for rank, steps in enumerate(per_worker):
        assert [(s["done"], s["saves"]) for s in steps if s["done"]] == [(meetings[0], True), (meetings[1], False)]
        first = next(n for n, s in enumerate(steps) if s["done"])
        before = [mark for s in steps[: first + 1] for mark in s["marks"]]
        assert len(before) == meetings[0] * (20 + 3 * rank)
        assert units_of(before) == set(range(meetings[0]))
        assert sum(len(s["marks"]) for s in steps) == 6 * (20 + 3 * rank)


def prepared(rank: int, workers: int) -> tuple[list[int], list[float]]:
    calls: list[int] = []
    group = dist.new_group(backend="gloo")

    def prepare(batches: list[Batch]) -> list[Batch]:
        calls.append(len(batches))
        sums = torch.stack([b.valid.sum() for b in batches])
        dist.all_reduce(sums, group=group)
        return [Batch(**{**vars(b), "weight": b.weight + count}) for b, count in zip(batches, sums, strict=True)]

    blocks = blocks_of(LAYOUTS[2][rank], rank)
    feed = feed_of(rank, workers, blocks, deal=deal_of([2], workers), prepare=prepare)
    return calls, [s.batch.weight[-1].item() - s.rows for s in feed]


@pytest.mark.dist
def test_steps_are_prepared_by_all_workers_together(tmp_path: Path) -> None:
    (calls, own), (other_calls, other) = several(2, tmp_path / "run", prepared)
    assert calls == other_calls
    assert sum(calls) == len(own) == len(other)
    assert max(calls) > 1
    assert all(value in (0, 1) for value in own + other)  # the weight of the row itself


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
