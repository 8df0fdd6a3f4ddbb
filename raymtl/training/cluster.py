"""Finding or starting Ray."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

from raymtl import signals
from raymtl.config.root import Config
from raymtl.errors import ClusterError
from raymtl.telemetry import logs

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
    address = address or os.environ.get("RAY_ADDRESS")
    # What the workers have to say comes through the mailbox (`runlog.py`); their raw output stays in Ray's log files
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address and address != "local":
            _check_reachable(address)
            with signals.while_ray_starts():
                ray.init(address=address, **quiet)
            _started_here = False
            return False
        with on_loopback(), signals.while_ray_starts():
            ray.init(address="local", num_cpus=max(os.cpu_count() or 1, cpus), include_dashboard=False, **quiet)
        _started_here = True
        return True
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"cannot reach a Ray cluster at `{address or 'local'}`: {str(error).splitlines()[0]}; check the address, or leave "
            f"it out to run on this machine"
        ) from error


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


def _check_reachable(address: str) -> None:
    """Raise OSError within seconds where nobody listens at a `host:port`; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
