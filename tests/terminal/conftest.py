"""What the tests of commands share: one small run, and two versions of it."""

import time
from pathlib import Path

import pytest
import torch

from raymtl.training.precision import has_bf16
from tests.helpers.pipe import run, start

FIRST_LINE_S = 10.0
"""The imports of torch and Ray, and Ray's start, take longer; two seconds on a machine that nobody else uses."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with logs, a finished run and a store with two versions of it, made by the commands themselves."""
    root = tmp_path_factory.mktemp("quiet")
    run("synth", str(root / "logs"), "--days", "2", "--rows-per-day", "3000")
    config = str(root / "logs/config.yaml")
    said, _ = run("check", "--config", config)
    assert said[0] == "starting Ray on this machine"
    began = time.monotonic()
    with start("train", "--config", config, "--set", f"output={root}", "--name", "run", "--workers", "1") as process:
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
    for name, forked in (("one", False), ("two", True)):
        publish = ["versions", "publish", str(root / "run"), "--store", str(root / "store"), "--version", name]
        run(*publish, forked=forked)
    return root
