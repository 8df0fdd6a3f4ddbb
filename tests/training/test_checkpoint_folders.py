"""The folders of a run are the list of its checkpoints: what counts as complete, what is removed, and what a kill leaves."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from raymtl.config.root import Config
from raymtl.errors import DataError, StorageError, UserError
from raymtl.storage import retry
from raymtl.training.checkpoint_folders import (
    checkpoints,
    complete,
    find_checkpoint,
    new_name,
    remove_others,
    upload,
)
from raymtl.training.checkpoint_reader import INDEX
from raymtl.training.progress import PROGRESS, Progress
from raymtl.training.row_tracker import TouchedRowTracker
from raymtl.training.rundir import RunFolder
from raymtl.training.worker import Saver, restore
from tests.helpers.faulty_storage import Faults, register
from tests.helpers.mixed_models import logits, make, train
from tests.helpers.worker_processes import mixed_config, several

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def write_checkpoint(run_dir: Path, second: int, score: float | None = None, rows: int | None = None) -> Path:
    folder = run_dir / f"checkpoint_2026-01-01_00-00-0{second}.000000"
    dcp.save({"weight": torch.zeros(100)}, checkpoint_id=folder, no_dist=True)
    rows = second if rows is None else rows
    evaluations = [] if score is None else [{"step": rows, "score": score}]
    (folder / PROGRESS).write_text(json.dumps({"step": rows, "rows": rows, "evaluations": evaluations}))
    return folder


def names(run_dir: Path) -> list[str]:
    """The seconds of the complete checkpoints."""
    return [Path(folder.root).name[-8:-7] for folder in checkpoints(RunFolder.open(str(run_dir)))]


def path_of(run: str) -> str | None:
    """Path of the newest complete checkpoint."""
    folder = find_checkpoint(RunFolder.open(run))
    return None if folder is None else folder.path


def cut(folder: Path) -> None:
    (part,) = folder.glob("*.distcp")
    part.write_bytes(part.read_bytes()[:50])


DAMAGES = {
    "half-uploaded": cut,
    "no part": lambda folder: next(folder.glob("*.distcp")).unlink(),
    "no index": lambda folder: (folder / INDEX).unlink(),
    "empty index": lambda folder: (folder / INDEX).write_bytes(b""),
    "no progress": lambda folder: (folder / PROGRESS).unlink(),
    "empty progress": lambda folder: (folder / PROGRESS).write_bytes(b""),
    "zeros": lambda folder: (folder / PROGRESS).write_bytes(bytes(7)),
    "empty": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_complete_checkpoint_is_found(tmp_path: Path, damage: str) -> None:
    notes: list[str] = []
    run_dir = RunFolder.open(str(tmp_path))
    assert find_checkpoint(RunFolder.open(str(tmp_path / "run")), notes.append) is None
    assert find_checkpoint(run_dir, notes.append) is None
    first = write_checkpoint(tmp_path, 1)
    DAMAGES[damage](write_checkpoint(tmp_path, 2))
    assert find_checkpoint(run_dir, notes.append) == run_dir.child(first.name)
    assert notes == []
    DAMAGES[damage](first)
    assert find_checkpoint(run_dir, notes.append) is None
    assert notes == [f"no complete checkpoint found in `{tmp_path}`; restarting from scratch"]


def test_the_newest_is_the_one_with_the_most_training_whatever_the_clocks_say(tmp_path: Path) -> None:
    for second, rows in ((1, 300), (2, 100), (3, 200)):
        write_checkpoint(tmp_path, second, rows=rows)
    assert names(tmp_path) == ["2", "3", "1"]
    remove_others(RunFolder.open(str(tmp_path)), 1)
    assert names(tmp_path) == ["1"]


@pytest.mark.parametrize(
    ("scores", "keep", "left"),
    [
        ((0.7, 0.6, 0.9, 0.5), 1, "34"),
        ((0.7, 0.6, 0.9, 0.5), 2, "134"),
        ((0.9, 0.7, 0.7, None), 2, "134"),  # of equal ones the newer; without a score, only as the last
        ((None, None, None, None), 2, "34"),
        ((-3.0, -2.0, -1.0, -2.5), 2, "234"),
        ((0.1, 0.2), 9, "12"),
    ],
)
def test_the_best_and_the_last_are_kept(tmp_path: Path, scores: tuple[float | None, ...], keep: int, left: str) -> None:
    for second, score in enumerate(scores, start=1):
        write_checkpoint(tmp_path, second, score)
    for _ in range(2):
        remove_others(RunFolder.open(str(tmp_path)), keep)
        assert names(tmp_path) == list(left)


def test_only_folders_that_raymtl_made_are_removed(tmp_path: Path) -> None:
    run_dir, elsewhere = tmp_path / "run", write_checkpoint(tmp_path / "elsewhere", 3)
    ours = [write_checkpoint(run_dir, second) for second in range(1, 5)]
    DAMAGES["no progress"](ours[0])  # left by a kill
    DAMAGES["half-uploaded"](ours[1])  # damaged later: it was complete
    others = [run_dir / name for name in ("checkpoint_copy", "checkpoint_", "logs", "checkpoint_2026-01-01_00-00-00")]
    for folder in others:
        shutil.copytree(ours[2], folder)
    link = run_dir / "checkpoint_2026-01-01_00-00-00.000000"
    link.symlink_to(elsewhere)
    file = run_dir / "checkpoint_2026-01-01_00-00-09.000000"
    file.write_text("")
    remove_others(RunFolder.open(str(run_dir)), 1)
    assert set(run_dir.iterdir()) == {ours[1], ours[3], *others, link, file}
    assert {path.name for path in elsewhere.iterdir()} == {PROGRESS, INDEX, "__0_0.distcp"}


# Kills


def save_one(run: str, source: str, control: tuple[str, str]) -> None:
    os.environ.update([control])
    register()
    run_dir = RunFolder.open(run)
    target = run_dir.child(new_name())
    upload(source, target)
    complete(source, target)
    remove_others(run_dir, 1)


def test_a_kill_at_any_moment_of_a_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, 9)
    found = []
    for skip in range(30):
        run_dir = tmp_path / f"run-{skip}"
        old = [str(write_checkpoint(run_dir, second)) for second in (1, 2)]
        faults = Faults(tmp_path / f"faults-{skip}")
        faults.add("[!l]*[ewt]", f"{run_dir}/*", "SIGKILL", skip=skip)  # remove, open-new, write, close, put
        process = multiprocessing.get_context("fork").Process(
            target=save_one, args=(f"faulty://{run_dir}", str(source), faults.variable)
        )
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        found.append(path_of(str(run_dir)) or "")
        read = torch.ones(100)
        dcp.load({"weight": read}, checkpoint_id=found[-1], no_dist=True)
        assert not read.any()
        if found[-1] == old[1]:
            assert [
                folder.path for folder in checkpoints(RunFolder.open(str(run_dir)))
            ] == old  # nothing is removed before a newer one is complete
        remove_others(RunFolder.open(str(run_dir)), 1)  # at the next checkpoint
        assert [*map(str, run_dir.glob("checkpoint_*"))] == [found[-1]]
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    assert sum(folder.endswith("02.000000") for folder in found) > 5
    assert (
        sum(not folder.endswith("02.000000") for folder in found) == 5
    )  # two old ones go, in two acts each; all went well


# Workers


class Mail:
    """A mailbox without Ray."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.put = SimpleNamespace(remote=self.items.append)


def job_of(config: Config, run_dir: str) -> Any:
    plan = SimpleNamespace(identity="days")
    return SimpleNamespace(
        config=config, run_dir=RunFolder.open(run_dir), event_queue=Mail(), inputs={"train": SimpleNamespace(plan=plan)}
    )


def prepare(control: tuple[str, str] | None) -> dist.ProcessGroup:
    if control is not None:
        os.environ.update([control])
        register()
        retry.PAUSES_S = ()  # type: ignore[assignment]
    return dist.new_group(backend="gloo")


def run_twice(
    rank: int, workers: int, run: str, background: bool, control: tuple[str, str] | None
) -> tuple[Progress, Progress, list[Any], bool]:
    """Save a few checkpoints, and resume in another model."""
    group = prepare(control)
    config = mixed_config(["row_wise", "table_wise"], checkpoint={"keep": 2, "background": background})
    job, trained, progress, log = job_of(config, run), make(config), Progress(plan="days"), Mail()
    tracker = TouchedRowTracker(config)
    logger: Any = SimpleNamespace(sync=lambda: None, notify=lambda **item: log.items.append(item))
    saver = Saver(
        job,
        trained,
        progress,
        logger if rank == 0 else None,
        group,
        lambda folder: tracker.save(folder, rank),
    )
    with saver:
        for step, score in enumerate((0.7, 0.9, 0.8, None, 0.6), start=1):
            train(trained, config, range(step, step + 1))
            progress.step, progress.rows = step, 10 * step
            if score is not None:
                progress.evaluations.append({"step": step, "score": score})
            saver()
    before = logits(trained, config)
    again = make(config)
    resumed = restore(job, again, group, tracker.load)
    return progress, resumed, log.items, torch.allclose(before, logits(again, config), rtol=0, atol=1e-6)


