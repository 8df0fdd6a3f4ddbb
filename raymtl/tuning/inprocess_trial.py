"""A trial with one worker, which trains in the trial's own process: no second Ray Train, no process group beyond itself."""

import datetime as dt
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.fs as pafs
import torch
import torch.distributed as dist

from raymtl.data.read import Input, Schedule, row_seed
from raymtl.errors import CheckpointError
from raymtl.model_store.loader import restore as restore_version
from raymtl.storage.filesystem import is_local, open_filesystem
from raymtl.storage.object_store import open_store
from raymtl.storage.paths import join_path
from raymtl.storage.retry import retry
from raymtl.storage.temp_dirs import folder_for
from raymtl.telemetry.metrics import Gauges
from raymtl.training import checkpoint as saved_state
from raymtl.training.build import TrainState, build
from raymtl.training.checkpoint import Progress
from raymtl.training.rundir import read_file, write_file
from raymtl.training.trainer import StopCallback, Trainer, Worker
from raymtl.training.worker import Job, Streams, init_single_process_group, mute_library_logs, total_steps
from raymtl.tuning.blocks import SharedInput

STATE = "state.json"
"""Names the folder of the newest whole checkpoint of a trial."""


@dataclass(frozen=True)
class Begin:
    """The version that a trial starts from."""

    store: str
    version: str
    heads_only: bool


class Watcher(Protocol):
    """Who is told how far a trial has come."""

    def began(self, progress: Progress) -> bool:
        """Training begins now; the answer says whether to begin at all."""

    def saved(self, progress: Progress) -> None:
        """A checkpoint is written."""

    def evaluated(self, evaluation: dict[str, Any]) -> bool:
        """An evaluation is made; the answer says whether to go on."""


def train_in_process(
    job: Job,
    blocks: dict[str, SharedInput] | None,
    begin: Begin | None,
    watcher: Watcher,
) -> Progress:
    """Train what is left of a trial in `job.run_dir`, and return how far it came.

    With `blocks` the inputs are those that all trials share; without they are read for this trial alone.
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
    state = _State(job, built, group)
    progress = state.load()
    if progress.step == 0 and begin is not None:
        restore_version(built, config, open_store(begin.store), begin.version, group, optimizer=not begin.heads_only)
    if begin is not None and begin.heads_only:
        built.optimizers.train_only(built.model.module.head.ranker.heads())
    progress.starts += 1
    worker = Worker(0, 1, device, group, None, None, _opener(job, blocks), gauges=Gauges(job.run, 0))

    def save(score: float | None) -> None:
        state.save(progress)
        watcher.saved(progress)

    stop_callback = StopCallback(job.stop_check_units, watcher.evaluated)
    loop = Trainer(worker, config, built, job.inputs, progress, None, save, stop_callback=stop_callback)
    if watcher.began(progress) and not progress.finished:
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


class _State:
    """The checkpoints of a trial: written under a new name each, then named in one small file, so that a kill costs at most what
    came after the last one."""

    def __init__(self, job: Job, built: TrainState, group: dist.ProcessGroup):
        self._folder, self._built, self._group = job.run_dir, built, group
        self._filesystem, self._inner = open_filesystem(job.run_dir)
        self._plan = job.inputs["train"].plan.identity
        self._last: str | None = None

    def load(self) -> Progress:
        text = read_file(self._folder, STATE)
        if text is None:
            return Progress(plan=self._plan)
        self._last = _named_in(text, self._folder)
        source = join_path(self._folder, self._last)
        progress = saved_state.read_progress(source)
        if progress.plan != self._plan:
            raise CheckpointError(
                "the training days changed since this trial began; set another `name` to start a new search"
            )
        saved_state.load(self._built, source, model_only=False, group=self._group)
        self._built.optimizers.restore(progress.step)
        return progress

    def save(self, progress: Progress) -> None:
        name = f"state-{progress.step}-{time.time_ns()}"
        if is_local(self._filesystem):
            self._filesystem.create_dir(f"{self._inner}/{name}")
            saved_state.save(self._built, progress, f"{self._inner}/{name}", self._group, background=False)
        else:
            with folder_for("trial") as scratch:
                saved_state.save(self._built, progress, scratch, self._group, background=False)
                target = f"{self._inner}/{name}"
                retry(lambda: pafs.copy_files(scratch, target, pafs.LocalFileSystem(), self._filesystem))
        write_file(self._folder, STATE, json.dumps({"folder": name}))
        if self._last is not None:
            with suppress(OSError):  # it goes with the trial's folder at the latest
                self._filesystem.delete_dir(f"{self._inner}/{self._last}")
        self._last = name


def _named_in(text: str, folder: str) -> str:
    """The folder that the small file names: it is removed when the next one is written, so it has to be one of these."""
    try:
        name = json.loads(text)["folder"]
    except (ValueError, TypeError, KeyError):
        name = text
    if not isinstance(name, str) or not re.fullmatch(r"state-\d+-\d+", name):
        raise CheckpointError(
            f"`{join_path(folder, STATE)}` is damaged: it names `{name}`; remove it, and the trial restarts"
        )
    return name


def remove_state(trial_folder: str) -> None:
    """Take away what an ended trial would have gone on from."""
    filesystem, inner = open_filesystem(trial_folder)
    with suppress(FileNotFoundError):
        filesystem.delete_dir(inner)


def trial_folder(search_folder: str, name: str) -> str:
    """Folder of what a trial under way keeps."""
    return join_path(search_folder, f"trials/{name}")
