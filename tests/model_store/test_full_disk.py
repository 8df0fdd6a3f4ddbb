"""A disk that is full for real: what is published stays, and the next run heals."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.errors import StorageError
from raymtl.model_store.lease import acquire, holders
from raymtl.model_store.publish_run import _single_process_group
from raymtl.model_store.store import list_versions, publish, verify
from raymtl.model_store.writer import write_version
from raymtl.storage.object_store import Store
from raymtl.training.build import TrainState
from tests.helpers.version_models import draft, make, mixed_config, train


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def attempt(built: TrainState, config: Config, store: Store, group: dist.ProcessGroup) -> None:
    with acquire(store, "publish") as held:
        write_version(built, store, draft(config, "b"), group)
        publish(store, "b", held.check_held)


def test_a_full_disk(disk: Path) -> None:
    config = mixed_config(["table_wise"])
    store = Store.open(str(disk / "store"))
    with _single_process_group() as group:
        built = make(config)
        write_version(built, store, draft(config, "a"), group)
        publish(store, "a")
        train(built, config, range(2))
        size = sum(file.stat().st_size for file in (disk / "store" / "versions").rglob("*") if file.is_file())
        for room in (
            0,
            16 << 10,
            size // 2,
            size,
        ):  # not even the claim, a table, a part of the rest, all but the manifest
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            (disk / "ballast").write_bytes(b"x" * (free - room))
            with pytest.raises(
                StorageError, match=r"cannot .*No space left on device.*free space.*same command"
            ) as caught:
                attempt(built, config, store, group)
            assert caught.value.exit_code == 74
            (disk / "ballast").unlink()
            assert [version.id for version in list_versions(store)] == ["a"]
            assert verify(store) == []
            assert holders(store) == []
        attempt(built, config, store, group)
    assert [version.id for version in list_versions(store)] == ["b", "a"]
    assert verify(store) == []
