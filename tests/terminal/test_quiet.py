"""The commands print lines of their own alone: none of Ray, TorchRec, matplotlib or Python, on a pipe and on a terminal."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from raymtl.cli import run_command
from tests.terminal.screen import RAYMTL, ROOT, Terminal, clean_environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
FOREIGN = re.compile(
    r"warning:|warn\(|\.cc:\d|\.py:\d|Traceback|ray::|\(pid|torchrec|matplotlib|^\[.*\d{4}-\d\d-\d\d", re.IGNORECASE
)
FIRST_LINE_S = 10.0
"""The imports of torch and Ray, and Ray's start, take longer; two seconds on a machine that nobody else uses."""


def run(*arguments: str, code: int = 0) -> tuple[list[str], str]:
    """Lines of standard output, and standard error, of a command on pipes."""
    done = subprocess.run(
        [*RAYMTL, *arguments], capture_output=True, text=True, cwd=ROOT, env=clean_environment(), timeout=400
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if FOREIGN.search(line)]
    assert len(done.stderr.splitlines()) == (0 if code == 0 else 1), done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with logs, a finished run and a store with two versions of it."""
    root = tmp_path_factory.mktemp("quiet")
    run("synth", str(root / "logs"), "--days", "2", "--rows-per-day", "3000")
    said, _ = run("check", "--config", str(root / "logs/config.yaml"))
    assert said[0] == "starting Ray on this machine"
    began = time.monotonic()
    arguments = [
        "train",
        "--config",
        str(root / "logs/config.yaml"),
        "--set",
        f"output={root}",
        "--name",
        "run",
        "--workers",
        "1",
    ]
    with subprocess.Popen(
        [*RAYMTL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]
        assert time.monotonic() - began < FIRST_LINE_S
        lines += process.stdout.readlines()
        assert process.stderr.read() == ""
        assert process.wait() == 0
    assert [line.strip() for line in lines[:4]] == [
        "checking the configuration and the logs",
        "starting Ray on this machine",
        "starting 1 worker",
        "training with 1 worker",
    ]
    for name in ("one", "two"):
        run("versions", "publish", str(root / "run"), "--store", str(root / "store"), "--version", name)
    return root


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
    assert not [line for line in terminal.text.splitlines() if FOREIGN.search(line)]
    assert "3,000 rows in 1 file" in terminal.text


def test_a_version_that_is_removed_while_it_is_scored(trained: Path) -> None:
    old = f"{trained}/store/versions/one"
    command = [*RAYMTL, "score", "--version", old, "--data", str(trained / "logs"), "--out", str(trained / "half")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while process.stdout.readline() != "starting Ray on this machine\n":
            pass
        assert run_command(["versions", "gc", "--store", str(trained / "store"), "--keep", "1"]) == 0
        process.stdout.read()
        error = process.stderr.read()
        assert process.wait() == 66
    assert error == (
        f"raymtl: version one of store {trained}/store was removed while it was read, probably by `raymtl versions gc`; take "
        "the current version, or let gc keep more of them with --keep\n"
    )
