"""Finding or starting Ray."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants, worker
from ray.exceptions import RayError

from raymtl import signals
from raymtl.config.root import Config
from raymtl.telemetry import logs
from raymtl.training import sessions
from raymtl.training.local_ray import check_this_machine, start_failed
from raymtl.training.reach import find_cluster, unreachable

_started_here = True
"""Whether the Ray that this process is connected to is its own; one that somebody else initialised here counts as such."""


def connect(config: Config, address: str | None, cpus: int = 0) -> bool:
    """Join the cluster at `address` (or of the job that runs this); without either, start Ray on this machine alone, with at
    least `cpus` logical CPUs.

    True: Ray was started here, so there is nobody who could add nodes.
    """
    logs.at(run=config.name)
    # Logical CPUs: the workers' and one for each reader, even where they share the cores of a small machine
    need = config.train.workers * config.train.cpus_per_worker + (config.data.read_tasks or 1)
    return join(address, max(need, cpus))


def join(address: str | None, cpus: int) -> bool:
    """As `connect`, for whoever has no configuration."""
    global _started_here
    if ray.is_initialized():
        return _started_here
    source = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS")
    if address == "auto" and os.environ.get("RAY_ADDRESS"):  # Ray means that one by it
        address, source = os.environ["RAY_ADDRESS"], "RAY_ADDRESS"
    # What the workers have to say comes through the mailbox (`runlog.py`); their raw output stays in Ray's log files
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if signals.installed():  # a command; and so do the reports of the raylets, which Ray prints all the same
        worker.print_to_stdstream = _drop
    if address and address != "local":
        address = find_cluster(address, source)
        try:
            with signals.while_ray_starts():
                ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            raise unreachable(f"`{address}`", str(error).strip().splitlines()[0]) from error
        _started_here = False
        return False
    check_this_machine()
    try:
        with on_loopback(), signals.while_ray_starts():
            context = ray.init(
                address="local", num_cpus=max(os.cpu_count() or 1, cpus), include_dashboard=False, **quiet
            )
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise start_failed(error) from error
    sessions.own(context.address_info["session_dir"])
    _started_here = True
    return True


def started_here() -> bool:
    """Whether the Ray that this process is connected to runs on this machine alone, as this process started it."""
    return _started_here


def _drop(*data: Any, **options: Any) -> None:
    pass


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts here listen on 127.0.0.1 alone, as it does by itself on macOS and Windows.

    An address given to `ray.init` does not do it: Ray takes any loopback address for that of the machine.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
