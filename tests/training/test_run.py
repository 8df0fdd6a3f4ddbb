"""Whole runs on a Ray cluster: exact row counts, the same losses on one worker and two, recovery, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_logs import DAYS, small_config, write_config, write_part

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.units import plan_input
from raymtl.errors import ClusterError, ConfigError, DataError
from raymtl.reports.html import write_report
from raymtl.training import run
from raymtl.training.rundir import run_folder
from raymtl.training.snapshot import SNAPSHOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]
SIZES = (150, 90, 201, 64)


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


def test_a_run_counts_every_row_and_leaves_its_results(ray_cluster: None, logs: Path, tmp_path: Path) -> None:
    raw = small_config(logs, tmp_path, "whole", workers=2, passes=2, eval_every_units=1)
    config = configured(raw, unit_rows=300, block_rows=50)
    heard: list[dict[str, Any]] = []
    result = run.train(config, listener=heard.append)
    folder = Path(run_folder(config))
    assert result["rows_trained"] == 2 * sum(SIZES)
    assert result["rows_left_out"] == 0
    assert result["metrics"]["eval"]["click"]["count"] == 207
    assert result["metrics"]["rows"] == 207
    assert sum(s["click"]["count"] for s in result["metrics"]["scenarios"].values()) == 207
    assert result["metrics"]["eval"]["click"]["auc"] > 0.7
    assert 0 < result["metrics"]["eval"]["buy"]["count"] < 207
    assert result == json.loads((folder / "result.json").read_text())
    assert json.dumps(result)  # plain numbers all the way
    evaluations = lines_of(config, "eval")
    units = len(plan_input(config, "train").units)
    assert [e["pass"] for e in evaluations] == [0] * units + [1] * units
    assert units > 1  # most evaluations come in mid-stream, while the next units are read
    assert {e["metrics"]["rows"] for e in evaluations} == {207}
    assert [line["step"] for line in lines_of(config, "train")] == list(range(1, result["steps"] + 1))
    assert any(item.get("kind") == "eval" for item in heard)
    assert "<html" in Path(write_report(str(folder))).read_text().lower()

    again = run.train(config, listener=heard.append)
    assert again == result
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text[:200])  # killed while it was written
    (folder / SNAPSHOT).write_text("")  # and Ray's list of the checkpoints, too
    assert "finished already" in heard[-1]["note"]
    heard.clear()
    gone_on = run.train(config, listener=heard.append)
    assert (gone_on["metrics"]["eval"], gone_on["steps"]) == (result["metrics"]["eval"], result["steps"])
    assert any("was damaged and is written anew" in item.get("note", "") for item in heard)
    assert not any(item.get("kind") == "train" for item in heard)  # no step was taken again
    (folder / "result.json").write_text(text)
    other = config_from_dict({**small_config(logs, tmp_path, "whole", workers=1, passes=2, seed=1)})
    with pytest.raises(ConfigError, match=r"begun with another configuration.*set another `name`"):
        run.train(other)

    measured = run.evaluate(str(folder), overrides=["train.workers=1"], checkpoint=None, address=None)
    for task in ("click", "buy"):
        for key in ("auc", "logloss", "count", "gauc"):
            assert measured["metrics"]["eval"][task][key] == pytest.approx(
                result["metrics"]["eval"][task][key], abs=1e-6
            )


def test_one_worker_and_two_have_the_same_loss_at_every_step(ray_cluster: None, tmp_path: Path) -> None:
    root = tmp_path / "logs"
    for n in range(
        6
    ):  # a unit is one global batch, so that the same rows make each step; the halves miss labels unevenly
        write_part(root, DAYS[0], f"part-{n}.parquet", 512, seed=n)
    write_part(root, DAYS[1], "part-0.parquet", 64, seed=9)
    losses = {}
    for workers in (1, 2):
        raw = small_config(root, tmp_path, f"w{workers}", workers=workers, passes=2)
        raw["train"]["batch_size"] = 512
        config = configured(raw, unit_rows=512, block_rows=256)
        result = run.train(config)
        assert result["steps"] == 12
        losses[workers] = [
            [line["loss"], *line["losses"].values(), line["order"]] for line in lines_of(config, "train")
        ]
    assert np.abs(np.array(losses[1]) - np.array(losses[2])).max() < 1e-5
    assert np.ptp(np.array(losses[1])[:, 0]) > 0.05


def worker_processes() -> list[int]:
    """The training workers that run under this process."""
    import psutil  # Ray brings it along, and it is found once Ray has been imported

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_killed_worker_costs_no_row_and_repeats_none(ray_cluster: None, logs: Path, tmp_path: Path) -> None:
    raw = small_config(logs, tmp_path, "killed", workers=2, passes=6, checkpoint={"every_units": 1, "background": True})
    config = configured(raw, unit_rows=100, block_rows=25, eval=None)
    killed: list[int] = []

    def listener(item: dict[str, Any]) -> None:
        if item.get("kind") == "train" and item["step"] >= 8 and not killed and (found := worker_processes()):
            killed.append(found[0])
            os.kill(found[0], signal.SIGKILL)

    result = run.train(config, listener=listener)
    assert killed
    assert result["starts"] == 2
    assert result["rows_trained"] == 6 * sum(SIZES)
    steps = [line["step"] for line in lines_of(config, "train")]
    assert steps == list(range(1, result["steps"] + 1))  # the steps taken again replaced those that were lost
    rows = [line["rows"] for line in lines_of(config, "train")]
    assert rows == sorted(rows)
    assert rows[-1] == 6 * sum(SIZES)


def test_a_killed_driver_goes_on_with_the_same_command_and_fewer_workers(
    ray_cluster: None, logs: Path, tmp_path: Path
) -> None:
    raw = small_config(logs, tmp_path, "stopped", workers=2, passes=20)
    raw["data"] |= {"unit_rows": 100, "block_rows": 25, "eval": None}
    path = write_config(raw, tmp_path / "conf.yaml")
    command = [sys.executable, "-m", "raymtl.cli", "train", "--config", path]
    folder = tmp_path / "stopped"
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        limit = time.monotonic() + 240
        while len(list(folder.glob("checkpoint_*"))) < 2:
            assert driver.poll() is None, "the driver ended before it could be killed"
            assert time.monotonic() < limit, "no checkpoint within four minutes"
            time.sleep(0.05)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # the driver and the Ray that it started
        driver.wait()
    assert not (folder / "result.json").exists()
    notes: list[str] = []
    result = run.train(
        config_from_dict({**raw, "train": {**raw["train"], "workers": 1}}),
        listener=lambda item: notes.append(item.get("note", "")),
    )
    assert result["rows_trained"] == 20 * sum(SIZES)
    assert any("going on from step" in note for note in notes)
    assert result["starts"] >= 2
    assert result["workers"] == 1


def test_a_broken_value_in_mid_stream_ends_all_workers_with_its_place(ray_cluster: None, tmp_path: Path) -> None:
    root = tmp_path / "logs"
    for n in range(12):
        labels = np.zeros(40, np.float32)
        labels[7] = 3.0 if n == 1 else 1.0  # not one of the files that the sample before the run looks at
        write_part(root, DAYS[0], f"part-{n:02}.parquet", 40, seed=n, click=pa.array(labels))
    write_part(root, DAYS[1], "part-0.parquet", 40, seed=99)
    config = configured(small_config(root, tmp_path, "broken", workers=2), unit_rows=40)
    with pytest.raises(DataError) as caught:
        run.train(config)
    said = str(caught.value)
    assert all(part in said for part in ("part-01.parquet", "`click`", "tasks.click", "row 7", "3", "0 or 1"))
    assert "Traceback" not in said


def test_more_workers_than_the_cluster_has(ray_cluster: None, logs: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(
        ClusterError, match=r"train.workers = 64 need 65 CPUs.*the cluster has 8 CPUs.*Lower train.workers|lower"
    ):
        run.train(config_from_dict(small_config(logs, tmp_path, "large", workers=64)))
    assert time.monotonic() - started < 60
    assert not (tmp_path / "large").exists()
