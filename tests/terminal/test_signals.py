"""Signals to the real process of long commands; tests/benchmarks/terminal/signals.py has every command, moment and signal."""

import json
from pathlib import Path

import pytest

from raymtl.cli.main import run_command
from tests.helpers.interrupt import interrupt, small_logs


@pytest.mark.parametrize(
    ("moment", "signals"),
    [("imports", "INT"), ("imports", "TERM"), ("checks", "HUP"), ("checks", "INT INT"), ("checks", "TERM")],
)
def test_before_ray_is_there(tmp_path: Path, moment: str, signals: str) -> None:
    words = ["synth", str(tmp_path / "logs"), "--days", "30", "--rows-per-day", "500000", "--processes", "2"]
    outcome = interrupt([*words, "--set", "shards=2"], moment, signals, "")
    assert outcome is not None
    assert outcome.faults(signals) == []


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_logs(tmp_path_factory.mktemp("signals") / "logs", rows_per_day=12_000)


@pytest.mark.ray
@pytest.mark.parametrize("signals", ["TERM", "INT"])
def test_while_ray_starts(config: str, signals: str) -> None:
    outcome = interrupt(["check", "--config", config], "Ray starts", signals, "")
    assert outcome is not None
    assert outcome.faults(signals) == []


@pytest.mark.ray
def test_training_stopped_three_times_has_every_row_once(ray_cluster: None, config: str, tmp_path: Path) -> None:
    train = ["train", "--config", config, "--name", "stopped", "--set", f"output={tmp_path / 'runs'}", "--workers", "2"]
    train += ["--set", "train.log_every_steps=1", "--set", "train.batch_size=64", "--set", "data.unit_rows=2000"]
    for signals in ("INT", "TERM", "INT INT"):
        outcome = interrupt(train, "at work", signals, "data-wait", forked=True)
        assert outcome is not None
        assert outcome.faults(signals, grace_s=20) == []
        if signals == "TERM":
            assert "checkpoint saved" in outcome.screen
        assert "rerun the same command to resume" in outcome.screen
    assert run_command([*train, "--json"]) == 0
    result = json.loads((tmp_path / "runs" / "stopped" / "result.json").read_text())
    assert result["rows_trained"] == 24_000
    assert result["rows_left_out"] == 0


@pytest.mark.ray
def test_a_daily_job_that_is_stopped_leaves_no_lease(config: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    daily = ["daily", "--config", config, "--date", "2026-01-02", "--set", f"daily.store={store}"]
    daily += ["--set", "daily.bootstrap_days=2", "--set", "train.checkpoint.stop_grace_s=0"]
    outcome = interrupt(daily, "Ray is up", "TERM", "")
    assert outcome is not None
    assert outcome.faults("TERM") == []
    assert list((store / "lease").glob("*.json")) == []
