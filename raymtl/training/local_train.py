"""Ray Train on a Ray that this process started: its controller runs in this process, and the workers import their code ahead.

On a cluster Ray Train starts a process for its controller, one that cleans up after a controller that died, and gives the workers
a runtime environment, for which Ray starts every process twice. On this machine alone the controller lives as long as the Ray
that it controls, and the workers inherit the environment of this process.
"""

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.train.v2._internal.constants import ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup, state, worker_group

from raymtl.training.cluster import started_here
from raymtl.training.entry import import_worker, set_environment

_LOG = "raymtl-train-controller.log"
_ahead: dict[str, list[ActorHandle]] = {}
"""Workers that no worker group has taken yet, by the session of their Ray."""


def is_local() -> bool:
    """Whether this process is the driver of a Ray that it started, on this machine alone."""
    return started_here() and ray.get_runtime_context().worker.mode == ray.SCRIPT_MODE


def import_ahead(workers: int, environment: Mapping[str, str]) -> None:
    """Start the processes of `workers` workers without GPUs, which import their code while this process prepares the run.

    They reserve nothing; their worker group does. Elsewhere than on this machine alone it does nothing.
    """
    if not is_local():
        return
    end_ahead()
    actors = [ray.remote(num_cpus=0)(WorkerGroup._worker_cls).remote() for _ in range(workers)]
    for actor in actors:
        actor.execute.remote(import_worker, dict(environment))
    _ahead[_session()] = actors


def end_ahead() -> None:
    """End the workers that no worker group has taken."""
    for actor in _ahead.pop(_session(), []) if ray.is_initialized() else ():
        with suppress(Exception):  # it has died
            ray.kill(actor)


def _session() -> str:
    return ray.get_runtime_context().get_session_name()


@contextmanager
def temporary_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class LocalController:
    """Ray Train's controller in this process."""

    def __init__(self, **arguments: Any):
        """`arguments` are those of Ray's own controller."""
        policy = arguments["scaling_policy"]
        if isinstance(policy, FixedScalingPolicy):
            arguments["scaling_policy"] = _FixedScalingPolicy(policy.scaling_config)
        # Ray's own would change this process's logging
        with temporary_environment({ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR: "0"}):
            self._controller = _Controller(**arguments)

        self._loop = asyncio.new_event_loop()
        self._run = self._loop.create_task(self._controller.run())

    def run(self) -> Any:
        """Train, and return Ray's result. Raises TrainingFailedError if `kill` ends it."""
        try:
            with _logged_beside_ray():
                self._loop.run_until_complete(self._run)
        except asyncio.CancelledError:
            raise ray.train.ControllerError(RuntimeError("Ray Train's controller was ended")) from None
        finally:
            group = self._controller.get_worker_group()
            if group is not None and group.has_started():
                group.abort()
            self._loop.close()
        return self._controller.get_result()

    def kill(self) -> None:
        """End the workers; called by another thread."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._run.cancel)


@contextmanager
def _logged_beside_ray() -> Iterator[None]:
    """Send the lines of Ray Train into the folder of Ray's own logs, where the process of a controller would leave them."""
    logger = logging.getLogger("ray.train")
    folder = ray.get_runtime_context().worker.node.get_logs_dir_path()
    handler = logging.FileHandler(os.path.join(folder, _LOG), delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
        handler.close()


class _FixedScalingPolicy(FixedScalingPolicy):
    """Without requests for nodes, which take a process."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _NoActor:
    """Instead of the actor over which workers report checkpoints to Ray Train, which raymtl's do not."""

    def options(self, **options: Any) -> "_NoActor":
        return self

    def remote(self, **arguments: Any) -> "_NoActor":
        return self


def _shut_down(actor: Any) -> None:
    if not isinstance(actor, _NoActor):
        ray.kill(actor)


state._shutdown_sync_actor = _shut_down


class _WorkerGroup(WorkerGroup):
    """Workers with the environment of this process; those that import ahead, if there are any."""

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        before, worker_group.SynchronizationActor = worker_group.SynchronizationActor, _NoActor()
        try:
            super()._start_impl(worker_group_state_builder)
        finally:
            worker_group.SynchronizationActor = before

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        return {}

    def _create_workers(self, num_workers: int, *arguments: Any, **options: Any) -> list[Worker]:
        actors = _ahead.pop(_session(), [])
        if len(actors) != num_workers:
            for actor in actors:
                ray.kill(actor)
            workers = super()._create_workers(num_workers, *arguments, **options)
            given = self._train_run_context.run_config.worker_runtime_env.get("env_vars", {})
            ray.get([worker.execute_async(set_environment, given) for worker in workers])
            return workers
        try:
            found = ray.get([actor.get_metadata.remote() for actor in actors])
        except RayActorError as error:
            for actor in actors:
                ray.kill(actor)
            raise WorkerGroupStartupFailedError(str(error)) from error
        resources = self._worker_group_context.resources_per_worker
        return WorkerGroup._assign_worker_ranks(
            [
                Worker(actor, facts, resources, placement_group_bundle_index=index)
                for index, (actor, facts) in enumerate(zip(actors, found, strict=True))
            ]
        )

    def _init_train_context_on_workers(
        self, workers: list[Worker], sync_actor: _NoActor, train_context_args: dict[str, list[Any]]
    ) -> None:
        """As Ray's own, without the actors over which workers report checkpoints."""
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=None,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[rank] for name, values in train_context_args.items()},
                )
                for rank, worker in enumerate(workers)
            ]
        )
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup
