"""A run folder on storage that fails: what passes is tried again, what lasts is one sentence and no other answer."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from raymtl.errors import CheckpointError, StorageError, TryLaterError, UserError
from raymtl.storage import retry
from raymtl.training.checkpoint_folders import checkpoints, find_checkpoint, last_checkpoint, remove_others
from raymtl.training.checkpoint_reader import INDEX
from raymtl.training.progress import PROGRESS, Progress
from raymtl.training.rundir import (
    RunFolder,
    read_result,
    run_lock,
)
from raymtl.training.runlog import METRICS, RunLogger
from raymtl.training.worker import open_log
from tests.helpers.faulty_storage import Faults, register
from tests.helpers.worker_processes import several


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    found = Faults(tmp_path / "faults")
    monkeypatch.setenv(*found.variable)
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda seconds: None))
    register()
    return found


@pytest.fixture
def run(faults: Faults, tmp_path: Path) -> str:
    """A run with two complete checkpoints, and one without its progress."""
    for number in range(3):
        folder = tmp_path / f"run/{name(number)}"
        dcp.save({}, checkpoint_id=folder, no_dist=True)
        if number < 2:
            (folder / PROGRESS).write_text("{}")
    (tmp_path / "run/result.json").write_text('{"status": "finished"}')
    return f"faulty://{tmp_path}/run"


def name(number: int) -> str:
    return f"checkpoint_2026-01-01_00-00-00.00000{number}"


def found(run: str) -> str:
    return last_checkpoint(RunFolder.open(run)).root.rpartition("/")[2]


def left(run: str) -> int:
    remove_others(RunFolder.open(run), 1)
    return len(checkpoints(RunFolder.open(run)))


STEPS: list[tuple[str, str, Callable[[str], Any], Any]] = [
    ("open", "*/result.json", lambda run: read_result(RunFolder.open(run)), {"status": "finished"}),
    ("read", "*/result.json", lambda run: read_result(RunFolder.open(run)), {"status": "finished"}),
    ("open", "*/config.yaml", lambda run: RunFolder.open(run).read_text("config.yaml"), None),
    ("list", "*/run", found, name(1)),
    ("list", f"*/{name(1)}", found, name(1)),
    ("open", f"*/{name(1)}/{INDEX}", found, name(1)),
    ("open", f"*/{name(0)}/{PROGRESS}", lambda run: find_checkpoint(RunFolder.open(run)) is not None, True),
    ("put", "*/config.yaml", lambda run: RunFolder.open(run).write("config.yaml", "name: a"), None),
    ("remove", f"*/{name(0)}/{PROGRESS}", left, 1),
    ("remove", f"*/{name(2)}", left, 1),
]


@pytest.mark.parametrize(("operation", "path", "step", "answer"), STEPS)
def test_what_passes_is_tried_again(
    operation: str, path: str, step: Callable[[str], Any], answer: Any, run: str, faults: Faults
) -> None:
    faults.add(operation, path, "ConnectionResetError", times=3)
    assert step(run) == answer
    assert [error for _, _, error in faults.calls(operation, path)][:3] == ["ConnectionResetError"] * 3


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EACCES", "AWS Error SLOW_DOWN (HTTP status 503)"])
@pytest.mark.parametrize(("operation", "path", "step", "_"), STEPS)
def test_what_lasts_is_one_sentence(
    operation: str, path: str, step: Callable[[str], Any], _: Any, error: str, run: str, faults: Faults
) -> None:
    faults.add(operation, path, error, times=None)
    with pytest.raises(StorageError) as caught:
        step(run)
    message = str(caught.value)
    assert message.startswith(f"run folder `{run}")
    assert "cannot " in message
    assert message.endswith(", then rerun the same command")
    assert "\n" not in message
    assert caught.value.exit_code == 74


def test_a_run_that_is_not_there_is_no_fault_of_the_storage(run: str, tmp_path: Path) -> None:
    for path in (f"{run}-2", str(tmp_path / "nothing"), str(tmp_path / "run/result.json")):
        missing = RunFolder.open(path)
        with pytest.raises(CheckpointError, match="does not exist"):
            checkpoints(missing)
        assert find_checkpoint(missing) is None
        assert read_result(missing) is None
    assert [folder.root.rpartition("/")[2] for folder in checkpoints(RunFolder.open(run))] == [name(0), name(1)]
    with pytest.raises(StorageError, match="choose another folder"):
        RunFolder.open(str(tmp_path / "run/result.json")).write("config.yaml", "")


class Mail:
    """A mailbox without Ray."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.put = SimpleNamespace(remote=self.items.append)


def test_a_log_that_cannot_be_copied_does_not_end_the_training(
    run: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / METRICS).write_text('{"step": 1}\n{"step": 2}\n{"step"')
    mail = Mail()
    log = RunLogger(RunFolder.open(run), mail, 1)
    faults.add("*", f"*/run/{METRICS}", "EIO", times=None)
    log.sync()
    assert len(mail.items) == 1
    assert mail.items[0]["note"].startswith(f"run folder `{run}`: cannot copy the log there, training continues: ")
    faults.clear()
    log.evaluation({"step": 2, "metrics": {"tasks": {}}})
    log.close()
    assert len(mail.items) == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert not (tmp_path / "raymtl-log").exists()


def log_of_all(rank: int, workers: int, run: str, control: tuple[str, str]) -> tuple[str, int]:
    """What each worker hears of a log that the first one cannot make."""
    os.environ.update([control])
    retry.PAUSES_S = ()  # type: ignore[assignment]
    register()
    group = dist.group.WORLD
    assert group is not None
    try:
        open_log(SimpleNamespace(run_dir=RunFolder.open(run), event_queue=None), Progress(), group)  # type: ignore[arg-type]
    except UserError as error:
        return str(error), error.exit_code
    return "", 0


@pytest.mark.dist
def test_a_log_that_cannot_be_made_is_told_to_all_workers(run: str, faults: Faults, tmp_path: Path) -> None:
    faults.add("open", f"*/{METRICS}", "EIO", times=None)
    answers = several(2, tmp_path / "work", log_of_all, run, faults.variable)
    assert answers[0] == answers[1]
    assert answers[0][0].startswith(f"run folder `{run}`: cannot read `{METRICS}`: ")
    assert answers[0][1] == 74


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    with (
        run_lock(RunFolder.open(str(tmp_path / "run"))),
        pytest.raises(TryLaterError, match=rf"\(process {os.getpid()}\); wait for it"),
        run_lock(RunFolder.open(str(tmp_path / "run"))),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot be written"),
        run_lock(RunFolder.open(str(tmp_path / "file" / "run"))),
    ):
        pass
