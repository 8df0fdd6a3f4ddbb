"""A worker of Ray Train: its process groups and streams, and the jobs that it runs."""

import datetime as dt
import logging
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.v2._internal.execution.context import get_train_context

from raymtl.data.ids.id_map import MapFile, MapRows
from raymtl.data.local_ray_data import leave_out_cluster_actors
from raymtl.errors import CheckpointError, StorageError, UserError
from raymtl.memory import give_memory_back
from raymtl.storage.temp_dirs import new_folder, remove_stale
from raymtl.telemetry import logs
from raymtl.telemetry.metrics import Gauges
from raymtl.training import checkpoint as saved_state
from raymtl.training.build import TrainState, build
from raymtl.training.checkpoint_folders import complete, find_checkpoint, new_name, remove_others, upload
from raymtl.training.distributed import all_gather_or_raise
from raymtl.training.job import Job
from raymtl.training.progress import Progress, read_progress
from raymtl.training.rundir import RunFolder
from raymtl.training.runlog import RunLogger
from raymtl.training.shapes import model_entries
from raymtl.training.start_vectors import load_start_vectors
from raymtl.training.steps import planned_steps
from raymtl.training.streams import Dealers, Streams
from raymtl.training.trainer import Member, StopCallback, Trainer, Worker
from raymtl.words import count_of


@dataclass
class WorkerProcess(Member):
    """What a worker keeps from job to job."""

    save_group: dist.ProcessGroup
    """All workers over gloo, for loading, and for the thread that writes checkpoints."""
    dealers: Dealers
    streams: Streams | None = None
    """Those of the last job."""

    def worker(self, job: Job) -> Worker:
        """This worker in a job; the one before has ended on all workers."""
        if self.streams is not None:
            self.streams.close()
        self.streams = Streams(job, self.rank, self.workers, self.dealers)
        logs.begin_worker(job.run, self.rank)
        logs.log.info("worker %d of %d on %s, device %s", self.rank, self.workers, socket.gethostname(), self.device)
        gauges = Gauges(job.run, self.rank)
        if self.rank == 0 and "train" in job.inputs:
            _report_tables(gauges, job.inputs["train"].maps)
        shared = {field.name: getattr(self, field.name) for field in fields(Member)}
        must_save = partial(_must_save, job.event_queue if self.rank == 0 else None)
        return Worker(**shared, open_stream=self.streams, must_save=must_save, gauges=gauges)


def serve(run: Callable[[Any, WorkerProcess], dict[str, Any]], events: Any) -> None:
    """Run the jobs that the driver posts to its `EventQueue`, one after another, until it needs no more; `run` returns a summary.

    A user error on all workers is a summary too, `{"user_error": …}`, and the last one: raised, it would count as a lost worker
    and be retried.
    """
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    process: WorkerProcess | None = None
    done = 0
    while (posted := ray.get(events.next_job.remote(done))) is not None:
        done, (reference,) = posted
        job: Job = ray.get(reference)
        try:
            process = process or _set_up(job, rank, workers)
            summary = run(job, process)
        except UserError as error:
            logs.log.error("%s", error)
            summary = {"user_error": (type(error).__name__, str(error))}
        except Exception as error:
            logs.log.exception("this worker ends: %s", type(error).__name__)
            raise
        if rank == 0:
            ray.get(events.finish.remote(done, summary))
        if "user_error" in summary:
            return
        give_memory_back()


def run(job: Job, process: WorkerProcess) -> dict[str, Any]:
    """Train or evaluate a run."""
    began = time.time()
    worker, save_group = process.worker(job), process.save_group
    model_entries(job.config)  # raises what a slot refuses, before any memory is taken
    train_state = build(job.config, job.base_rates, total_steps(job), worker.device, worker.group)
    if job.evaluate_checkpoint is not None:
        return _evaluate(job, worker, train_state, save_group)
    progress = restore(job, train_state, save_group)
    notes = [] if progress.starts else start_vectors(job, train_state, save_group)
    progress.starts += 1
    log = open_log(job, progress, save_group)
    if log is not None:
        done = (
            f"resuming from step {progress.step}, {count_of(progress.rows, 'row')} trained,"
            if progress.step
            else "training"
        )
        for note in notes:
            log.notify(note=note)
        log.notify(note=f"{done} with {count_of(worker.workers, 'worker')} in {train_state.precision}")
    saver = Saver(job, train_state, progress, log, save_group)
    stop_callback = (
        None
        if job.stop_decider is None
        else StopCallback(job.stop_check_units, partial(_ask, job.stop_decider, worker))
    )
    trainer = Trainer(worker, job.config, train_state, job.inputs, progress, log, saver, stop_callback=stop_callback)
    built = time.time()
    try:
        if not progress.finished:
            with saver:
                trainer.run()
    finally:
        if log is not None:
            log.close()
    times = {"workers": began, "model": built, "first_step": trainer.first_step_time, "steps": trainer.last_step_time}
    return {"progress": vars(progress), "phase_ends": times, **built_facts(train_state, trainer)}


