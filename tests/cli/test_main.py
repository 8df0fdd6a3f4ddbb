"""The commands as a user types them."""

import json
from pathlib import Path

import pytest

from raymtl.cli import main as cli_main
from raymtl.cli.main import run_command
from raymtl.config.load import load_config
from raymtl.reports.progress import evaluation_line, status_line, training_line

ROOT = Path(__file__).parents[2]


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out.strip().splitlines()[-1]


@pytest.mark.ray
def test_synth_check_train_evaluate_report(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs, runs = tmp_path / "logs", tmp_path / "runs"
    assert (
        run_command(["synth", str(logs), "--rows-per-day", "3000", "--days", "3", "--set", "users=300", "--json"]) == 0
    )
    assert json.loads(last_line(capfd))["rows"] == 9000
    conf = ["--config", str(logs / "config.yaml")]
    assert run_command(["check", *conf, "--json"]) == 0
    assert json.loads(last_line(capfd))["problems"] == []
    train = ["train", *conf, "--name", "first", "--workers", "2", "--set", f"output={runs}", "--json"]
    assert run_command(train) == 0
    result = json.loads(last_line(capfd))
    assert result["rows_trained"] == 6000
    assert result["rows_left_out"] == 0
    assert result["metrics"]["eval"]["click"]["truth_auc"] > 0.6
    assert set(result) >= {"run_dir", "rows_per_s", "config_hash", "data_range", "packages"}
    assert run_command(["evaluate", result["run_dir"], "--set", "train.workers=1", "--json"]) == 0
    measured = json.loads(last_line(capfd))
    assert measured["metrics"]["eval"]["click"]["auc"] == pytest.approx(
        result["metrics"]["eval"]["click"]["auc"], abs=1e-6
    )
    assert run_command(["report", result["run_dir"], "--json"]) == 0
    assert Path(json.loads(last_line(capfd))["report"]).stat().st_size > 20_000


def test_plan_says_by_its_exit_code_whether_it_fits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    conf = ["--config", str(ROOT / "jobs/conf/example.yaml")]
    assert run_command(["plan", *conf, "--gpus", "2", "--json"]) == 0
    assert json.loads(last_line(capfd))["fits"]
    assert run_command(["plan", *conf, "--gpus", "2", "--set", "tables.user_id.rows=9000000000", "--json"]) == 1
    assert "`user_id`" in json.loads(last_line(capfd))["problem"]


EXAMPLES = [path for path in sorted((ROOT / "jobs/conf").glob("*.yaml")) if path.stem != "base"]
"""The base is no configuration by itself: it has no model."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert load_config(str(path)).tasks


def test_config_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "schema"]) == 0
    assert "properties" in json.loads(capfd.readouterr().out)
    assert run_command(["config", "show", "-c", str(ROOT / "jobs/conf/example.yaml"), "--set", "train.workers=8"]) == 0
    assert "workers: 8" in capfd.readouterr().out
    assert run_command(["config", "presets"]) == 0
    assert "aitm" in capfd.readouterr().out


@pytest.mark.parametrize(
    "command",
    ["demo", "init", "synth", "check", "convert", "plan", "train", "evaluate", "report", "config", "versions"],
)
def test_every_command_has_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command([command, "--help"]) == 0
    assert len(capfd.readouterr().out) > 200


@pytest.mark.parametrize(
    ("command", "resumes"),
    [
        ("train --config c.yaml", True),
        ("--require torch==2.13.0 train --config c.yaml", True),
        ("tune --config c.yaml", True),
        ("daily --config c.yaml", True),
        ("score --version s --data d --out o", True),
        ("demo", True),
        ("train --config c.yaml --dry-run", False),
        ("tune status runs/a-tune", False),
        ("export --version train --out o", False),
        ("doctor", False),
        ("submit train --config c.yaml", False),
        ("--version", False),
        ("", False),
    ],
)
def test_which_commands_resume(command: str, resumes: bool) -> None:
    assert cli_main._resumes(command.split()) == resumes


def test_progress_lines() -> None:
    record = {"step": 1200, "rows": 2_400_000, "loss": 0.25, "rows_per_s": 41_234.6, "data_wait": 0.031}
    record["losses"] = {"click": 0.2, "buy": 0.05}
    assert training_line(record, 4_800_000, 65.4) == (
        "step 1,200  2,400,000 rows (50%)  loss 0.2500 (click 0.2000 buy 0.0500)  41,235 rows/s  data-wait 3%  eta 1:05"
    )
    assert status_line(record, 4_800_000) == (
        "50%  41,235 rows/s  loss 0.2500  data-wait 3%  step 1,200  click 0.2000 buy 0.0500"
    )
    metrics = {"tasks": {"click": {"auc": 0.75}, "buy": {"auc": None}, "spend": {"kind": "real", "rmse": 2.5}}}
    assert evaluation_line({"step": 7, "seconds": 2.4, "metrics": metrics}) == (
        "evaluation at step 7 (2 s): click auc 0.7500  buy –  spend rmse 2.5"
    )
