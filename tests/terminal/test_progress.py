"""What commands paint while they work, on a terminal of 80 and of 200 columns."""

import re
from pathlib import Path

import pytest

from tests.helpers.terminal import RAYMTL, Terminal


@pytest.mark.parametrize("columns", [80, 200])
def test_synth_counts_its_rows_on_a_terminal(tmp_path: Path, columns: int) -> None:
    command = [*RAYMTL, "synth", str(tmp_path / "logs"), "--days", "2", "--rows-per-day", "200000"]
    with Terminal(command, columns=columns) as terminal:
        assert terminal.wait() == 0, terminal.text
    assert re.search(r"\d+,000 of 400,000", terminal.raw.decode())  # was painted, and is gone from the last screen
    assert terminal.text.startswith("400,000 rows in ")
    assert "next: raymtl train --config" in terminal.text


@pytest.mark.ray
def test_training_is_painted_on_a_terminal(tmp_path: Path) -> None:
    logs, runs = tmp_path / "logs", tmp_path / "runs"
    synth = [*RAYMTL, "synth", str(logs), "--days", "2", "--rows-per-day", "20000"]
    with Terminal(synth) as terminal:
        assert terminal.wait() == 0, terminal.text
    conf = ["--config", str(logs / "config.yaml")]
    with Terminal([*RAYMTL, "check", *conf], columns=100) as terminal:
        assert terminal.wait() == 0, terminal.text
    assert "of 40,000" in terminal.raw.decode()
    sets = ["--set", f"output={runs}", "--set", "train.log_every_steps=1", "--set", "train.batch_size=1000"]
    with Terminal([*RAYMTL, "train", *conf, "--name", "seen", *sets], columns=200) as terminal:
        terminal.wait_for("data-wait")
        assert terminal.wait() == 0, terminal.text
    assert "20,000 rows trained, 0 left out" in terminal.text
    assert "Traceback" not in terminal.text