def _ask(stop_decider: Any, worker: Worker, evaluation: dict[str, Any]) -> bool:
    """The answer of the stop decider, the same on all workers."""
    answer = [ray.get(stop_decider.ask.remote(evaluation)) if worker.rank == 0 else None]
    if worker.workers > 1:  # the evaluation loader has ended, so its group is free
        dist.broadcast_object_list(answer, src=0, group=worker.eval_loader_group, device=torch.device("cpu"))
    return bool(answer[0])


def _set_up(job: Job, rank: int, workers: int) -> WorkerProcess:
    """Set up this process as a worker."""
    mute_library_logs()
    leave_out_cluster_actors()
    logs.begin_worker(job.run, rank)
    remove_stale()
    torch.set_num_threads(job.threads)
    device = _device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = dt.timedelta(seconds=job.config.train.step_timeout_s)
    group = dist.group.WORLD
    assert group is not None
    train_loader_group, eval_loader_group = (
        dist.new_group(backend="gloo", timeout=timeout) if workers > 1 else None for _ in range(2)
    )
    save_group = dist.new_group(backend="gloo", timeout=timeout)
    return WorkerProcess(
        rank, workers, device, group, train_loader_group, eval_loader_group, save_group, Dealers(job.dealers)
    )


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    from ray.train.torch import get_device  # imports more of Ray Train than a worker needs

    return get_device()


def _must_save(event_queue: Any) -> bool:
    """Whether this worker knows that a node will be preempted or the driver is about to stop; called by the loader's thread."""
    # `ray.train.get_preemption_info` is a barrier of all workers, and this thread must not wait
    if get_train_context().preemption_context.preemption_info is not None:
        return True
    if event_queue is None:
        return False
    try:
        return ray.get(event_queue.wants_save.remote(), timeout=10)
    except ray.exceptions.RayError as error:  # a dead driver requests nothing
        logs.log.debug("cannot reach the driver: %s", error)
        return False


def _report_tables(gauges: Gauges, maps: Mapping[str, MapFile | None]) -> None:
    for table, file in maps.items():
        if file is not None:
            gauges.set("table_used_rows", file.ids, table=table)
            gauges.set("table_capacity_rows", file.capacity, table=table)
            gauges.set("table_admitted_ids", file.notes["admitted"]["ids"], table=table)
            gauges.set("table_evicted_ids", file.notes["evicted"]["ids"], table=table)
            gauges.set("table_unknown_ratio", file.notes["unknown_share"], table=table)


