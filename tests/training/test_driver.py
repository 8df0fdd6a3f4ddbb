"""Whole runs on a Ray cluster: exact row counts, the same losses on one worker and two, recovery, refusals."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.units import plan_input
from raymtl.errors import ClusterError, ConfigError, DataError
from raymtl.reports.html import write_report
from raymtl.training import driver as training_driver
from raymtl.training.checkpoint_folders import checkpoints
from raymtl.training.progress import PROGRESS
from raymtl.training.rundir import RunFolder, run_folder
from tests.helpers.fork_server import fork_command, forked_ray_workers
from tests.helpers.ray_nodes import ENVIRONMENT, Nodes
from tests.helpers.ray_processes import ray_processes
from tests.helpers.run_logs import DAYS, small_config, write_config, write_part

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]
SIZES = (150, 90, 201, 64)
UNITS, BATCH = 6, 512


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("logs")
    for n, rows in enumerate(SIZES):
        write_part(root, DAYS[0], f"part-{n}.parquet", rows, seed=n)
    for n, rows in enumerate((77, 130)):
        write_part(root, DAYS[1], f"part-{n}.parquet", rows, seed=10 + n)
    return root


def configured(raw: dict[str, Any], **data: Any) -> Config:
    return config_from_dict({**raw, "data": {**raw["data"], **data}})


def lines_of(config: Config, kind: str) -> list[dict[str, Any]]:
    text = Path(run_folder(config), "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


@dataclass
class Whole:
    """A run of two workers to its end."""

    raw: dict[str, Any]
    config: Config
    result: dict[str, Any]
    heard: list[dict[str, Any]]
    dealers: set[int]
    """Processes that dealt blocks out to the workers, seen at one evaluation or another."""


@pytest.fixture(scope="module")
def whole(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A unit is one global batch, so that one worker has the same rows in each step; the halves miss labels unevenly."""
    folder = tmp_path_factory.mktemp("whole")
    for n in range(UNITS):
        write_part(folder / "logs", DAYS[0], f"part-{n}.parquet", BATCH, seed=n)
    for n, rows in enumerate((77, 130)):
        request = pa.array(np.arange(rows) % 2)  # of each user, in both files; the training rows have none
        write_part(folder / "logs", DAYS[1], f"part-{n}.parquet", rows, seed=10 + n, request=request)
    raw = small_config(folder / "logs", folder, "whole", workers=2, epochs=2, eval_every_units=2)
    raw["train"]["batch_size"] = BATCH
    raw["data"] |= {"unit_rows": BATCH, "request": "request"}
    for name in ("user", "history"):
        raw["features"][name]["side"] = "item"
    found, others = Whole(raw, config_from_dict(raw), {}, [], set()), ray_processes("Dealer")

    def on_event(item: dict[str, Any]) -> None:
        found.heard.append(item)
        if item.get("kind") == "eval":
            found.dealers |= ray_processes("Dealer") - others

    found.result = training_driver.train(found.config, on_event=on_event)
    return found


