"""The commands print lines of their own alone: none of Ray, TorchRec, matplotlib or Python, on a pipe and on a terminal.

Those that start no Ray stand in test_every_command.py. A process that is started is the one that would show what imports print.
"""

import shutil
import time
from pathlib import Path

import pytest
import torch

from raymtl.cli.main import run_command
from raymtl.training.precision import has_bf16
from tests.helpers.pipe import foreign, fork, run, start
from tests.helpers.terminal import RAYMTL, Terminal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
FIRST_LINE_S = 10.0
"""The imports of torch and Ray, and Ray's start, take longer; two seconds on a machine that nobody else uses."""


def test_what_makes_a_version(trained: Path, tmp_path: Path) -> None:
    run("synth", str(tmp_path / "logs"), "--days", "2", "--rows-per-day", "100")
    config = str(trained / "logs/config.yaml")
    said, _ = run("check", "--config", config)
    assert said[0] == "starting Ray on this machine"
    began = time.monotonic()
    with start(
        "train", "--config", config, "--set", f"output={tmp_path}", "--name", "run", "--workers", "1"
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]
        assert time.monotonic() - began < FIRST_LINE_S
        lines += process.stdout.readlines()
        assert process.stderr.read() == ""
        assert process.wait() == 0
    assert [line.strip() for line in lines[:6]] == [
        "checking the configuration and the logs",
        "3,000 training rows: 12 steps of 256 rows",
        "12 steps are too few to learn much (fewer than 50): raise train.epochs (1), or add training days",
        "starting Ray on this machine",
        "starting 1 worker",
        f"training with 1 worker in {'bf16' if has_bf16(torch.device('cpu')) else 'fp32'}",
    ]
    assert not foreign("".join(lines))
    run("versions", "publish", str(tmp_path / "run"), "--store", str(tmp_path / "store"), "--version", "one")


def test_what_looks_at_a_run(trained: Path) -> None:
    said, _ = run("evaluate", str(trained / "run"))
    assert said[:3] == ["checking the checkpoint and the logs", "starting Ray on this machine", "starting 1 worker"]
    said, error = run("evaluate", str(trained / "run"), "--set", "tables.item_id.dim=8", code=66, forked=True)
    assert said == ["checking the checkpoint and the logs"]  # before Ray starts
    assert "has shape [11000, 16] there and [11000, 8] here" in error


def test_what_looks_at_versions(trained: Path) -> None:
    store = ["--store", str(trained / "store")]
    said, _ = run("versions", "gc", *store, "--keep", "1", "--dry-run")
    assert said == ["would remove 1 version: one", "would remove 0 leftovers: –"]
    run("export", "--version", str(trained / "store"), "--out", str(trained / "programs"))


def test_scoring(trained: Path) -> None:
    score = ["score", "--data", str(trained / "logs"), "--days", "2026-01-02"]
    said, _ = run(*score, "--version", str(trained / "store"), "--out", str(trained / "scores"))
    assert said[:2] == ["checking the version and the data", "starting Ray on this machine"]
    assert said[-1].startswith("3,000 rows in 1 file, predictions of version two")
    old = f"{trained}/store/versions/one"
    with Terminal(
        [*RAYMTL, *score, "--version", old, "--out", str(trained / "seen")], columns=200, forked=True
    ) as terminal:
        assert terminal.wait() == 0, terminal.text
    assert not foreign(terminal.text)
    assert "3,000 rows in 1 file" in terminal.text


def test_a_version_that_is_removed_while_it_is_scored(trained: Path, tmp_path: Path) -> None:
    store = shutil.copytree(trained / "store", tmp_path / "store")
    old = f"{store}/versions/one"
    process = fork("score", "--version", old, "--data", str(trained / "logs"), "--out", str(tmp_path / "half"))
    while process.stdout.readline() != "starting Ray on this machine\n":
        assert process.poll() is None
    assert run_command(["versions", "gc", "--store", str(store), "--keep", "1"]) == 0
    process.stdout.read()
    error = process.stderr.read()
    assert process.wait() == 66
    assert error == (
        f"raymtl: version one of store {store} was removed while it was read, probably by `raymtl versions gc`; use "
        "the current version, or let gc keep more versions with --keep\n"
    )