def mute_library_logs() -> None:
    """Keep the libraries' own messages out of this process's logs."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    logging.getLogger("torchrec").setLevel(logging.ERROR)


def open_log(job: Job, progress: Progress, group: dist.ProcessGroup) -> RunLogger | None:
    """The log of the first worker; if it cannot be created, all workers raise the error."""
    made: list[RunLogger] = []

    def make() -> None:
        if dist.get_rank(group) == 0:
            made.append(RunLogger(job.run_dir, job.event_queue, progress.step))

    all_gather_or_raise(group, make)
    return made[0] if made else None


def built_facts(train_state: TrainState, trainer: Trainer) -> dict[str, Any]:
    """The facts about model and memory in a summary."""
    cuda = torch.cuda.is_available() and trainer.device.type == "cuda"
    return {
        "workers": dist.get_world_size(),
        "precision": train_state.precision,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(trainer.device) if cuda else trainer.peak_private_bytes,
        "parameters": _count_parameters(train_state),
        "sharding": train_state.sharding,
    }


class Saver:
    """Writes checkpoints into the run's folder, one at a time, and removes those that `train.checkpoint.keep` leaves out.

    Leaving its context waits for the last one, also when a UserError ends the training: all workers raise it together.
    """

    def __init__(
        self,
        job: Job,
        train_state: TrainState,
        progress: Progress,
        log: RunLogger | None,
        group: dist.ProcessGroup,
        extra_files: Callable[[str], None] | None = None,
    ):
        """`extra_files(folder)` writes further files of this worker into the checkpoint."""
        self._job, self._train_state, self._progress, self._log, self._group = job, train_state, progress, log, group
        self._extra_files = extra_files
        self._settings = job.config.train.checkpoint
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or issubclass(kind, UserError):
            self._wait()

    def __call__(self) -> None:
        self._wait()
        folder = new_folder("checkpoint")
        written = saved_state.save(self._train_state, self._progress, folder, self._group, self._settings.background)
        if self._extra_files is not None:
            self._extra_files(folder)
        self._saving = self._thread.submit(self._finish, folder, written)
        if not self._settings.background:
            self._wait()
        if self._log is not None:
            self._log.sync()

    def _wait(self) -> None:
        """Wait until the last checkpoint is complete; raises what went wrong with it."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _finish(self, folder: str, written: Future | None) -> None:
        """Copy what was written into the run's folder; the thread is the only user of the group meanwhile."""
        try:
            if written is not None:
                written.result()
            target = self._job.run_dir.child(all_gather_or_raise(self._group, new_name)[0])
            first = dist.get_rank(self._group) == 0
            all_gather_or_raise(self._group, lambda: upload(folder, target))
            all_gather_or_raise(self._group, lambda: complete(folder, target) if first else None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if first:
            self._remove_others()

    def _remove_others(self) -> None:
        try:
            remove_others(self._job.run_dir, self._settings.keep)
        except StorageError as error:
            if self._log is not None:
                self._log.notify(note=f"{str(error).rpartition('; ')[0]}; training continues")


def restore(
    job: Job, train_state: TrainState, group: dist.ProcessGroup, extra_files: Callable[[RunFolder], None] | None = None
) -> Progress:
    """Load the newest complete checkpoint of this run, if any; `extra_files(folder)` reads the further files of a `Saver`."""

    def find() -> RunFolder | None:
        return find_checkpoint(job.run_dir, partial(_notify, job)) if dist.get_rank(group) == 0 else None

    folder = all_gather_or_raise(group, find)[0]
    plan = job.inputs["train"].plan.identity
    if folder is None:
        return Progress(plan=plan)
    progress = read_progress(folder.path)
    if progress.plan != plan and not progress.finished:
        raise CheckpointError(
            f"the training data of `{job.run_dir.path}` changed since its last checkpoint, so rows already trained on cannot be "
            f"distinguished from new ones; start a new run under another name"
        )
    saved_state.load(train_state, folder.path, model_only=False, group=group)
    train_state.optimizers.restore(progress.step)
    if extra_files is not None:
        extra_files(folder)
    return progress


def start_vectors(
    job: Job, train_state: TrainState, group: dist.ProcessGroup, only: Mapping[str, np.ndarray | None] | None = None
) -> list[str]:
    """Fill the rows of a new model that start from a file; as `load_start_vectors`."""
    return load_start_vectors(job.config, train_state, MapRows(job.inputs["train"].maps), group, only)


def _notify(job: Job, line: str) -> None:
    if job.event_queue is not None:
        job.event_queue.put.remote({"note": line})


def _evaluate(job: Job, worker: Worker, train_state: TrainState, group: dist.ProcessGroup) -> dict[str, Any]:
    folder = job.evaluate_checkpoint
    assert folder is not None
    progress = read_progress(folder)
    saved_state.load(train_state, folder, model_only=True, group=group)
    trainer = Trainer(worker, job.config, train_state, job.inputs, progress, None, lambda: None)
    return {"metrics": trainer.measure(job.inputs["eval"]), "progress": vars(progress)}


def total_steps(job: Job) -> int:
    """Steps of the entire run, for the learning rate decay."""
    if "train" not in job.inputs:
        return 0
    return planned_steps(job.config, job.inputs["train"].plan, "eval" in job.inputs, job.stop_check_units)


def init_single_process_group(timeout: dt.timedelta) -> None:
    """Initialize a process group of this process alone, unless it is already in a group."""
    if dist.is_initialized():
        return
    store = dist.HashStore()
    backend = "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)


def _count_parameters(train_state: TrainState) -> dict[str, int]:
    tables = sum(t.rows * t.dim for t in train_state.lookup.tables.values())
    return {"dense": sum(p.numel() for p in train_state.optimizers.dense_parameters), "tables": tables}