def test_a_run_counts_every_row_and_leaves_its_results(whole: Whole) -> None:
    config, result = whole.config, whole.result
    heard: list[dict[str, Any]] = []
    folder = Path(run_folder(config))
    assert result["rows_trained"] == 2 * UNITS * BATCH
    assert result["rows_left_out"] == 0
    assert result["metrics"]["eval"]["click"]["count"] == 207
    assert result["metrics"]["rows"] == 207
    assert sum(s["click"]["count"] for s in result["metrics"]["scenarios"].values()) == 207
    assert result["metrics"]["eval"]["click"]["auc"] > 0.7
    assert 0 < result["metrics"]["eval"]["buy"]["count"] < 207
    assert result["metrics"]["eval"]["click"]["requests_ranked"] > 10
    assert 0.7 < result["metrics"]["eval"]["click"]["ndcg_10"] < 1
    assert result == json.loads((folder / "result.json").read_text())
    assert json.dumps(result)  # plain numbers all the way
    phases = result["start_seconds"]
    assert list(phases) == ["checks", "ray", "workers", "model", "first_step", "steps", "end"]
    assert min(phases.values()) >= 0
    assert phases["first_step"] > 0
    assert sum(phases.values()) > result["seconds"]
    assert any(item.get("note", "").startswith(f"seconds: checks {phases['checks']:.1f}, ray") for item in whole.heard)
    evaluations = lines_of(config, "eval")
    assert len(plan_input(config, "train").units) == UNITS
    # most evaluations come in mid-stream, while the next units are read
    assert [(e["epoch"], e["units"]) for e in evaluations] == [(0, 2), (0, 4), (0, 0), (1, 2), (1, 4), (1, 0)]
    assert {e["metrics"]["rows"] for e in evaluations} == {207}
    assert [line["step"] for line in lines_of(config, "train")] == list(range(1, result["steps"] + 1))
    assert any(item.get("kind") == "eval" for item in whole.heard)
    assert len(whole.dealers) == 1  # one process deals all streams
    limit = time.monotonic() + 60
    while whole.dealers & ray_processes("Dealer"):
        assert time.monotonic() < limit, "the run is over, and its actors are still there"
        time.sleep(0.1)
    assert "<html" in Path(write_report(str(folder))).read_text().lower()

    again = training_driver.train(config, on_event=heard.append)
    assert again == result
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text[:200])  # killed while it was written
    (folder / "checkpoint_manager_snapshot.json").write_text("")  # Ray's own list, if it kept one here
    half = folder / "checkpoint_2999-01-01_00-00-00.000000"
    shutil.copytree(checkpoints(RunFolder.open(str(folder)))[-1].root, half)
    (half / PROGRESS).unlink()  # killed while it was saved
    assert "already finished" in heard[-1]["note"]
    heard.clear()
    fewer = {**whole.raw, "train": {**whole.raw["train"], "workers": 1}}
    gone_on = training_driver.train(config_from_dict(fewer), on_event=heard.append)
    assert (gone_on["metrics"]["eval"], gone_on["steps"]) == (result["metrics"]["eval"], result["steps"])
    assert any(item.get("note", "").startswith(f"resuming from step {result['steps']}, ") for item in heard)
    assert not any(item.get("kind") == "train" for item in heard)  # no step was taken again
    (folder / "result.json").write_text(text)
    other = config_from_dict({**fewer, "train": {**fewer["train"], "seed": 1}})
    with pytest.raises(ConfigError, match=r"started with another configuration.*set another `name`"):
        training_driver.train(other)

    measured = training_driver.evaluate(str(folder), overrides=["train.workers=1"], checkpoint=None, address=None)
    for task in ("click", "buy"):
        for key in ("auc", "logloss", "count", "gauc", "ndcg_10", "mrr", "requests_ranked"):
            assert measured["metrics"]["eval"][task][key] == pytest.approx(
                result["metrics"]["eval"][task][key], abs=1e-6
            )


def curve_of(config: Config) -> tuple[np.ndarray, list[int]]:
    """Losses of each step, and the rows trained up to it."""
    lines = lines_of(config, "train")
    losses = [[line["loss"], *line["losses"].values(), line["order"]] for line in lines]
    return np.array(losses), [line["rows"] for line in lines]


def test_one_worker_and_two_have_the_same_loss_at_every_step(whole: Whole) -> None:
    train = {**whole.raw["train"], "workers": 1, "eval_every_units": None}
    alone = config_from_dict({**whole.raw, "name": "alone", "train": train})
    assert training_driver.train(alone)["steps"] == whole.result["steps"] == 2 * UNITS
    (one, _), (two, _) = curve_of(alone), curve_of(whole.config)
    assert np.abs(one - two).max() < 1e-5
    assert np.ptp(one[:, 0]) > 0.05


def test_any_number_of_workers_has_the_same_steps_on_ragged_days(ray_cluster: None, logs: Path, tmp_path: Path) -> None:
    """Spans of two units, whose rows no batch divides; with many workers the rows of a step may be others, never their number."""
    schedule = {"decay": "linear", "final_factor": 0.1}
    raw = small_config(logs, tmp_path, "", epochs=2, checkpoint={"every_units": 2}, schedule=schedule)
    raw["data"] |= {"unit_rows": 100, "eval": None}
    raw["train"]["batch_size"] = 51
    found = {}
    for name, workers, block_rows in [
        ("w1", 1, 65536),
        ("w3", 3, 65536),
        ("w4", 4, 65536),
        ("g2", 3, 8192),
    ]:
        train, data = {**raw["train"], "workers": workers}, {**raw["data"], "block_rows": block_rows}
        config = config_from_dict({**raw, "name": name, "train": train, "data": data})
        result = training_driver.train(config)
        found[name] = (*curve_of(config), result)
    losses, rows, result = found["w1"]
    assert result["steps"] == len(losses) == len(rows)
    assert rows[-1] == 2 * sum(SIZES)
    assert result["fill"] == pytest.approx(rows[-1] / (51 * len(rows)))
    assert lines_of(config, "train")[-1]["lr"] == pytest.approx(0.1 * config.train.dense_optimizer.lr)
    assert np.ptp(losses[:, 0]) > 0.05
    for name, (other, other_rows, _) in found.items():
        assert other_rows == rows, name
        if name.startswith("w"):
            assert np.abs(other - losses).max() < 1e-5, name


