"""Finding or starting Ray, and whether it has room for the workers."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private import ray_constants

from raymtl.config.root import Config
from raymtl.errors import ClusterError

_GIVEN_BACK_S = 20.0
_started_here = True
"""Whether the Ray that this process is connected to is its own; one that somebody else initialised here counts as such."""


@dataclass(frozen=True)
class Room:
    """What a run takes of the cluster."""

    read_tasks: int
    threads: int


def connect(config: Config, address: str | None, cpus: int = 0) -> bool:
    """Join the cluster at `address` (or of the job that runs this); without either, start Ray on this machine alone, with at
    least `cpus` logical CPUs.

    True: Ray was started here, so there is nobody who could add nodes.
    """
    global _started_here
    if ray.is_initialized():
        return _started_here
    address = address or os.environ.get("RAY_ADDRESS")
    # What the workers have to say comes through the mailbox (`runlog.py`); their raw output stays in Ray's log files
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address and address != "local":
            _check_reachable(address)
            ray.init(address=address, **quiet)
            _started_here = False
            return False
        cores = os.cpu_count() or 1
        # Logical CPUs: the workers' and one for each reader, even where they share the cores of a small machine
        need = config.train.workers * config.train.cpus_per_worker + (config.data.read_tasks or 1)
        with on_loopback():
            ray.init(address="local", num_cpus=max(cores, need, cpus), include_dashboard=False, **quiet)
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


def check_room(config: Config, local: bool) -> Room:
    """What the run may take, once the cluster has room for the workers and one reader.

    On a cluster, where nodes may still join, it waits for `train.start_timeout_s`; on this machine alone only for what an earlier
    run has not given back yet. Raises ClusterError that says what is asked for, what there is and what is free.
    """
    train = config.train
    need = {"CPU": train.workers * train.cpus_per_worker + 1, "GPU": train.workers if train.use_gpu else 0}
    began = time.monotonic()
    while True:
        total, free = ray.cluster_resources(), ray.available_resources()
        enough = all(total.get(kind, 0) >= count for kind, count in need.items())
        patience = (_GIVEN_BACK_S if enough else 0) if local else train.start_timeout_s
        if all(free.get(kind, 0) >= count for kind, count in need.items()):
            break
        if time.monotonic() - began >= patience:
            raise ClusterError(
                f"train.workers = {train.workers} need {need['CPU']} CPUs (one of them for reading)"
                + (f" and {need['GPU']} GPUs" if need["GPU"] else "")
                + f"; the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs, free are "
                f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g}"
                + ("" if local else f" (waited {train.start_timeout_s:g} s)")
                + "; lower train.workers or train.cpus_per_worker, or add nodes"
            )
        time.sleep(0.5)
    return Room(reading_tasks(config, train.workers), train.threads_per_worker or _threads(train.workers))


def reading_tasks(config: Config, workers: int) -> int:
    """Reading tasks at a time: what the configuration says, or half of the CPUs that `workers` leave free, at least one."""
    spare = ray.cluster_resources().get("CPU", 0) - workers * config.train.cpus_per_worker
    return config.data.read_tasks or max(1, int(spare // 2))


def _threads(workers: int) -> int:
    """Cores of a node over its share of the workers."""
    nodes = [n for n in ray.nodes() if n["Alive"]]
    cores = os.cpu_count() or 1
    per_node = -(-workers // max(1, len(nodes)))
    return max(1, cores // per_node)
