"""Workers that Ray Train starts once, and that then run one job after another."""

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymtl import errors, signals
from raymtl.config.root import Config
from raymtl.data.dealer import start_dealers
from raymtl.data.read import start_reader
from raymtl.errors import ClusterError, NodesLostError, UserError
from raymtl.storage.temp_dirs import new_folder, remove_stale
from raymtl.telemetry.events import Event, Listener
from raymtl.training.checkpoint_folders import find_checkpoint
from raymtl.training.cluster import started_here
from raymtl.training.event_queue import FINISHED, EventQueue
from raymtl.training.job import Job
from raymtl.training.local_ray import check_room_for_checkpoints
from raymtl.training.local_train import end_ahead, is_local
from raymtl.training.ray_trainer import RayTrainer, import_ahead, run_trainer
from raymtl.training.resources import ResourceGrant, wait_for_resources

Entry = Callable[[Any], None]
"""What each worker process runs, given the `EventQueue`; of a module that the driver can import without torch."""

_TAKE_S = 5.0
_ANSWER_S = 10.0
_LEAVE_S = 30.0
"""Workers that do not end within this time, though their job is done, are killed."""
_KILLED_S = 10.0
"""The threads end at once, or, after a worker was lost, when Ray Train comes back from waiting for it. One that used Ray after
its shutdown would end the process with code 1."""


class Session:
    """A group of workers; a context manager that lets them go. They start with the first job."""

    def __init__(self, entry: Entry, grant: ResourceGrant | None = None):
        """`grant`: None, if `request` is called before the first job."""
        self._entry, self._grant = entry, grant
        self._dealers: list[Any] = []
        self._number = self._since_start = 0
        self._group: _WorkerGroup | None = None

    @property
    def has_workers(self) -> bool:
        """Whether the workers are there, so that a job needs no new ones."""
        return self._group is not None and self._group.is_alive

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close(at_once=kind is not None)

    def request(self, config: Config, local: bool, notify: Callable[[str], None]) -> ResourceGrant:
        """Wait for the resources of the workers, unless it has. They import while the caller goes on."""
        if self._grant is None:
            self._grant = wait_for_resources(config, local, notify)
            import_ahead(config, self._grant.threads)
            if is_local():
                self._dealers = start_dealers(config.train.workers, config.data.block_rows)
                start_reader()
        return self._grant

    def run(self, job: Job, config: Config, on_event: Listener | None) -> dict[str, Any]:
        """Run a job and return the first worker's summary. Raises the UserError of the workers, after which they are gone."""
        self._number += 1
        while True:
            if not self.has_workers:
                self._end_group(at_once=True)
                if started_here() and job.evaluate_checkpoint is None:
                    check_room_for_checkpoints(config)
                assert self._grant is not None
                self._group, self._since_start = _WorkerGroup(self._entry, self._grant, config), 0
            assert self._group is not None
            self._since_start += 1
            try:
                summary = self._group.run(self._number, replace(job, dealers=self._dealers), config, on_event)
            except NodesLostError:  # it has waited for others
                raise
            except ClusterError:
                # Ray counts lost workers over all jobs of a group; this job gets a count of its own
                if self._since_start > 1 and not self.has_workers:
                    continue
                self._end_group(at_once=True)
                raise
            if "user_error" in summary:
                self._end_group(at_once=False)
                kind, message = summary["user_error"]
                raise getattr(errors, kind, UserError)(message)
            return summary

    def close(self, at_once: bool = False) -> None:
        """Let the workers go, `at_once` even from the middle of a job. A command that ends its own Ray need not wait for them."""
        self._grant = None
        self._end_group(at_once)
        end_ahead()
        self._dealers = []

    def _end_group(self, at_once: bool) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.close(at_once or (started_here() and signals.installed()))


