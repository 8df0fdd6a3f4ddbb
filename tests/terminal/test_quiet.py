"""The commands print lines of their own alone: none of Ray, TorchRec, matplotlib or Python, on a pipe and on a terminal."""

from pathlib import Path

import pytest

from raymtl.cli.main import run_command
from tests.helpers.pipe import foreign, run, start
from tests.helpers.terminal import RAYMTL, Terminal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_what_looks_at_a_run(trained: Path) -> None:
    said, _ = run("evaluate", str(trained / "run"))
    assert said[:3] == ["checking the checkpoint and the logs", "starting Ray on this machine", "starting 1 worker"]
    said, error = run("evaluate", str(trained / "run"), "--set", "tables.item_id.dim=8", code=66)
    assert said == ["checking the checkpoint and the logs"]  # before Ray starts
    assert "has shape [11000, 16] there and [11000, 8] here" in error
    run("report", str(trained / "run"))
    run("plan", "--config", str(trained / "logs/config.yaml"))


def test_what_looks_at_versions(trained: Path) -> None:
    store = ["--store", str(trained / "store")]
    run("versions", "list", *store)
    run("versions", "show", *store)
    said, _ = run("versions", "gc", *store, "--keep", "1", "--dry-run")
    assert said == ["would remove 1 version: one", "would remove 0 leftovers: –"]
    run("export", "--version", str(trained / "store"), "--out", str(trained / "programs"))


def test_scoring(trained: Path) -> None:
    score = ["score", "--data", str(trained / "logs"), "--days", "2026-01-02"]
    said, _ = run(*score, "--version", str(trained / "store"), "--out", str(trained / "scores"))
    assert said[:2] == ["checking the version and the data", "starting Ray on this machine"]
    assert said[-1].startswith("3,000 rows in 1 file, predictions of version two")
    old = f"{trained}/store/versions/one"
    with Terminal([*RAYMTL, *score, "--version", old, "--out", str(trained / "seen")], columns=200) as terminal:
        assert terminal.wait() == 0, terminal.text
    assert not foreign(terminal.text)
    assert "3,000 rows in 1 file" in terminal.text


def test_a_version_that_is_removed_while_it_is_scored(trained: Path) -> None:
    old = f"{trained}/store/versions/one"
    with start("score", "--version", old, "--data", str(trained / "logs"), "--out", str(trained / "half")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while process.stdout.readline() != "starting Ray on this machine\n":
            pass
        assert run_command(["versions", "gc", "--store", str(trained / "store"), "--keep", "1"]) == 0
        process.stdout.read()
        error = process.stderr.read()
        assert process.wait() == 66
    assert error == (
        f"raymtl: version one of store {trained}/store was removed while it was read, probably by `raymtl versions gc`; use "
        "the current version, or let gc keep more versions with --keep\n"
    )
