"""What Ray needs of this machine is looked at before it starts."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from raymtl.config.load import load_config
from raymtl.errors import ConfigError, StorageError
from raymtl.training import local_ray
from raymtl.training.local_ray import check_room_for_checkpoints, check_this_machine, checkpoint_bytes

CONFIG = load_config(str(Path(__file__).parents[2] / "jobs" / "conf" / "example.yaml"))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def disk(short: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of so many MiB."""
    folder = short / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_longest_path_of_a_socket_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = len(f"/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store")
    folder = "/tmp/" + "a" * (107 - fixed - len("/tmp/"))
    monkeypatch.setenv("TMPDIR", folder)
    check_this_machine()
    os.rmdir(f"{folder}/ray")
    os.rmdir(folder)
    monkeypatch.setenv("TMPDIR", folder + "a")
    with pytest.raises(ConfigError, match="would have 108; set TMPDIR to a shorter path"):
        check_this_machine()
    monkeypatch.setenv("RAY_TMPDIR", folder + "a")
    with pytest.raises(ConfigError, match="set RAY_TMPDIR to a shorter path"):
        check_this_machine()


def test_a_temporary_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    (short / "f").write_text("")
    monkeypatch.setenv("TMPDIR", str(short / "f"))
    with pytest.raises(StorageError, match=r"f/ray` cannot be written \(Not a directory\); set TMPDIR"):
        check_this_machine()


@pytest.mark.parametrize("disk", [8], indirect=True)
@pytest.mark.parametrize("ballast", [0, 6, 8])
def test_a_disk_without_room_is_named(disk: Path, ballast: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with (disk / "ballast").open("wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, max(1, ballast << 20))
    monkeypatch.setenv("TMPDIR", str(disk))
    said = (
        rf"the disk of `{disk}/ray` has \d\.\d MiB free of 8\.0 MiB, and Ray with its logs takes 64\.0 MiB there; free"
    )
    with pytest.raises(StorageError, match=said) as caught:
        check_this_machine()
    assert caught.value.exit_code == 74


@pytest.mark.parametrize("disk", [1], indirect=True)
def test_a_checkpoint_must_fit(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint_bytes(CONFIG) > 1 << 20
    check_room_for_checkpoints(CONFIG)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(StorageError, match=r"one checkpoint of the tables takes .* MiB there.*set TMPDIR"):
        check_room_for_checkpoints(CONFIG)


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_where_home_cannot_be_written_the_token_is_kept_in_memory(
    mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is taken away at the end
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        local_ray.check_this_machine()
        assert len(os.environ.get("RAY_AUTH_TOKEN", "")) == (0 if mode else 64)
    finally:
        monkeypatch.undo()
        AuthenticationTokenLoader.instance().reset_cache()
