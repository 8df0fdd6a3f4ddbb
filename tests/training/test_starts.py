"""Workers that die before their first line, which Ray Train does not count as a failure of the workers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from ray.exceptions import RayActorError

from raymtl.config.load import config_from_dict
from raymtl.errors import ClusterError, DataError, StorageError
from raymtl.training import ray_trainer
from tests.helpers.run_logs import small_config


class Trainer:
    """Fails with these errors, one after the other, and then ends well."""

    def __init__(self, *errors: Exception):
        self._errors = list(errors)
        self.starts = 0

    def fit(self) -> None:
        self.starts += 1
        if self._errors:
            raise self._errors.pop(0)


def fitted(trainer: Trainer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, **train: Any) -> list[str]:
    monkeypatch.setattr(ray_trainer, "_lost", lambda error, config: ClusterError("lost"))
    config = config_from_dict(small_config(tmp_path, tmp_path, "starts", **train))
    said: list[str] = []
    ray_trainer.run_trainer(trainer, config, said.append)  # type: ignore[arg-type]
    return said


def test_workers_that_die_while_they_start_are_started_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    died = [ray.train.ControllerError(RayActorError()) for _ in range(2)]
    trainer = Trainer(*died)
    said = fitted(trainer, tmp_path, monkeypatch, max_failures=2)
    assert trainer.starts == 3
    assert len(said) == 2


def test_but_only_so_often_and_for_nothing_else(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(*[ray.train.ControllerError(RayActorError()) for _ in range(5)])
    with pytest.raises(ClusterError):
        fitted(trainer, tmp_path, monkeypatch, max_failures=1)
    assert trainer.starts == 2
    other = Trainer(ray.train.ControllerError(ValueError("a fault of Ray's")))
    with pytest.raises(ClusterError):
        fitted(other, tmp_path, monkeypatch)
    assert other.starts == 1
    mistake = ray.train.ControllerError(ValueError())
    mistake.__cause__ = DataError("a user's mistake")
    with pytest.raises(DataError, match="a user's mistake"):
        fitted(Trainer(mistake), tmp_path, monkeypatch)


def test_a_full_disk_under_a_checkpoint_is_a_storage_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_dict(small_config(Path("/logs"), Path("/runs"), "first"))
    line = "OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"
    error = ray_trainer.ray.train.WorkerGroupError("", {1: RuntimeError(f"upload failed\n  {line}\nlast line")})
    found = ray_trainer._lost(error, config)
    assert isinstance(found, StorageError)
    assert str(found).startswith(f"cannot write the run `/runs/first` or a worker's temporary folder: {line}")
    error = ray_trainer.ray.train.ControllerError(OSError(28, "No space left on device"))
    assert isinstance(ray_trainer._lost(error, config), StorageError)
    node = SimpleNamespace(get_logs_dir_path=lambda: "/logs")
    monkeypatch.setattr(
        ray_trainer.ray, "get_runtime_context", lambda: SimpleNamespace(worker=SimpleNamespace(node=node))
    )
    other = ray_trainer._lost(ray_trainer.ray.train.WorkerGroupError("", {1: RuntimeError("lost")}), config)
    assert isinstance(other, ClusterError)
    assert "worker 1 ended with: lost; full logs: /logs" in str(other)
