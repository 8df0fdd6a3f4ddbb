"""Ray Train's own index of a run's checkpoints, and its repair.

Ray writes `checkpoint_manager_snapshot.json` in place, so a kill or a full disk at that moment leaves a truncated or empty file.
Ray then neither resumes the run nor starts it.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME as SNAPSHOT
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
    _CheckpointManagerState,
    _TrainingResultState,
)

from raymtl.training.checkpoint import PROGRESS
from raymtl.training.checkpoint_reader import read_index
from raymtl.training.rundir import RunFolder, checkpoints

_CHECKPOINT = re.compile(r"checkpoint_[\w.:-]+")
WORST = -1e30
"""Score of a checkpoint without an evaluation: never the best, kept only as the last. Ray's index cannot store infinity."""


def repair_checkpoint_index(run_dir: RunFolder, notify: Callable[[str], None]) -> None:
    """Rebuild Ray's index of the run's checkpoints if it is damaged; an intact or missing index stays.

    Without a complete checkpoint the index is removed, and the run restarts from scratch.
    """
    text = run_dir.read_text(SNAPSHOT)
    if text is None or _is_intact(text):
        return
    results = [_result(folder) for folder in checkpoints(run_dir) if _has_all_files(folder)]
    if not results:
        run_dir.remove(SNAPSHOT)
        notify(
            f"`{run_dir.path_of(SNAPSHOT)}` is damaged, and there is no complete checkpoint: restarting from scratch"
        )
        return
    state = _CheckpointManagerState(
        checkpoint_results=sorted(results, key=lambda r: r.metrics["score"]),  # the worst first; ties by age
        checkpoint_report_indices=[],
        latest_checkpoint_result=results[-1],
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=len(results),
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    state.checkpoint_report_indices = [results.index(result) for result in state.checkpoint_results]
    run_dir.write(SNAPSHOT, state.json())
    notify(
        f"`{run_dir.path_of(SNAPSHOT)}` was damaged and has been rebuilt: resuming from {results[-1].checkpoint_dir_name}"
    )


def _is_intact(text: str) -> bool:
    """Whether Ray can read it, and it names only checkpoints: Ray removes the folders that it names."""
    try:
        state = _CheckpointManagerState.parse_obj(json.loads(text))
    except ValueError:  # pydantic's and json's errors are ValueErrors
        return False
    return all(_CHECKPOINT.fullmatch(name) for name in _folders(json.loads(state.json())))


def _folders(value: Any, key: str = "") -> Iterator[str]:
    """Every folder that the index names, in any field."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _folders(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _folders(item, key)
    elif "dir_name" in key and value is not None:
        yield str(value)


def _result(folder: RunFolder) -> _TrainingResultState:
    """The entry of a checkpoint in Ray's index."""
    progress = json.loads(folder.read_text(PROGRESS) or "{}")
    evaluations = progress.get("evaluations", [])
    score = evaluations[-1]["score"] if evaluations and evaluations[-1]["step"] == progress["step"] else None
    return _TrainingResultState(
        checkpoint_dir_name=folder.root.rpartition("/")[2],
        metrics={
            "score": WORST if score is None else score,
            "step": progress.get("step", 0),
            "rows": progress.get("rows", 0),
        },
    )


def _has_all_files(folder: RunFolder) -> bool:
    """Whether every worker's files exist; the first worker's may be uploaded before the others'."""
    with folder.errors("read the checkpoint"):
        try:
            metadata = read_index(folder.path)
            json.loads(folder.read_text(PROGRESS) or "")
        except (ValueError, EOFError, pickle.UnpicklingError):  # truncated
            return False
    sizes = folder.files()
    entries_of_index = (metadata.storage_data or {}).values()
    return all(e.offset + e.length <= sizes.get(e.relative_path, -1) for e in entries_of_index)
