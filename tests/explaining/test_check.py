"""`raymtl explain --check`: two trainings, with and without the columns to drop."""

import json
from pathlib import Path

import pytest

from raymtl.cli.main import run_command
from raymtl.config.load import load_config
from raymtl.explaining.page import render
from tests.benchmarks.explain.world import USELESS


@pytest.mark.ray
@pytest.mark.timeout(480)
def test_the_proposal_is_checked_by_a_training(
    ray_cluster: None, world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    days = ["--days", "2026-01-04", "--train-days", "2026-01-03", "--rows", "6000"]
    places = ["--out", str(tmp_path / "page.html"), "--output", str(tmp_path / "runs")]
    assert run_command(["explain", str(world / "store"), *days, *places, "--check", "--json"]) == 0
    *lines, last = capfd.readouterr().out.splitlines()
    result = json.loads(last)
    check, proposal = result["check"], result["proposal"]
    assert check["columns"] == [*proposal["useless"], *proposal["redundant"]]
    assert set(check["columns"]) <= {
        *USELESS,
        "rate",
        "rate_again",
        "user",
    }  # 6,000 rows do not tell what a user is worth
    kept, dropped = (load_config(f"{run}/config.yaml") for run in check["runs"])
    assert set(kept.features) - set(dropped.features) == set(check["columns"])
    assert (kept.name, dropped.name) == ("with-0", "without-0")
    assert kept.train == dropped.train
    click = check["tasks"]["click"]
    assert click["metric"] == "auc"
    assert click["change"] == pytest.approx(click["without"] - click["with"])
    assert click["low"] < 0 < click["high"]  # nothing is lost
    assert Path(check["comparison"]).exists()
    assert any(line.startswith("trained without them: click auc ") for line in lines)
    assert "Checked by training" in render(result)


def test_days_that_overlap_are_refused(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["explain", str(world / "store"), "--days", "2026-01-03", "--rows", "1000", "--check"]
    assert run_command(arguments) == 64
    said = " ".join(capfd.readouterr().err.split())
    assert "--check would train on 2026-01-01 to 2026-01-03 and evaluate on 2026-01-03, which overlap" in said
