"""What commands paint while they work, on a terminal of 80 and of 200 columns."""

import re
import sys
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
    with Terminal(synth, forked=True) as terminal:
        assert terminal.wait() == 0, terminal.text
    conf = ["--config", str(logs / "config.yaml")]
    with Terminal([*RAYMTL, "check", *conf], columns=100, forked=True) as terminal:
        assert terminal.wait() == 0, terminal.text
    assert "of 40,000" in terminal.raw.decode()
    sets = ["--set", f"output={runs}", "--set", "train.log_every_steps=1", "--set", "train.batch_size=1000"]
    with Terminal([*RAYMTL, "train", *conf, "--name", "seen", *sets], columns=200, forked=True) as terminal:
        terminal.wait_for("data-wait")
        assert terminal.wait() == 0, terminal.text
    assert "20,000 rows trained, 0 left out" in terminal.text
    assert "Traceback" not in terminal.text


PAINTED = """
import pathlib, sys, time
from raymtl.reports.progress import TrainingLines
from raymtl.telemetry import logs
with TrainingLines(logs.terminal()) as lines:
    lines({"total_rows": 400})
    losses = {f"a_task_with_a_long_name_{n}": 0.25 for n in range(6)}
    for step in (1, 2, 3):
        record = {"kind": "train", "step": step, "rows": 100 * step, "loss": 1.5, "losses": losses}
        lines({**record, "rows_per_s": 10183.2, "data_wait": 0.03})
        time.sleep(0.3)
    while not pathlib.Path(sys.argv[1]).exists():  # until the last one has been read
        time.sleep(0.02)
"""


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_a_narrow_terminal_shows_first_what_matters_most(columns: int, tmp_path: Path) -> None:
    read = tmp_path / "read"
    with Terminal([sys.executable, "-c", PAINTED, str(read)], columns=columns) as terminal:
        terminal.wait_for("75%  10,183")
        (line,) = [line for line in terminal.text.splitlines() if line.strip()]
        read.touch()
        assert terminal.wait() == 0
    assert line.startswith("training ")
    assert len(line) <= columns
    assert ("loss 1.5000" in line) == (columns > 50)
    assert ("a_task_with_a_long_name_2" in line) == (columns == 200)
    assert terminal.text == ""  # the line goes with the end of the work


def test_a_dumb_terminal_gets_lines_of_their_own() -> None:
    with Terminal([sys.executable, "-c", PAINTED, sys.executable], columns=200, env={"TERM": "dumb"}) as terminal:
        assert terminal.wait() == 0
    assert terminal.text.startswith("step 1  100 rows (25%)")
