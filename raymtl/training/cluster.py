"""Connect to Ray, or start it."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import node, parameter, ray_constants, worker
from ray.exceptions import RayError

from raymtl import signals
from raymtl.config.root import Config
from raymtl.data.local_ray_data import IS_LOCAL
from raymtl.telemetry import logs
from raymtl.training import ray_log_folders
from raymtl.training.local_ray import LOCAL_SETTINGS, check_this_machine, start_failed
from raymtl.training.ray_address import find_cluster, unreachable

_GIVEN_BACK_S = 20.0
"""An earlier run of this process releases its CPUs within this time."""

_started_here = True
"""Whether this process is connected to its own Ray; a Ray that other code in this process initialised counts as its own."""
_own_session: str | None = None
"""Session folder of the last Ray that `join` started or joined."""


def connect(config: Config, address: str | None, cpus: int = 0) -> bool:
    """Join the cluster at `address` (or that of the current job); without either, start Ray on this machine, with at least
    `cpus` logical CPUs.

    Returns True if Ray was started here, so that no nodes can be added.
    """
    logs.at(run=config.name)
    # Logical CPUs: the workers' and one for each reader, even if they share the cores of a small machine
    need = config.train.workers * config.train.cpus_per_worker + (config.data.read_tasks or 1)
    return join(address, max(need, cpus))


def join(address: str | None, cpus: int) -> bool:
    """Like `connect`, without a configuration."""
    global _started_here, _own_session
    if ray.is_initialized():
        if not _is_outgrown(cpus):
            return _started_here
        ray.shutdown()
    source = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS")
    if address == "auto" and os.environ.get("RAY_ADDRESS"):  # Ray then uses RAY_ADDRESS
        address, source = os.environ["RAY_ADDRESS"], "RAY_ADDRESS"
    # The workers report through the event queue (`runlog.py`); their raw output stays in Ray's log files
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if signals.installed():  # a command; and so do the reports of the raylets, which Ray prints all the same
        worker.print_to_stdstream = _drop
    if address and address != "local":
        address = find_cluster(address, source)
        try:
            with signals.while_ray_starts():
                context = ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            raise unreachable(f"`{address}`", str(error).strip().splitlines()[0]) from error
        _own_session = context.address_info["session_dir"]
        _started_here = False
        os.environ.pop(IS_LOCAL, None)  # of an earlier Ray of this process
        return False
    check_this_machine()
    for name, value in LOCAL_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with on_loopback(), few_processes(), signals.while_ray_starts():
            context = ray.init(
                address="local", num_cpus=max(os.cpu_count() or 1, cpus), include_dashboard=False, **quiet
            )
    except Exception as error:  # Ray raises a bare one where a node does not start in time
        raise start_failed(error) from error
    _own_session = context.address_info["session_dir"]
    ray_log_folders.own(_own_session)
    _started_here = True
    return True


def leave() -> None:
    """Leave the Ray that `join` started, which ends it, or joined; the next `join` starts or joins one again."""
    if ray.is_initialized() and ray.get_runtime_context().worker.node.get_session_dir_path() == _own_session:
        ray.shutdown()


def starts_here(address: str | None) -> bool:
    """Whether `join` would run on this machine alone."""
    if ray.is_initialized():
        return _started_here
    return (address or os.environ.get("RAY_ADDRESS") or "local") == "local"


def started_here() -> bool:
    """Whether this process started the Ray that it is connected to, on this machine alone."""
    return _started_here


def _is_outgrown(cpus: int) -> bool:
    """Whether `join` started this Ray with fewer logical CPUs than `cpus`, for a smaller run of this process that has ended."""
    if not _started_here or ray.get_runtime_context().worker.node.get_session_dir_path() != _own_session:
        return False
    if (total := ray.cluster_resources().get("CPU", 0)) >= cpus:
        return False
    until = time.monotonic() + _GIVEN_BACK_S
    while ray.available_resources().get("CPU", 0) < total:  # another thread's run, or the last one ends
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _drop(*data: Any, **options: Any) -> None:
    pass


@contextmanager
def on_loopback() -> Iterator[None]:
    """Make a Ray that starts here listen on 127.0.0.1 alone, as it does by default on macOS and Windows.

    An address passed to `ray.init` does not help: Ray replaces a loopback address by the machine's.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


class _FewProcesses(parameter.RayParams):
    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.no_monitor, self.include_log_monitor = True, False


@contextmanager
def few_processes() -> Iterator[None]:
    """Make a Ray that starts here leave out its autoscaler, what copies the workers' output to the driver, and the dashboard's
    server, which reports usage statistics alone: together they take 1.6 s of CPU at the start, and a second at the end.
    """
    before = parameter.RayParams, node.Node.start_api_server
    parameter.RayParams = _FewProcesses
    node.Node.start_api_server = _no_dashboard
    try:
        yield
    finally:
        parameter.RayParams, node.Node.start_api_server = before


def _no_dashboard(node: Any, **options: Any) -> None:
    node._webui_url = ""
