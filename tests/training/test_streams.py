"""The streams of a worker: the evaluation input is opened once and read as often as a run evaluates."""

import gc
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from raymtl.config.load import config_from_dict
from raymtl.data.dealer import deal_out, start_dealers
from raymtl.data.read import Input, Schedule
from raymtl.data.units import plan_input
from raymtl.errors import DataError, user_errors
from raymtl.training.job import Job
from raymtl.training.rundir import RunFolder
from raymtl.training.streams import Dealers, Streams
from tests.helpers.ray_processes import ray_processes
from tests.helpers.run_logs import DAYS, small_config, write_part

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]
ROWS = 300


def job_of(root: Path) -> tuple[Job, Schedule]:
    """A job on the logs, and the schedule of its evaluation input."""
    raw = small_config(root, root / "runs", "streams")
    raw["data"] |= {"block_rows": 50, "prefetch_blocks": 1}
    config = config_from_dict(raw)
    inputs = {part: Input(plan_input(config, part), part == "eval") for part in ("train", "eval")}
    job = Job(config, inputs, {}, RunFolder.open(str(root / "runs")), None, read_tasks=1, threads=1, config_hash="")
    return job, [(0, n) for n in inputs["eval"].plan.order(None, 0)]


def until(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not happened():
        gc.collect()  # an error caught above holds on to what it passed through
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_the_evaluation_input_is_opened_once(ray_cluster: None, tmp_path: Path) -> None:
    write_part(tmp_path, DAYS[0], "part-0.parquet", 40, seed=1)
    path = write_part(tmp_path, DAYS[1], "part-0.parquet", ROWS, seed=2)
    job, schedule = job_of(tmp_path)
    others = ray_processes("Dealer")

    def dealers() -> set[int]:
        """The processes that deal slices out."""
        return ray_processes("Dealer") - others

    streams = Streams(job, 0, 1)

    def opened() -> list[str]:
        """The open streams of evaluations."""
        return [dealt.name for dealt in streams._open[True]]

    def read(source: Input) -> pa.Table:
        found = pa.concat_tables(user_errors(streams(source, schedule, [])))
        return found.drop_columns("label:buy")  # a missing label is NaN, which equals nothing

    source = job.inputs["eval"]
    whole = read(source)
    assert len(whole) == ROWS
    one = dealers()
    assert len(one) == 1
    first = opened()
    assert read(source) == whole
    left = iter(streams(source, schedule, []))  # an evaluation that ends in mid-stream
    assert 0 < len(next(left)) < ROWS
    left.close()  # type: ignore[attr-defined]
    assert read(source) == whole

    written = path.read_bytes()
    path.write_bytes(written[:100])
    for _ in range(2):
        with pytest.raises(DataError, match=r"part-0\.parquet: cannot be read"):
            read(source)
    path.write_bytes(written)
    assert read(source) == whole
    assert opened() == first

    assert len(read(job.inputs["train"])) == 40
    assert read(replace(source, maps={})) == whole
    assert len(opened()) == 1  # one input is kept, and it is another one now
    assert opened() != first
    assert dealers() == one  # of all streams
    streams = Streams(job, 0, 1)
    until(lambda: not dealers())


def test_a_closed_stream_does_not_pass_for_an_empty_one(ray_cluster: None, tmp_path: Path) -> None:
    write_part(tmp_path, DAYS[0], "part-0.parquet", 40, seed=1)
    write_part(tmp_path, DAYS[1], "part-0.parquet", ROWS, seed=2)
    job, schedule = job_of(tmp_path)
    streams = Streams(job, 0, 1)
    source = job.inputs["eval"]
    rows = iter(streams(source, schedule, []))
    assert len(next(rows))
    streams.close()
    with pytest.raises(Exception, match=r"Error"):
        list(streams(source, schedule, []))


def test_members_that_wait_for_a_lost_one_are_let_go_and_read_nothing(ray_cluster: None, tmp_path: Path) -> None:
    (dealer,) = start_dealers(2, 10_000)
    started = tmp_path / "started"

    def read(row: dict[str, int]) -> dict[str, int]:
        started.touch()
        return row

    dealt = deal_out(ray.data.range(10).map(read), dealer, 2)
    waiting = dealer.call.remote(dealt.name, "start_epoch", 0)  # the other member never comes
    assert ray.wait([waiting], timeout=1.0)[0] == []
    ray.get(dealer.close_all.remote())
    with pytest.raises(ValueError, match="Invalid iterator"):
        ray.get(waiting, timeout=20)
    assert not started.exists()


def test_a_dealer_that_was_killed_serves_the_workers_that_start_again(ray_cluster: None, tmp_path: Path) -> None:
    write_part(tmp_path, DAYS[0], "part-0.parquet", 40, seed=1)
    write_part(tmp_path, DAYS[1], "part-0.parquet", ROWS, seed=2)
    job, schedule = job_of(tmp_path)
    others = ray_processes("Dealer")
    dealers = start_dealers(1, 50)
    source = job.inputs["eval"]
    lost = Streams(job, 0, 1, Dealers(dealers))
    rows = iter(lost(source, schedule, []))
    assert 0 < len(next(rows)) < ROWS
    (pid,) = ray_processes("Dealer") - others
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayError):
        list(rows)
    again = Streams(job, 0, 1, Dealers(dealers))
    assert sum(len(table) for table in again(source, schedule, [])) == ROWS
