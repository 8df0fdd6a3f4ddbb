"""The entry point of each Ray Train worker: process groups, model, restore, training, and the summary for the driver."""

import datetime as dt
import logging
import socket
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device

from raymtl.config.root import Config
from raymtl.data.ids.id_map import MapFile
from raymtl.data.read import Input, Schedule, stream
from raymtl.errors import CheckpointError, UserError
from raymtl.storage.paths import join_path
from raymtl.storage.temp_dirs import new_folder, remove_stale
from raymtl.telemetry import logs
from raymtl.telemetry.metrics import Gauges
from raymtl.training import checkpoint as saved_state
from raymtl.training.build import TrainState, build
from raymtl.training.checkpoint import Progress
from raymtl.training.checkpoint_index import WORST
from raymtl.training.distributed import all_gather_or_raise
from raymtl.training.resources import readers_take_cpus, reading_tasks
from raymtl.training.runlog import RunLogger
from raymtl.training.trainer import StopCallback, Trainer, Worker
from raymtl.words import count_of


@dataclass
class Job:
    """What the driver sends to every worker."""

    config: Config
    inputs: dict[str, Input]
    """What to read, by name: `train`, `eval`."""
    base_rates: dict[str, float]
    run_dir: str
    event_queue: Any
    """Handle of the driver's `EventQueue`, or None."""
    read_tasks: int | None
    """Reading tasks at a time; None: depends on what is free when reading starts."""
    threads: int
    config_hash: str
    evaluate_checkpoint: str | None = None
    """Only evaluate this checkpoint folder, do not train."""
    stop_decider: Any = None
    """Handle of a `StopDecider`, which decides at every evaluation whether to continue, or None."""
    stop_check_units: frozenset[int] = frozenset()
    """Evaluate for the `stop_decider` after these units, counted over all epochs."""

    @property
    def run(self) -> str:
        """Name of the run in metrics and log lines."""
        return self.config.name