@pytest.mark.dist
@pytest.mark.parametrize("background", [True, False])
def test_two_workers_save_and_resume(tmp_path: Path, background: bool) -> None:
    run_dir = tmp_path / "run"
    for progress, resumed, notes, same in several(2, tmp_path / "work", run_twice, str(run_dir), background, None):
        assert progress == resumed
        assert same
        assert notes == []
    scores = [
        json.loads(Path(folder.root, PROGRESS).read_text())["evaluations"][-1]["score"]
        for folder in checkpoints(RunFolder.open(str(run_dir)))
    ]
    assert scores == [0.9, 0.8, 0.6]
    assert len(list(run_dir.glob("checkpoint_*"))) == 3
    for folder in run_dir.glob("checkpoint_*"):
        assert len(list(folder.glob("*.distcp"))) == len(list(folder.glob("touched-*.npz"))) == 2
    assert set(run_dir.iterdir()) == set(run_dir.glob("checkpoint_*"))


@pytest.mark.dist
def test_a_checkpoint_that_cannot_be_removed_does_not_stop_the_training(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults")
    faults.add("remove", error="EACCES", times=None)
    run = f"faulty://{tmp_path}/run"
    answers = several(2, tmp_path / "work", run_twice, run, True, faults.variable)
    for progress, resumed, _, same in answers:
        assert progress == resumed
        assert same
    notes = [item["note"] for item in answers[0][2]]
    assert len(notes) == 3  # from the third on there is one to remove
    assert notes[0].startswith(f"run folder `{run}`: cannot remove `checkpoint_")
    assert notes[0].endswith("Permission denied; training continues")
    assert len(list((tmp_path / "run").glob("checkpoint_*"))) == 5


def stopped_by(rank: int, workers: int, run: str, control: tuple[str, str], mistake: bool) -> tuple[str, str | None]:
    """Train on after a checkpoint, and then save another one, or stop at a mistake of the user; what is said then."""
    group = prepare(control)
    config = mixed_config(["row_wise"], checkpoint={"keep": 1})
    built, progress = make(config), Progress(plan="days")
    saver = Saver(job_of(config, run), built, progress, None, group)
    try:
        with saver:
            for step in (1, 2):
                progress.step = progress.rows = step
                saver()
            if mistake:
                raise DataError("a user's mistake")
    except UserError as error:
        return str(error), path_of(run)
    return "", path_of(run)


@pytest.mark.dist
def test_storage_that_fails_one_worker_ends_all_and_the_checkpoint_before_counts(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults")
    faults.add("open-new", "*/__1_0.distcp", "ENOSPC", skip=1, times=None)
    run = f"faulty://{tmp_path}/run"
    first, second = several(2, tmp_path / "work", stopped_by, run, faults.variable, False)
    assert first == second
    assert first[0].startswith(f"run folder `{run}/checkpoint_")
    assert "cannot write the checkpoint: [Errno 28]" in first[0]
    assert first[0].endswith("free space on the storage, then rerun the same command")
    assert json.loads(Path(first[1].removeprefix("faulty://"), PROGRESS).read_text())["step"] == 1


@pytest.mark.dist
def test_a_users_mistake_waits_for_the_checkpoint_under_way(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults")
    faults.add("put", f"*/{PROGRESS}", "", skip=1, slow_s=1.0)
    run = f"faulty://{tmp_path}/run"
    for said, found in several(2, tmp_path / "work", stopped_by, run, faults.variable, True):
        assert said == "a user's mistake"
        assert json.loads(Path(found.removeprefix("faulty://"), PROGRESS).read_text())["step"] == 2


def test_workers_that_write_elsewhere_are_noticed(tmp_path: Path) -> None:
    """Where `output` is a folder of each node, the first worker does not see the others' files."""
    source, run_dir = write_checkpoint(tmp_path / "source", 1), RunFolder.open(str(tmp_path / "run"))
    target = run_dir.child(new_name())
    upload(str(source), target)
    next(Path(target.root).glob("*.distcp")).unlink()
    with pytest.raises(StorageError, match="set `output` to storage that all nodes share"):
        complete(str(source), target)
    assert find_checkpoint(run_dir) is None