def test_a_killed_node_and_a_killed_driver_cost_no_row_and_repeat_none(
    ray_cluster: None, logs: Path, tmp_path: Path
) -> None:
    """Kill one of two nodes, and the other continues; then the driver, and the run resumes elsewhere under another sharding."""
    checkpoint = {"every_units": 1, "background": True, "keep": 4}
    raw = small_config(logs, tmp_path, "killed", workers={"min": 1, "max": 2}, epochs=10, checkpoint=checkpoint)
    raw["data"] |= {"unit_rows": 100, "eval": None}
    # Batches that two workers cannot share evenly; Ray waits so long for as many workers as before the loss
    raw["train"] |= {"batch_size": 51, "start_timeout_s": 5}
    path = write_config(raw, tmp_path / "conf.yaml")
    sharded = {**raw.get("table_defaults", {}), "sharding": "row_wise"}
    config = config_from_dict({**raw, "train": {**raw["train"], "workers": 1}, "table_defaults": sharded})
    folder, said, temporary = Path(run_folder(config)), tmp_path / "said", tmp_path / "t"
    temporary.mkdir()
    with forked_ray_workers():
        nodes = Nodes(1)
        second = nodes.add(1)
    command = ["train", "--config", path, "--address", nodes.address]
    environment = os.environ | ENVIRONMENT | {"TMPDIR": str(temporary)}
    with open(os.devnull) as nothing, said.open("wb") as out:
        streams = [nothing.fileno(), out.fileno(), out.fileno()]
        driver = fork_command(command, streams, environment, tmp_path, terminal=False)

    def until(happened: Callable[[], bool]) -> None:
        limit = time.monotonic() + 90
        while not happened():
            assert driver.poll() is None, f"it ended before it could be killed: {said.read_text()[-2000:]}"
            assert time.monotonic() < limit, said.read_text()[-2000:]
            time.sleep(0.05)

    def folders() -> set[Path]:
        return set(folder.glob("checkpoint_*"))

    try:
        metrics = folder / "metrics.jsonl"
        until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 8 and len(folders()) >= 3)
        assert "with 2 workers in fp32\n" in said.read_text()  # one on each node, which have a CPU each
        nodes.kill(second)
        until(lambda: "with 1 worker in fp32\n" in said.read_text())
        before = folders()
        until(lambda: len(folders() - before) >= 2)
    finally:
        driver.kill()
        driver.wait()
        nodes.close()
    assert not (folder / "result.json").exists()
    notes: list[str] = []
    result = training_driver.train(config, on_event=lambda item: notes.append(item.get("note", "")))
    assert any("resuming from step" in note for note in notes)
    assert set(result["sharding"].values()) == {"row_wise"}  # and by the planner's choice they were replicated before
    assert result["starts"] == 3
    assert result["workers"] == 1
    assert result["rows_trained"] == 10 * sum(SIZES)
    steps = [line["step"] for line in lines_of(config, "train")]
    assert steps == list(range(1, result["steps"] + 1))  # the steps taken again replaced those that were lost
    rows = [line["rows"] for line in lines_of(config, "train")]
    assert rows == sorted(rows)
    assert rows[-1] == 10 * sum(SIZES)
    straight = config.model_copy(update={"name": "straight"})
    training_driver.train(straight)
    (losses, _), (expected, expected_rows) = curve_of(config), curve_of(straight)
    assert rows == expected_rows
    assert np.abs(losses - expected).max() < 1e-5


def test_a_broken_value_in_mid_stream_ends_all_workers_with_its_place(ray_cluster: None, tmp_path: Path) -> None:
    root = tmp_path / "logs"
    for n in range(12):
        labels = np.zeros(40, np.float32)
        labels[7] = 3.0 if n == 1 else 1.0  # not one of the files that the sample before the run looks at
        write_part(root, DAYS[0], f"part-{n:02}.parquet", 40, seed=n, click=pa.array(labels))
    write_part(root, DAYS[1], "part-0.parquet", 40, seed=99)
    config = configured(small_config(root, tmp_path, "broken", workers=2), unit_rows=40)
    with pytest.raises(DataError) as caught:
        training_driver.train(config)
    said = str(caught.value)
    assert all(part in said for part in ("part-01.parquet", "`click`", "tasks.click", "row 7", "3", "0 or 1"))
    assert "Traceback" not in said


def test_more_workers_than_the_cluster_has(ray_cluster: None, logs: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(
        ClusterError,
        match=r"train.workers = 64 need 1 CPU each, and 1 CPU for reading.*room for 8 such workers.*has 8 CPUs.*lower train.w",
    ):
        training_driver.train(config_from_dict(small_config(logs, tmp_path, "large", workers=64)))
    assert time.monotonic() - started < 60
    assert not (tmp_path / "large").exists()
