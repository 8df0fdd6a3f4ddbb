"""Ray Train: start the workers, watch the nodes, and report lost workers."""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymtl import errors, signals
from raymtl.config.root import Config
from raymtl.errors import ClusterError, StorageError, UserError, find_user_error
from raymtl.storage.temp_dirs import new_folder, remove_stale
from raymtl.telemetry.events import Listener
from raymtl.telemetry.logs import environment as log_environment
from raymtl.training.checkpoint_folders import find_checkpoint
from raymtl.training.cluster import started_here
from raymtl.training.event_queue import EventQueue
from raymtl.training.job import Job
from raymtl.training.local_ray import check_room_for_checkpoints, checkpoint_bytes, full_disk, temporary_folder
from raymtl.training.local_train import LocalController, is_local
from raymtl.training.process_group import ProcessGroup
from raymtl.training.resources import ResourceGrant, shortage, worker_resources
from raymtl.training.rundir import RunFolder, run_folder

# Of an error in a worker, only its text is available here
_FULL = re.compile("No space left on device|Disk quota exceeded")
_GUESSES = " Some common causes include"
"""Start of Ray's generic list of causes."""
_LITTLE_ROOM_BYTES = 8 << 20
_LOOK_S = 5.0
_ELASTIC_START_S = 20.0
"""Elastic workers that are not placed within this time are requested again, as many as then fit."""


def launch(
    entry: Callable[[dict[str, Any]], dict[str, Any]],
    job: Job,
    grant: ResourceGrant,
    config: Config,
    on_event: Listener | None,
) -> dict[str, Any]:
    """Run `entry` on the workers with Ray Train and return the first worker's result.

    Raises the UserError of the workers.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    train = config.train
    # Right after losing a node, Ray first requests as many workers as before, and only then as many as fit
    start_s = train.start_timeout_s if train.min_workers is None else min(_ELASTIC_START_S, train.start_timeout_s)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_s)
    remove_stale()
    if started_here() and job.evaluate_checkpoint is None:
        check_room_for_checkpoints(config)
    ray_folder = new_folder("ray")
    pump = _EventPump(on_event) if on_event else None
    trainer = _RayTrainer(
        # The job is bound to the function, because Ray's controller also unpickles `train_loop_config`
        partial(entry, {"job": replace(job, event_queue=pump.event_queue if pump else None)}),
        backend_config=ProcessGroup("cpu:gloo,cuda:nccl" if train.use_gpu else "gloo", train.step_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=train.workers if train.min_workers is None else (train.min_workers, train.workers),
            use_gpu=train.use_gpu,
            resources_per_worker=worker_resources(train),
            placement_strategy=train.placement.strategy,
            label_selector=train.placement.labels or None,
            elastic_resize_monitor_interval_s=train.resize_check_s,
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=ray_folder,  # Ray requires a folder; the checkpoints do not go there
            failure_config=FailureConfig(
                max_failures=train.max_failures,
                controller_failure_limit=int(train.max_failures * train.start_timeout_s / start_s),
            ),
            worker_runtime_env={"env_vars": worker_environment(grant.threads)},
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        with _announced_losses(possible=not started_here()):
            result = _launch(
                trainer,
                config,
                lambda line: on_event({"note": line}) if on_event else None,
                lambda: pump.last_event_time if pump else 0.0,
                lambda: pump.save_soon() if pump else None,
            )
    finally:
        trainer.close()
        if pump:
            pump.close()
        shutil.rmtree(ray_folder, ignore_errors=True)
        remove_stale()
    summary = result.return_value
    if "user_error" in summary:
        kind, message = summary["user_error"]
        raise getattr(errors, kind, UserError)(message)
    return summary


@contextmanager
def _announced_losses(possible: bool) -> Iterator[None]:
    """Let Ray Train watch for nodes that a cloud takes back, if `possible`: the watcher is a process more."""
    if possible or ENABLE_PREEMPTION_WATCHER_ENV_VAR in os.environ:
        yield
        return
    os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"
    try:
        yield
    finally:
        del os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR]


class _RayTrainer(DataParallelTrainer):
    """Ray's trainer; it exposes its controller, and leaves Ctrl-C to Python, since Ray's own handler exits with code 0."""

    controller: Any = None
    _local: LocalController | None = None

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if not is_local():
            return super()._initialize_and_run_controller(**arguments)
        self._local = LocalController(**arguments)
        return self._local.run()

    def close(self) -> None:
        """End the workers that an exception has left to a controller in this process, unless the process ends with its Ray."""
        if self._local is not None and signals.received() is None:
            self._local.close()

    def _create_default_callbacks(self) -> list[Any]:
        """Without the one for Ray Train's own datasets, which starts a process; the workers open their streams themselves.
        And without the one that starts a process to clean up after a controller that died, if that is this process."""
        unused = (DatasetsCallback, *([PlacementGroupCleanerCallback] if is_local() else []))
        return [c for c in super()._create_default_callbacks() if not isinstance(c, unused)]

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller


def _launch(
    trainer: _RayTrainer,
    config: Config,
    notify: Callable[[str], None],
    last_event_time: Callable[[], float] = lambda: 0.0,
    save_soon: Callable[[], None] = lambda: None,
) -> Any:
    """Run the trainer, again after workers died between their start and their first event, which Ray does not retry: at most
    `train.max_failures` times, and each new run of the trainer starts Ray's own count again. `last_event_time`: when the
    workers' last event arrived; `save_soon` requests a checkpoint at the end of the current unit."""
    allowed = config.train.max_failures
    attempt, run_dir = 0, RunFolder.open(run_folder(config))
    while True:
        watch, began = _Watch(trainer, config, notify, last_event_time), time.monotonic()
        try:
            return trainer.fit()
        except KeyboardInterrupt:
            if signals.received() == "SIGTERM" and last_event_time() > began:
                _await_checkpoint(run_dir, config, notify, save_soon)
            raise
        except (ray.train.TrainingFailedError, RayActorError) as error:
            if watch.gave_up is not None:
                raise ClusterError(
                    f"{watch.gave_up}; rerun the same command to resume from the last checkpoint"
                ) from error
            found = find_user_error(error) or next(
                (e for e in map(find_user_error, getattr(error, "worker_failures", {}).values()) if e), None
            )
            if found is not None:
                raise found from None
            if _found_no_room(error) and last_event_time() > began:
                continue  # Ray counts such waits over the entire run; the run has trained since, so restart the count
            attempt += 1
            if not _died_at_start(error) or 0 <= allowed < attempt:
                raise _lost(error, config) from error
            notify("a worker died during its start; restarting the workers")
        finally:
            watch.close()


