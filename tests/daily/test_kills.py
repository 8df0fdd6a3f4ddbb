"""Killed in the middle, the daily job goes on with the same command and ends with the same version.

`tests/benchmarks/kill_daily.py` does the same at many random moments.
"""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from daily_world import FILES, contents, daily_raw, day_of, same, write_day
from kills import command, no_lease, nothing_is_half, train_worker

from raymtl.config.load import config_from_dict
from raymtl.daily import store as versions
from raymtl.daily.day import Order
from raymtl.daily.machine import run_daily
from raymtl.daily.record import read_record
from raymtl.daily.storage import open_store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]
LIMIT_S = 240


def until(process: subprocess.Popen, log: Path, text: str) -> None:
    """Wait for a line of the command."""
    end = time.monotonic() + LIMIT_S
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < end, f"no `{text}` in {LIMIT_S} s: {log.read_text()[-2000:]}"
        time.sleep(0.02)


def test_worker_and_driver_killed(ray_cluster: None, tmp_path: Path) -> None:
    for number in range(3):
        write_day(tmp_path / "logs", number)
    raws: dict[str, dict[str, Any]] = {
        n: daily_raw(tmp_path / "logs", tmp_path / n / "store") for n in ("calm", "killed")
    }
    for raw in raws.values():
        config = config_from_dict(raw)
        run_daily(config, Order(day_of(1)), address=None, listener=lambda item: None)
    calm, store = (open_store(raw["daily"]["store"]) for raw in raws.values())
    run_daily(config_from_dict(raws["calm"]), Order(day_of(2)), address=None, listener=lambda item: None)

    file, log = tmp_path / "killed.yaml", tmp_path / "log"
    file.write_text(yaml.safe_dump(raws["killed"], sort_keys=False))
    with log.open("wb") as out:
        process = subprocess.Popen(command(str(file), "--date", str(day_of(2))), stdout=out, stderr=out)
        until(process, log, f"{day_of(2)}: train")
        worker = train_worker(process.pid)
        assert worker is not None
        worker.kill()
        until(process, log, f"{day_of(2)}: gate")  # it recovered by itself
        process.kill()
        process.wait()
    nothing_is_half(store)
    first = versions.published(store)[0].version
    assert versions.current(store) == first
    ended = subprocess.run(
        command(str(file), "--date", str(day_of(2))), capture_output=True, text=True, timeout=LIMIT_S
    )
    assert ended.returncode == 0, ended.stderr
    nothing_is_half(store)
    no_lease(store)
    record = read_record(store, day_of(2))
    assert record is not None
    assert record.trained is not None
    assert record.trained.rows + record.trained.held_out == 2 * sum(FILES)
    assert same(contents(store), contents(calm))
