"""Ray Train: start the workers, watch the nodes, and report lost workers."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import ray
import ray.train
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.exceptions import RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR, get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raymtl.config.root import Config
from raymtl.errors import ClusterError, NodesLostError, StorageError, UserError, find_user_error
from raymtl.telemetry.logs import environment as log_environment
from raymtl.training import local_train
from raymtl.training.cluster import started_here
from raymtl.training.local_ray import checkpoint_bytes, full_disk, temporary_folder
from raymtl.training.local_train import LocalController, is_local, temporary_environment
from raymtl.training.process_group import ProcessGroup
from raymtl.training.resources import shortage, worker_resources
from raymtl.training.rundir import run_folder

# Of an error in a worker, only its text is available here
_FULL = re.compile("No space left on device|Disk quota exceeded")
_GUESSES = " Some common causes include"
"""Start of Ray's generic list of causes."""
_LITTLE_ROOM_BYTES = 8 << 20
_LOOK_S = 5.0
_ELASTIC_START_S = 20.0
"""Elastic workers that are not placed within this time are requested again, as many as then fit."""


def _announced_losses(possible: bool) -> AbstractContextManager[None]:
    """Let Ray Train watch for nodes that a cloud takes back, if `possible`: the watcher is a process more."""
    if possible or ENABLE_PREEMPTION_WATCHER_ENV_VAR in os.environ:
        return nullcontext()
    return temporary_environment({ENABLE_PREEMPTION_WATCHER_ENV_VAR: "0"})


class RayTrainer(DataParallelTrainer):
    """Ray's trainer, with a controller that can be killed, and without Ray's handler of Ctrl-C, which exits with code 0."""

    controller: Any = None
    _local: LocalController | None = None
    _is_killed = False

    @staticmethod
    def make(entry: Callable[[Any], None], argument: Any, config: Config, threads: int, folder: str) -> "RayTrainer":
        """Of workers that call `entry(argument)`; Ray's own files go into `folder`."""
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        train = config.train
        # Right after losing a node, Ray first requests as many workers as before, and only then as many as fit
        start_s = train.start_timeout_s if train.min_workers is None else min(_ELASTIC_START_S, train.start_timeout_s)
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_s)
        return RayTrainer(
            # The argument is bound to the function, because Ray's controller also unpickles `train_loop_config`
            partial(entry, argument),
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
                storage_path=folder,  # Ray requires a folder; the checkpoints do not go there
                failure_config=FailureConfig(
                    max_failures=train.max_failures,
                    controller_failure_limit=int(train.max_failures * train.start_timeout_s / start_s),
                ),
                worker_runtime_env={"env_vars": worker_environment(threads)},
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )

    def kill(self) -> None:
        """End the controller, and so the workers."""
        self._is_killed = True
        if self._local is not None:
            self._local.kill()
        elif self.controller is not None:
            ray.kill(self.controller)

    def _create_default_callbacks(self) -> list[Any]:
        """Without the one for Ray Train's own datasets, which starts a process; the workers open their streams themselves.
        And without the one that starts a process to clean up after a controller that died, if that is this process."""
        unused = (DatasetsCallback, *([PlacementGroupCleanerCallback] if is_local() else []))
        return [c for c in super()._create_default_callbacks() if not isinstance(c, unused)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """As Ray's own, which keeps the handle to itself; in this process if that started Ray."""
        if is_local():
            self._local = LocalController(**arguments)
            if self._is_killed:  # before there was a controller
                self._local.kill()
            return self._local.run()
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        environment = {RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: "0", **get_env_vars_to_propagate()}
        controller = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": environment})(TrainController)
        self.controller = controller.remote(**arguments)
        if self._is_killed:
            self.kill()
        ray.get(self.controller.run.remote())
        return ray.get(self.controller.get_result.remote())


def run_trainer(
    trainer: RayTrainer,
    config: Config,
    notify: Callable[[str], None],
    last_event_time: Callable[[], float] = lambda: 0.0,
    is_closing: Callable[[], bool] = lambda: False,
) -> None:
    """Run the trainer, again after workers died between their start and their first event, which Ray does not retry: at most
    `train.max_failures` times, and each new run of the trainer starts Ray's own count again. `last_event_time`: when the
    workers' last event arrived; `is_closing`: the workers are not needed any more, whatever ends them.

    Raises the UserError of the workers.
    """
    allowed = config.train.max_failures
    attempt = 0
    with _announced_losses(possible=not started_here()):
        while True:
            watch, began = _Watch(trainer, config, notify, last_event_time), time.monotonic()
            try:
                trainer.fit()
                return
            except (ray.train.TrainingFailedError, RayActorError) as error:
                if is_closing():
                    return
                if watch.gave_up is not None:
                    raise NodesLostError(
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


class _Watch:
    """Watches whether the cluster still has the nodes that the workers need; Ray Train itself would wait for them forever."""

    def __init__(
        self, trainer: RayTrainer, config: Config, notify: Callable[[str], None], last_event_time: Callable[[], float]
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
                self._trainer.kill()
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


def import_ahead(config: Config, threads: int) -> None:
    """Start the workers of a run on this machine alone, which import their code until their worker group takes them."""
    if not config.train.use_gpu:  # Ray assigns a GPU when it creates an actor
        local_train.import_ahead(config.train.workers, worker_environment(threads))


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process.

    Threads of a matrix product wait for each other by spinning for a while, then they sleep. Long spinning starves other threads
    on the same cores (a step can become ten times slower); no spinning costs a wake-up for each of the many short products. The
    count is in between (docs/performance.md).
    """
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000", **log_environment()}
