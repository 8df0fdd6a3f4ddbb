"""Which of Ray's session folders are removed, and when."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raymtl.training.ray_log_folders import KEPT_S, MARKER, remove_old
from tests.helpers.terminal import ROOT, clean_environment

OLD = time.time() - KEPT_S - 60
HOLD = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def session(root: Path, name: str, *, ours: bool, old: bool) -> Path:
    folder = root / f"session_{name}"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs/raylet.out").write_text("said")
    if ours:
        (folder / MARKER).touch()
    if old:
        for path in (folder, *folder.iterdir()):
            os.utime(path, (OLD, OLD))
    return folder


def test_only_old_sessions_of_ours_that_have_ended_are_removed(tmp_path: Path) -> None:
    foreign = session(tmp_path, "foreign", ours=False, old=True)
    young = session(tmp_path, "young", ours=True, old=False)
    gone = session(tmp_path, "gone", ours=True, old=True)
    running = session(tmp_path, "running", ours=True, old=True)
    (tmp_path / "session_latest").symlink_to(gone)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(running / MARKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        remove_old(tmp_path)
        assert not gone.exists()
        assert not (tmp_path / "session_latest").is_symlink()
        assert all((folder / "logs/raylet.out").exists() for folder in (foreign, young, running))
    finally:
        holder.kill()
        holder.wait()
    remove_old(tmp_path)
    assert not running.exists()
    assert foreign.exists()


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("ending", "stays"), [("", False), ("raise SystemExit(0)", False), ("1 / 0", True)])
def test_the_session_of_a_process_that_ends_well_is_removed(tmp_path: Path, ending: str, stays: bool) -> None:
    # A short path: Ray's sockets lie in the folder
    root = Path(f"/tmp/raymtl-sessions-{os.getpid()}-{'stays' if stays else 'goes'}-{len(ending)}")
    code = f"from raymtl.training.cluster import join\nimport ray\njoin(None, 1)\nprint(ray.get(ray.put(7)))\n{ending}"
    env = clean_environment({"RAY_TMPDIR": str(root)})
    root.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200
        )
        assert done.stdout == "7\n", done.stderr
        left = [path.name for path in root.glob("**/session_*") if not path.is_symlink()]
        assert len(left) == stays, left
        assert all((path / MARKER).exists() for path in root.glob("**/session_2*"))
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)
