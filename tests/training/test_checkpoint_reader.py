"""Reading checkpoints where they lie: any storage, whatever fails on the way, and nothing in them that runs code."""

import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from raymtl.training.checkpoint_reader import INDEX, Planner, Reader, read_index
from tests.helpers.faulty_storage import Faults, register

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Runs:
    """What runs a command where it is unpickled."""

    def __init__(self, command: str):
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


def saved(folder: Path) -> dict:
    state = {"table": torch.arange(40.0).view(10, 4), "optimizer": {"lr": 0.25, "betas": (0.9, 0.99), "name": "adam"}}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return state


def loaded(folder: str) -> dict:
    state = {"table": torch.zeros(10, 4), "optimizer": {"lr": 0.0, "betas": (0.0, 0.0), "name": ""}}
    dcp.load(state, storage_reader=Reader(folder), planner=Planner(), no_dist=True)
    return state


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    before = saved(tmp_path / "checkpoint")
    after = loaded(str(tmp_path / "checkpoint"))
    assert torch.equal(after.pop("table"), before.pop("table"))
    assert after == before


def test_storage_that_fails_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved(tmp_path / "checkpoint")
    faults = Faults(tmp_path / "faults")
    monkeypatch.setenv(*faults.variable)
    register()
    faults.add("open", f"*{INDEX}", "ConnectionResetError", times=2)
    faults.add("read", "*.distcp", "ConnectionResetError", times=2)
    after = loaded(f"faulty://{tmp_path}/checkpoint")
    assert torch.equal(after["table"], before["table"])
    assert len(faults.calls()) > 4


def test_an_index_that_would_run_code(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint")
    ran = tmp_path / "ran"
    (tmp_path / "checkpoint" / INDEX).write_bytes(pickle.dumps(Runs(f"touch {ran}")))
    with pytest.raises(CheckpointException, match="system`, which no raymtl checkpoint holds"):
        loaded(str(tmp_path / "checkpoint"))
    assert not ran.exists()


def test_an_index_that_hides_code_in_its_parts(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint")
    ran = tmp_path / "ran"
    index = read_index(str(tmp_path / "checkpoint"))
    index.planner_data = Runs(f"touch {ran}")
    (tmp_path / "checkpoint" / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(pickle.UnpicklingError, match="which no raymtl checkpoint holds"):
        read_index(str(tmp_path / "checkpoint"))
    assert not ran.exists()


def test_a_value_that_would_run_code(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    dcp.save({"optimizer": {"lr": Runs(f"touch {ran}")}}, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    with pytest.raises(CheckpointException, match="Weights only load failed"):
        dcp.load(
            {"optimizer": {"lr": 0.0}},
            storage_reader=Reader(str(tmp_path / "checkpoint")),
            planner=Planner(),
            no_dist=True,
        )
    assert not ran.exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/../../b"])
def test_an_index_that_names_a_file_outside(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "checkpoint")
    index = read_index(str(tmp_path / "checkpoint"))
    for part in index.storage_data.values():
        part.relative_path = name
    (tmp_path / "checkpoint" / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointException, match="which is not in the checkpoint's folder"):
        loaded(str(tmp_path / "checkpoint"))


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\x80\x04K\x01."])
def test_a_damaged_index(tmp_path: Path, damage: bytes) -> None:
    saved(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / INDEX).write_bytes(damage)
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        read_index(str(tmp_path / "checkpoint"))
