"""A trial with one worker, which trains in the trial's own process: no second Ray Train, no process group beyond itself."""

import datetime as dt
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import torch
import torch.distributed as dist

from raymtl.data.read import Input, Schedule, row_seed
from raymtl.errors import CheckpointError, StorageError
from raymtl.model_store.loader import load_version
from raymtl.storage.object_store import Store
from raymtl.storage.temp_dirs import folder_for
from raymtl.telemetry.metrics import Gauges
from raymtl.training import checkpoint as saved_state
from raymtl.training.build import TrainState, build
from raymtl.training.job import Job
from raymtl.training.progress import Progress, read_progress
from raymtl.training.rundir import RunFolder
from raymtl.training.streams import Streams
from raymtl.training.trainer import StopCallback, Trainer, Worker
from raymtl.training.worker import init_single_process_group, mute_library_logs, start_vectors, total_steps
from raymtl.tuning.blocks import SharedInput

STATE = "state.json"
"""Names the folder of the newest complete checkpoint of a trial."""


@dataclass(frozen=True)
class StartingVersion:
    """The version that a trial starts from."""

    store: Store
    version: str
    heads_only: bool


class ProgressListener(Protocol):
    """Receives the progress of a trial."""

    def on_start(self, progress: Progress) -> bool:
        """Called before training; returns whether to start it."""

    def on_checkpoint(self, progress: Progress) -> None:
        """Called after a checkpoint is written."""

    def on_evaluation(self, evaluation: dict[str, Any]) -> bool:
        """Called after an evaluation; returns whether to continue."""


def train_in_process(
    job: Job,
    blocks: dict[str, SharedInput] | None,
    start_from: StartingVersion | None,
    listener: ProgressListener,
) -> Progress:
    """Train the rest of a trial in `job.run_dir`, and return its progress.

    With `blocks` it uses the inputs that all trials share; otherwise it reads its own.
    """
    mute_library_logs()
    torch.set_num_threads(job.threads)
    config = job.config
    device = torch.device("cuda", 0) if config.train.use_gpu else torch.device("cpu")
    if config.train.use_gpu:
        torch.cuda.set_device(device)
    init_single_process_group(dt.timedelta(seconds=config.train.step_timeout_s))
    group = dist.group.WORLD
    assert group is not None
    built = build(config, job.base_rates, total_steps(job), device, group)
    state = _TrialCheckpoints(job, built, group)
    progress = state.load()
    if progress.step == 0 and start_from is not None:
        load_version(built, config, start_from.store, start_from.version, group, optimizer=not start_from.heads_only)
    if progress.step == 0 and start_from is None:
        start_vectors(job, built, group)
    if start_from is not None and start_from.heads_only:
        built.optimizers.train_only(built.model.module.head.ranker.heads())
    progress.starts += 1
    worker = Worker(0, 1, device, group, None, None, _opener(job, blocks), gauges=Gauges(job.run, 0))

    def save() -> None:
        state.save(progress)
        listener.on_checkpoint(progress)

    stop_callback = StopCallback(job.stop_check_units, listener.on_evaluation)
    loop = Trainer(worker, config, built, job.inputs, progress, None, save, stop_callback=stop_callback)
    if listener.on_start(progress) and not progress.finished:
        loop.run()
    return progress


def _opener(
    job: Job, blocks: dict[str, SharedInput] | None
) -> Callable[[Input, Schedule, Sequence[int]], Iterable[pa.Table]]:
    if blocks is None:
        return Streams(job, 0, 1)

    def open_stream(source: Input, schedule: Schedule, meetings: Sequence[int]) -> Iterator[pa.Table]:
        part = "eval" if source.evaluation else "train"
        return blocks[part].stream(schedule, row_seed(job.config, source.evaluation))

    return open_stream


class _TrialCheckpoints:
    """The checkpoints of a trial: each is written under a new name, then named in one small file, so that a crash loses at most
    the work since the last one."""

    def __init__(self, job: Job, built: TrainState, group: dist.ProcessGroup):
        self._folder, self._built, self._group = job.run_dir, built, group
        self._plan = job.inputs["train"].plan.identity
        self._last: str | None = None

    def load(self) -> Progress:
        text = self._folder.read_text(STATE)
        if text is None:
            return Progress(plan=self._plan)
        self._last = _named_in(text, self._folder)
        source = self._folder.path_of(self._last)
        progress = read_progress(source)
        if progress.plan != self._plan:
            raise CheckpointError(
                "the training days changed since this trial began; set another `name` to start a new search"
            )
        saved_state.load(self._built, source, model_only=False, group=self._group)
        self._built.optimizers.restore(progress.step)
        return progress

    def save(self, progress: Progress) -> None:
        name = f"state-{progress.step}-{time.time_ns()}"
        if self._folder.is_local:
            target = self._folder.inside(name)
            os.makedirs(target)
            saved_state.save(self._built, progress, target, self._group, background=False)
        else:
            with folder_for("trial") as scratch:
                saved_state.save(self._built, progress, scratch, self._group, background=False)
                self._folder.upload(scratch, name)
        self._folder.write(STATE, json.dumps({"folder": name}))
        if self._last is not None:
            with suppress(StorageError):  # it is removed with the trial's folder at the latest
                self._folder.remove_folder(self._last)
        self._last = name


def _named_in(text: str, folder: RunFolder) -> str:
    """The folder that the small file names: it is removed when the next one is written, so it has to be one of these."""
    try:
        name = json.loads(text)["folder"]
    except (ValueError, TypeError, KeyError):
        name = text
    if not isinstance(name, str) or not re.fullmatch(r"state-\d+-\d+", name):
        raise CheckpointError(
            f"`{folder.path_of(STATE)}` is damaged: it names `{name}`; remove it, and the trial restarts"
        )
    return name


def trial_folder(search_folder: RunFolder, name: str) -> RunFolder:
    """Folder of the checkpoints of a running trial."""
    return search_folder.child(f"trials/{name}")