def run_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Entry point of a worker. Returns the summary of the run, or `{"user_error": …}` for a user error on all workers: raised,
    it would count as a lost worker and be retried."""
    return run_guarded(_run, job)


def run_guarded(run: Callable[[Any, int, int], dict[str, Any]], job: dict[str, Any]) -> dict[str, Any]:
    """Call `run(job, rank, workers)`, and log what ends it; a user error comes back as a summary."""
    context = ray.train.get_context()
    try:
        return run(job["job"], context.get_world_rank(), context.get_world_size())
    except UserError as error:
        logs.log.error("%s", error)
        return {"user_error": (type(error).__name__, str(error))}
    except Exception as error:
        logs.log.exception("this worker ends: %s", type(error).__name__)
        raise


def _run(job: Job, rank: int, workers: int) -> dict[str, Any]:
    worker, save_group = set_up(job, rank, workers)
    train_state = build(job.config, job.base_rates, total_steps(job), worker.device, worker.group)
    if job.evaluate_checkpoint is not None:
        return _evaluate(job, worker, train_state, save_group)
    progress = restore(job, train_state, save_group)
    progress.starts += 1
    log = open_log(job, progress, save_group)
    if log is not None:
        done = (
            f"resuming from step {progress.step}, {count_of(progress.rows, 'row')} trained,"
            if progress.step
            else "training"
        )
        log.notify(note=f"{done} with {workers} {'workers' if workers > 1 else 'worker'}")
    saver = Saver(job, train_state, progress, log, save_group)
    stop_callback = (
        None
        if job.stop_decider is None
        else StopCallback(job.stop_check_units, partial(_ask, job.stop_decider, worker))
    )
    trainer = Trainer(worker, job.config, train_state, job.inputs, progress, log, saver, stop_callback=stop_callback)
    try:
        if not progress.finished:
            trainer.run()
        saver.wait()
    finally:
        if log is not None:
            log.close()
    return {"progress": vars(progress), **built_facts(train_state, trainer)}


def _ask(stop_decider: Any, worker: Worker, evaluation: dict[str, Any]) -> bool:
    """The answer of the stop decider, the same on all workers."""
    answer = [ray.get(stop_decider.ask.remote(evaluation)) if worker.rank == 0 else None]
    if worker.workers > 1:  # the evaluation loader has ended, so its group is free
        dist.broadcast_object_list(answer, src=0, group=worker.eval_feed_group, device=torch.device("cpu"))
    return bool(answer[0])


def set_up(job: Job, rank: int, workers: int) -> tuple[Worker, dist.ProcessGroup]:
    """Set up this process as a worker; also returns a gloo group of all workers for saving and loading."""
    mute_library_logs()
    logs.begin_worker(job.run, rank)
    remove_stale()
    torch.set_num_threads(job.threads)
    config = job.config
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = dt.timedelta(seconds=config.train.step_timeout_s)
    init_single_process_group(timeout)
    group = dist.group.WORLD
    assert group is not None
    # Groups over gloo, each used by one thread alone: those of the loaders, and that of the checkpoint writer
    train_feed_group, eval_feed_group = (
        dist.new_group(backend="gloo", timeout=timeout) if workers > 1 else None for _ in range(2)
    )
    save_group = dist.new_group(backend="gloo", timeout=timeout)
    logs.log.info("worker %d of %d on %s, device %s", rank, workers, socket.gethostname(), device)
    gauges = Gauges(job.run, rank)
    if rank == 0 and "train" in job.inputs:
        _report_tables(gauges, job.inputs["train"].maps)
    streams = Streams(job, rank, workers)
    must_save = partial(_must_save, job.event_queue if rank == 0 else None, device)
    return Worker(
        rank, workers, device, group, train_feed_group, eval_feed_group, streams, must_save, gauges
    ), save_group


def _must_save(event_queue: Any, device: torch.device) -> bool:
    """Whether a node will be preempted, or the driver is about to stop; the same answer on all workers."""
    wanted = ray.train.get_preemption_info() is not None
    if event_queue is not None:
        try:
            wanted |= ray.get(event_queue.wants_save.remote(), timeout=10)
        except ray.exceptions.RayError as error:  # a dead driver requests nothing
            logs.log.debug("cannot reach the driver: %s", error)
    answer = torch.tensor([wanted], dtype=torch.int32, device=device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return bool(answer.item())


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
        "peak_memory_bytes": torch.cuda.max_memory_allocated(trainer.device) if cuda else trainer.peak_private_bytes,
        "parameters": _count_parameters(train_state),
        "sharding": train_state.sharding,
    }


class Streams:
    """Opens streams: the first worker creates the dataset, and each worker gets its own iterator.

    The iterator of the last evaluation input is kept: a run evaluates the same input repeatedly, and a new dataset would have to
    start the actor that distributes its blocks.
    """

    def __init__(self, job: Job, rank: int, workers: int):
        self._job, self._rank, self._workers = job, rank, workers
        self._kept: tuple[Input, Schedule, ray.data.DataIterator] | None = None

    def __call__(self, source: Input, schedule: Schedule) -> Iterable[pa.Table]:
        if self._kept is not None and self._kept[0] is source and self._kept[1] == schedule:
            blocks = self._kept[2]
        elif source.evaluation:
            self._kept = None  # end its actor before another one starts
            blocks = self._open(source, schedule)
            self._kept = source, schedule, blocks
        else:
            blocks = self._open(source, schedule)
        return blocks.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=self._job.config.data.prefetch_blocks
        )

    def _open(self, source: Input, schedule: Schedule) -> ray.data.DataIterator:
        job = self._job
        iterators: list[Any] = [None]
        if self._rank == 0:
            iterators = [
                stream(
                    source,
                    schedule,
                    job.config,
                    workers=self._workers,
                    read_tasks=job.read_tasks or reading_tasks(job.config, self._workers),
                    task_cpus=1 if readers_take_cpus(job.config) else 0,
                )
            ]
        if self._workers > 1:
            dist.broadcast_object_list(
                iterators, src=0, device=torch.device("cpu") if not torch.cuda.is_available() else None
            )
        return iterators[0][self._rank]


class Saver:
    """Writes checkpoints and reports them to Ray Train, one at a time."""

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
        self._written: Future | None = None

    def __call__(self, score: float | None) -> None:
        self.wait()
        folder = new_folder("checkpoint")
        written = saved_state.save(
            self._train_state, self._progress, folder, self._group, self._job.config.train.checkpoint.background
        )
        self._written = written
        if self._extra_files is not None:
            self._extra_files(folder)
        storage = ray.train.get_context().get_storage()

        def upload(checkpoint: Checkpoint, name: str) -> Checkpoint:
            if written is not None:
                written.result()
            return storage.persist_current_checkpoint(checkpoint, name)

        ray.train.report(
            {
                "score": WORST if score is None else score,
                "step": self._progress.step,
                "rows": self._progress.rows,
            },
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
            delete_local_checkpoint_after_upload=True,
        )
        if self._log is not None:
            self._log.sync()

    def wait(self) -> None:
        """Wait until the last checkpoint is written; its upload may still be running."""
        if self._written is not None:
            self._written.result()
            self._written = None


def restore(
    job: Job, train_state: TrainState, group: dist.ProcessGroup, extra_files: Callable[[str], None] | None = None
) -> Progress:
    """Load the newest checkpoint of this run, if any; `extra_files(folder)` reads the further files that `Saver` wrote."""
    checkpoint = ray.train.get_checkpoint()
    plan = job.inputs["train"].plan.identity
    if checkpoint is None:
        return Progress(plan=plan)
    folder = join_path(job.run_dir, checkpoint.path.rstrip("/").rpartition("/")[2])
    progress = saved_state.read_progress(folder)
    if progress.plan != plan and not progress.finished:
        raise CheckpointError(
            f"the training data of `{job.run_dir}` changed since its last checkpoint, so rows already trained on cannot be "
            f"distinguished from new ones; start a new run under another name"
        )
    saved_state.load(train_state, folder, model_only=False, group=group)
    train_state.optimizers.restore(progress.step)
    if extra_files is not None:
        extra_files(folder)
    return progress


def _evaluate(job: Job, worker: Worker, train_state: TrainState, group: dist.ProcessGroup) -> dict[str, Any]:
    folder = job.evaluate_checkpoint
    assert folder is not None
    progress = saved_state.read_progress(folder)
    saved_state.load(train_state, folder, model_only=True, group=group)
    trainer = Trainer(worker, job.config, train_state, job.inputs, progress, None, lambda score: None)
    return {"metrics": trainer.measure(job.inputs["eval"]), "progress": vars(progress)}


def total_steps(job: Job) -> int:
    """Steps of the entire run, for the learning rate decay; exact if each unit divides evenly over the workers."""
    rows = job.config.train.batch_size
    if "train" not in job.inputs:
        return 0
    return job.config.train.epochs * sum(-(-u.rows // rows) for u in job.inputs["train"].plan.units)


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