class _WorkerGroup:
    """One run of Ray Train."""

    def __init__(self, entry: Entry, grant: ResourceGrant, config: Config):
        remove_stale()
        self._folder = new_folder("ray")
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # On the driver's node: the loss of another node must not lose the events of the other workers
        self._queue = EventQueue.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._on_event: Listener | None = None
        self._arrived: queue.Queue[dict[str, Any] | None] = queue.Queue()
        """Summaries; None: the workers have ended."""
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._last_event_time = 0.0
        self._events_arrived = 0
        self._closing = threading.Event()
        self._taking = threading.Lock()
        self._trainer = RayTrainer.make(entry, self._queue, config, grant.threads, self._folder)
        self._events = threading.Thread(target=self._take_events, name="events", daemon=True)
        self._workers = threading.Thread(target=self._fit, args=(config,), name="workers", daemon=True)
        self._events.start()
        self._workers.start()

    @property
    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def run(self, number: int, job: Job, config: Config, on_event: Listener | None) -> dict[str, Any]:
        began, self._on_event = time.monotonic(), on_event
        try:
            # In a list, so that the queue passes it on unopened
            reference = [ray.put(replace(job, event_queue=self._queue))]
            with _lost_queue():
                ray.get(self._queue.post.remote(number, reference))
            summary = self._arrived.get()
            if summary is None and self._ended.is_set():
                with self._taking, suppress(RayError):
                    self._take(0)  # they may have finished the job before they ended
                summary = self._arrived.get_nowait() if not self._arrived.empty() else None
            if summary is None:
                assert self._error is not None
                raise self._error
            return summary
        except KeyboardInterrupt:
            if signals.received() == "SIGTERM" and self._last_event_time > began and job.evaluate_checkpoint is None:
                self._await_checkpoint(job, config)
            raise
        finally:
            self._on_event = None

    def close(self, at_once: bool) -> None:
        self._closing.set()
        if not at_once:
            self._queue.close.remote()
            self._workers.join(_LEAVE_S)
        self._trainer.kill()
        self._workers.join(_KILLED_S)
        with suppress(RayError):
            ray.kill(self._queue)
        self._events.join(_KILLED_S)
        shutil.rmtree(self._folder, ignore_errors=True)
        remove_stale()

    def _fit(self, config: Config) -> None:
        try:
            run_trainer(self._trainer, config, self._notify, lambda: self._last_event_time, self._closing.is_set)
        except BaseException as error:  # raised by the job that waits
            self._error = error
        else:
            self._error = ClusterError("the workers ended before their job; rerun the same command")
        self._ended.set()
        if not self._closing.is_set():  # Ray is there
            self._queue.close.remote()
        self._arrived.put(None)

    def _notify(self, line: str) -> None:
        if (on_event := self._on_event) is not None:
            on_event({"note": line})

    def _take_events(self) -> None:
        while not (self._closing.is_set() or self._ended.is_set()):
            try:
                with self._taking, _lost_queue():
                    self._take(_TAKE_S)
            except RayError as error:
                if not self._closing.wait(0.5):
                    logging.getLogger(__name__).debug("no events from the workers: %s", error)
            except BaseException as error:  # of the listener, or the queue is lost; the job that waits raises it
                self._error = error
                self._arrived.put(None)
                return

    def _take(self, wait_s: float) -> None:
        for item in ray.get(self._queue.take.remote(self._events_arrived, wait_s), timeout=wait_s + _ANSWER_S):
            self._events_arrived += 1
            self._pass_on(item)

    def _pass_on(self, item: Event) -> None:
        self._last_event_time = time.monotonic()
        if FINISHED in item:
            self._arrived.put(item["summary"])
        elif (on_event := self._on_event) is not None:
            on_event(item)

    def _await_checkpoint(self, job: Job, config: Config) -> None:
        """Before the process handles SIGTERM: wait for a checkpoint at the end of the current unit, within the grace period."""
        grace_s = config.train.checkpoint.stop_grace_s
        signals.allow(grace_s + signals.CLEAN_UP_S)
        before = find_checkpoint(job.run_dir)
        self._notify(
            f"SIGTERM: waiting up to {grace_s:g} s (train.checkpoint.stop_grace_s) for the checkpoint at the end of this unit"
        )
        ray.get(self._queue.save_soon.remote(), timeout=10)
        end = time.monotonic() + grace_s
        while time.monotonic() < end:
            if find_checkpoint(job.run_dir) != before:
                self._notify("checkpoint saved")
                break
            time.sleep(0.2)
        signals.allow(signals.CLEAN_UP_S)


@contextmanager
def _lost_queue() -> Iterator[None]:
    """Without the queue, the driver would hear of the workers no more."""
    try:
        yield
    except ActorDiedError as error:
        raise ClusterError(
            "the process that passes on the workers' reports (EventQueue) ended, as it does when memory is short; free memory, "
            "then rerun the same command"
        ) from error
