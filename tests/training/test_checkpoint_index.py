"""Ray's index of a run's checkpoints: rebuilt if it is damaged, so that Ray itself can resume from it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from ray.train import CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from raymtl.config.load import config_from_dict
from raymtl.errors import ClusterError, StorageError
from raymtl.training import ray_trainer
from raymtl.training.checkpoint_index import SNAPSHOT, WORST, repair_checkpoint_index
from raymtl.training.rundir import RunFolder
from tests.helpers.run_logs import small_config

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def write_checkpoint(run_dir: Path, second: int, score: float | None) -> Path:
    folder = run_dir / f"checkpoint_2026-01-01_00-00-0{second}.000000"
    dcp.save({"weight": torch.zeros(100)}, checkpoint_id=folder, no_dist=True)
    evaluations = [] if score is None else [{"step": second, "score": score}]
    (folder / "progress.json").write_text(json.dumps({"step": second, "rows": 10, "evaluations": evaluations}))
    return folder


def manager_of(run_dir: Path) -> CheckpointManager:
    """Ray's own, as its controller makes it."""
    config = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="max")
    return CheckpointManager(config, StorageContext(str(run_dir.parent), run_dir.name))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Three whole checkpoints, and a last one whose second worker's part was cut off."""
    folder = tmp_path / "first"
    for second, score in enumerate((0.7, 0.6, None), start=1):
        write_checkpoint(folder, second, score)
    (part,) = write_checkpoint(folder, 4, 0.9).glob("*.distcp")
    part.write_bytes(part.read_bytes()[:50])
    return folder


@pytest.mark.parametrize("text", ["", '{"ray_version": "2', "{}"])
def test_a_damaged_index_is_rebuilt_from_the_complete_checkpoints(run_dir: Path, text: str) -> None:
    (run_dir / SNAPSHOT).write_text(text)
    with pytest.raises(Exception, match=r"."):
        manager_of(run_dir)
    notes: list[str] = []
    repair_checkpoint_index(RunFolder.open(str(run_dir)), notes.append)
    assert notes == [
        f"`{run_dir}/{SNAPSHOT}` was damaged and has been rebuilt: resuming from checkpoint_2026-01-01_00-00-03.000000"
    ]
    manager = manager_of(run_dir)
    assert manager._latest_checkpoint_result.checkpoint.path == f"{run_dir}/checkpoint_2026-01-01_00-00-03.000000"
    assert [result.metrics["score"] for result in manager._checkpoint_results] == [WORST, 0.6, 0.7]
    assert [manager._checkpoint_to_report_index[r.checkpoint] for r in manager._checkpoint_results] == [2, 1, 0]
    repair_checkpoint_index(RunFolder.open(str(run_dir)), notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "..", "logs", "checkpoint_1/../../x"])
def test_a_list_that_names_other_folders_is_not_believed(run_dir: Path, name: str) -> None:
    notes: list[str] = []
    (run_dir / SNAPSHOT).write_text("")
    repair_checkpoint_index(RunFolder.open(str(run_dir)), notes.append)
    text = (run_dir / SNAPSHOT).read_text()
    forged = text.replace("checkpoint_2026-01-01_00-00-01.000000", name).replace('_dir_name":', '_dir_name" :')
    assert forged != text
    (run_dir / SNAPSHOT).write_text(forged)
    repair_checkpoint_index(RunFolder.open(str(run_dir)), notes.append)
    assert f'"{name}"' not in (run_dir / SNAPSHOT).read_text()
    assert "was damaged and has been rebuilt" in notes[-1]


def test_without_a_complete_checkpoint_the_run_restarts_from_scratch(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    repair_checkpoint_index(RunFolder.open(str(folder)), print)
    (write_checkpoint(folder, 1, None) / ".metadata").write_bytes(b"")
    (folder / SNAPSHOT).write_text("")
    notes: list[str] = []
    repair_checkpoint_index(RunFolder.open(str(folder)), notes.append)
    assert notes == [f"`{folder}/{SNAPSHOT}` is damaged, and there is no complete checkpoint: restarting from scratch"]
    assert manager_of(folder)._latest_checkpoint_result is None


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
