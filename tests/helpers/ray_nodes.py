"""A Ray cluster of several nodes on this machine, whose nodes can be killed and joined by others while a job runs."""

import contextlib
import os
import signal
import time
from typing import Any

import psutil
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from raymtl.training.cluster import on_loopback

_SYSTEM = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}


ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What a process needs that joins it: its nodes listen on 127.0.0.1 alone."""


class Nodes:
    """The head and what joined it; `address` is for `raymtl … --address`."""

    def __init__(self, head_cpus: int, dashboard_port: int | None = None):
        head: dict[str, Any] = {"num_cpus": head_cpus, "_system_config": _SYSTEM}
        if dashboard_port is not None:
            head |= {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": dashboard_port}
        with on_loopback():
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        self.head = self._cluster.head_node

    def add(self, cpus: int, **arguments: Any) -> Any:
        """Start a node and wait until it has joined."""
        with on_loopback():
            return self._cluster.add_node(num_cpus=cpus, **arguments)

    @staticmethod
    def kill(node: Any) -> None:
        """SIGKILL the node's raylet: its workers die with it, without notice."""
        os.kill(raylet(node).pid, signal.SIGKILL)
        # Until its parent, this process, has asked for its end it counts as alive, and the workers wait for it
        node.all_processes["raylet"][0].process.wait()

    def announce(self, node: Any, seconds: float) -> None:
        """Tell Ray that the node is taken away then, as a cloud does of a spot machine."""
        deadline = int((time.time() + seconds) * 1000)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = GcsClient(address=self.address).drain_node(node.node_id, reason, "a spot machine", deadline)
        assert accepted, why

    def close(self) -> None:
        with contextlib.suppress(Exception):  # nodes that were killed are gone already
            self._cluster.shutdown()


def raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def workers_on(node: Any) -> list[psutil.Process]:
    """The training workers that run on a node."""
    found = []
    for process in raylet(node).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::RayTrainW") or "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found