def _await_checkpoint(
    run_dir: RunFolder, config: Config, notify: Callable[[str], None], save_soon: Callable[[], None]
) -> None:
    """Before the process handles SIGTERM: wait for a checkpoint at the end of the current unit, within the grace period."""
    grace_s = config.train.checkpoint.stop_grace_s
    signals.allow(grace_s + signals.CLEAN_UP_S)
    before = find_checkpoint(run_dir)
    notify(
        f"SIGTERM: waiting up to {grace_s:g} s (train.checkpoint.stop_grace_s) for the checkpoint at the end of this unit"
    )
    save_soon()
    end = time.monotonic() + grace_s
    while time.monotonic() < end:
        if find_checkpoint(run_dir) != before:
            notify("checkpoint saved")
            break
        time.sleep(0.2)
    signals.allow(signals.CLEAN_UP_S)


class _Watch:
    """Watches whether the cluster still has the nodes that the workers need; Ray Train itself would wait for them forever."""

    def __init__(
        self, trainer: _RayTrainer, config: Config, notify: Callable[[str], None], last_event_time: Callable[[], float]
    ):
        self.gave_up: str | None = None
        """The missing resources for which the run was ended."""
        self._trainer, self._config, self._notify, self._last_event_time = trainer, config, notify, last_event_time
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        missing_since: float | None = None
        while not self._closed.wait(_LOOK_S):
            try:
                missing = shortage(self._config)
            except Exception as error:  # the next check may succeed; without checks the run could wait forever
                logging.getLogger(__name__).warning("cannot check the nodes: %s", error)
                continue
            patience = self._config.train.start_timeout_s
            if missing is None:
                if missing_since is not None:
                    self._notify("enough nodes are available again: the run continues")
                missing_since = None
            elif missing_since is None:
                missing_since = time.monotonic()
                self._notify(f"nodes were lost: {missing}; waiting {patience:.0f} s for replacements")
            elif self._last_event_time() > missing_since:
                missing_since = self._last_event_time()  # the workers still train
            elif time.monotonic() - missing_since >= patience and self._trainer.controller is not None:
                self.gave_up = f"nodes were lost and not replaced within {patience:.0f} s: {missing}"
                ray.kill(self._trainer.controller)
                return


