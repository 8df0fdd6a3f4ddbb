"""What the tests of commands share: one small run, and two versions of it."""

from pathlib import Path

import pytest

from tests.helpers.pipe import run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with logs, a finished run and a store with two versions of it, made by the commands themselves."""
    root = tmp_path_factory.mktemp("quiet")
    run("synth", str(root / "logs"), "--days", "2", "--rows-per-day", "3000", forked=True)
    config = ["--config", str(root / "logs/config.yaml")]
    run("train", *config, "--set", f"output={root}", "--name", "run", "--workers", "1", forked=True)
    for name in ("one", "two"):
        publish = ["versions", "publish", str(root / "run"), "--store", str(root / "store"), "--version", name]
        run(*publish, forked=True)
    return root
