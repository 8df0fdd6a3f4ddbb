"""Log lines as a person reads them and as JSON."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from raymtl.cli import main as cli_main
from raymtl.cli.main import run_command
from raymtl.reports.progress import TrainingLines
from raymtl.telemetry import lines, logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    hook, log = sys.excepthook, logging.getLogger("raymtl")
    kept = log.handlers[:], log.level, log.propagate
    yield
    sys.excepthook = hook
    log.handlers[:], log.level, log.propagate = kept
    lines.begin_lines()


def test_a_worker_says_where_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    logs.begin_worker("ctr", 3)
    logs.at(step=1200, unit=12)
    logs.log.info("%.2f s a step", 0.25)
    try:
        raise ValueError("odd")
    except ValueError:
        logs.log.exception("failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    moment = datetime.fromisoformat(first.pop("time"))
    assert moment.tzinfo == UTC
    assert first == {"level": "info", "run": "ctr", "rank": 3, "step": 1200, "unit": 12, "message": "0.25 s a step"}
    assert second["level"] == "error"
    assert second["traceback"].splitlines()[-1] == "ValueError: odd"
    assert logs.environment() == {logs.VARIABLE: "json"}


def test_readable_lines_hold_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(logs.VARIABLE, raising=False)
    logs.begin_worker("ctr", 3)
    logs.at(step=7)
    logs.log.warning("slow")
    assert capsys.readouterr().err.endswith(" UTC warning run=ctr rank=3 step=7: slow\n")
    assert logs.environment() == {}


def test_a_command_prints_json_lines_and_its_sentence_last(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    monkeypatch.setattr(cli_main, "console", logs.terminal())
    assert run_command(["config", "presets"]) == 0
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert any("mmoe" in line["message"] for line in printed)
    assert run_command(["config", "show", "-c", "/nowhere.yaml"]) == 64
    last = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert (last["level"], last["exit_code"]) == ("error", 64)
    assert last["message"].startswith("raymtl: ")
    assert "/nowhere.yaml" in last["message"]


def test_the_lines_of_a_driver_hold_the_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    record = {"kind": "train", "step": 40, "rows": 10, "loss": 1.0, "losses": {}, "rows_per_s": 5.0, "data_wait": 0.0}
    with TrainingLines(logs.terminal()) as on_event:
        on_event(record)
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["step"] == 40
    assert line["message"].startswith("step 40 ")


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(logs.VARIABLE, "yaml")
    assert run_command(["config", "presets"]) == 64
    assert "RAYMTL_LOG is `yaml`; set it to `text` or `json`" in capfd.readouterr().err


def test_a_fault_of_raymtl_is_one_line_too() -> None:
    code = "from raymtl.telemetry import logs; logs.begin_command(); 1 / 0"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"RAYMTL_LOG": "json", "PYTHONPATH": "."}
    )
    assert ended.returncode == 1
    (line,) = map(json.loads, ended.stderr.splitlines())
    assert (line["level"], line["message"]) == ("critical", "ZeroDivisionError: division by zero")
    assert line["traceback"].startswith("Traceback")