def _died_at_start(error: BaseException) -> bool:
    """Whether a worker or the controller was lost in a way that Ray's own failure policy does not retry."""
    failure = getattr(error, "controller_failure", error)
    return isinstance(failure, RayActorError) or isinstance(getattr(failure, "cause", None), RayActorError)


def _found_no_room(error: BaseException) -> bool:
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _lost(error: Exception, config: Config) -> UserError:
    """The error for workers that died for a reason outside the user's control."""
    run_dir, allowed = run_folder(config), config.train.max_failures
    if _found_no_room(error):
        return ClusterError(
            f"timed out waiting for resources for the workers of `{run_dir}`: other jobs hold them for longer than "
            f"{(allowed + 1) * config.train.start_timeout_s:g} s ({allowed + 1} × train.start_timeout_s); "
            "check `ray status`, then rerun the same command to resume from the last checkpoint"
        )
    failures = getattr(error, "worker_failures", None) or {None: error}
    for text in map(str, (*failures.values(), error)):
        if full := next((line.strip() for line in text.splitlines() if _FULL.search(line)), None):
            return StorageError(
                f"cannot write the run `{run_dir}` or a worker's temporary folder: {full}; free space there, then rerun the same "
                "command to resume from the last checkpoint"
            )
    logs = ray.get_runtime_context().worker.node.get_logs_dir_path()
    # A process on a full disk often dies without reporting it
    need = checkpoint_bytes(config) + _LITTLE_ROOM_BYTES
    if started_here() and (full := full_disk(need, temporary_folder(), logs, "/dev/shm")) is not None:
        return StorageError(
            f"the run `{run_dir}` lost its workers, and {full}; free space there, or set TMPDIR to a folder on another disk, "
            "then rerun the same command to resume from the last checkpoint"
        )
    rank, cause = next(iter(failures.items()))
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if lines:
        lines[-1] = lines[-1].partition(_GUESSES)[0]
    return ClusterError(
        f"training failed after at most {allowed} recoveries (train.max_failures); {_who(rank)} ended with: "
        f"{lines[-1] if lines else type(cause).__name__}; full logs: {logs}; rerun the same command to resume from the last "
        "checkpoint"
    )


def _who(rank: int | None) -> str:
    return "Ray Train" if rank is None else f"worker {rank}"


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process.

    Threads of a matrix product wait for each other by spinning for a while, then they sleep. Long spinning starves other threads
    on the same cores (a step can become ten times slower); no spinning costs a wake-up for each of the many short products. The
    count is in between (docs/performance.md).
    """
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000", **log_environment()}


class _EventPump:
    """Passes the events of the queue to the listener during training."""

    def __init__(self, on_event: Listener):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # On the driver's node: the loss of another node must not lose the events of the other workers
        self.event_queue = EventQueue.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._on_event = on_event
        self.last_event_time = 0.0
        """When the last event arrived, by the monotonic clock."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._empty()

    def _empty(self) -> None:
        try:
            for item in ray.get(self.event_queue.take.remote(), timeout=10):
                self.last_event_time = time.monotonic()
                self._on_event(item)
        except ray.exceptions.RayError as error:  # the events are optional; the run continues without them
            logging.getLogger(__name__).debug("no events from the workers: %s", error)

    def save_soon(self) -> None:
        """Request a checkpoint at the end of the current unit."""
        ray.get(self.event_queue.save_soon.remote(), timeout=10)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._empty()
        ray.kill(self.event_queue)
