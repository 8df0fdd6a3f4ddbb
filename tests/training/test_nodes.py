"""A node dies in the middle of a run: the rest goes on with every row, and nothing stays behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_logs import DAYS, small_config, write_config, write_part

from tests.nodes import Nodes, workers_on

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
FILES, ROWS, PASSES = 6, 600, 4


def test_a_node_that_dies(tmp_path: Path) -> None:
    for n in range(FILES):
        write_part(tmp_path / "logs", DAYS[0], f"part-{n}.parquet", ROWS, seed=n)
    write_part(tmp_path / "logs", DAYS[1], "part-0.parquet", 50, seed=99)
    raw = small_config(
        tmp_path / "logs", tmp_path, "elastic", workers={"min": 1, "max": 2}, passes=PASSES, batch_size=31
    )
    raw["data"] |= {"unit_rows": ROWS, "block_rows": 100}
    raw["train"] |= {"start_timeout_s": 5, "log_every_steps": 5}
    config = write_config(raw, tmp_path / "config.yaml")
    log, temporary = tmp_path / "log", tmp_path / "t"
    temporary.mkdir()
    nodes = Nodes(1)
    second = nodes.add(1)
    with log.open("wb") as out:
        driver = subprocess.Popen(
            [sys.executable, "-m", "raymtl.cli", "train", "-c", config, "--address", nodes.address, "--json"],
            stdout=out,
            stderr=out,
            env=os.environ | {"TMPDIR": str(temporary)},
        )
    try:
        until = time.monotonic() + 120
        while not (workers_on(second) and "step " in log.read_text()):
            assert driver.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.05)
        nodes.kill(second)
        assert driver.wait(timeout=150) == 0, log.read_text()[-2000:]
    finally:
        driver.kill()
        nodes.close()
    result = json.loads(log.read_text().splitlines()[-1])
    assert (result["rows_trained"], result["rows_left_out"]) == (FILES * ROWS * PASSES, 0)
    assert (result["starts"], result["workers"]) == (2, 1)
    assert "with 1 workers" in log.read_text()
    assert list(temporary.glob("raymtl-*")) == []
