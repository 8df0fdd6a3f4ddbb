"""Folders of processes that were killed do not stay."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raymtl.storage.temp_dirs import folder_for, new_folder, remove_stale

_LEAVES = """
import os
from raymtl.storage.temp_dirs import new_folder
print(new_folder("checkpoint"), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = Path(subprocess.run([sys.executable, "-c", _LEAVES], capture_output=True, text=True).stdout.strip())
    assert left.is_dir()
    assert left.parent == tmp_path
    own, other = Path(new_folder("checkpoint")), tmp_path / "raymtl-notes-of-mine-x"
    other.mkdir()
    remove_stale()
    assert not left.exists()
    assert own.is_dir()
    assert other.is_dir()


def test_a_folder_for_a_moment() -> None:
    with folder_for("evaluate") as folder:
        Path(folder, "inside").write_text("x")
    assert not Path(folder).exists()
