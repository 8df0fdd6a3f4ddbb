"""The Ray that a command starts for itself."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray._private import ray_constants

from raymtl.config.load import load_config
from raymtl.training import cluster

CONFIG = load_config(str(Path(__file__).parents[2] / "jobs" / "conf" / "example.yaml"))


@pytest.mark.ray
def test_a_ray_of_ones_own_listens_on_loopback_alone(ray_cluster: None) -> None:
    me = psutil.Process()
    found = set()
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a worker of an earlier test that ends
            name, connections = process.name(), process.net_connections("inet")
            if "RayTrainWorker" not in name:  # PyTorch's store, as long as a training runs
                found |= {(name, one.laddr.ip) for one in connections if one.status == psutil.CONN_LISTEN}
    assert {name for name, _ in found} >= {"gcs_server", "raylet"}
    assert {ip for _, ip in found} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.mark.parametrize(("address", "everywhere"), [(None, False), ("local", False), ("head:6379", True)])
def test_only_a_ray_of_ones_own_is_kept_on_loopback(
    monkeypatch: pytest.MonkeyPatch, address: str | None, everywhere: bool
) -> None:
    seen: list[tuple[str, bool]] = []

    def init(address: str, **options: Any) -> SimpleNamespace:
        seen.append((address, ray_constants.ENABLE_RAY_CLUSTER))
        return SimpleNamespace(address_info={"session_dir": "/nowhere"})

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_started_here", True)
    monkeypatch.setattr(cluster, "find_cluster", lambda address, source: address)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    assert cluster.connect(CONFIG, address) is not everywhere
    assert seen == [(address or "local", everywhere)]
    assert ray_constants.ENABLE_RAY_CLUSTER  # of whatever this process starts later


_OWN = """
import json, os, time
from pathlib import Path
import psutil, ray
import pyarrow as pa
from raymtl.data.scan import scan
from raymtl.training.cluster import join

def said(what):
    print(json.dumps(what), flush=True)

join("local", 2)
logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
assert "Disabled stats" in (logs / "raylet.out").read_text()
assert sum(map(len, scan("Range", [lambda: [pa.table({"id": range(5)})]] * 2, 40, 2, {}, in_order=True))) == 10
assert ray.data.range(10).repartition(2).sum("id") == 45
actors = [actor["ActorClassName"] for actor in ray._private.state.actors().values()]
said([actors, [word for process in psutil.Process().children(recursive=True) for word in process.cmdline()]])

nice = ray.remote(num_cpus=0)(lambda: os.getpriority(os.PRIO_PROCESS, 0))
said([os.getpriority(os.PRIO_PROCESS, 0), ray.get(nice.remote())])

@ray.remote(num_cpus=0)
class Owner:
    def make(self):
        return [ray.remote(num_cpus=0)(lambda: bytes(50_000)).remote()]

    def held(self):
        return ray._private.worker.global_worker.core_worker.get_local_memory_store_bytes_used()

owner = Owner.remote()
for _ in range(5):
    assert len(ray.get(ray.get(owner.make.remote())[0])) == 50_000
time.sleep(0.5)
said(ray.get(owner.held.remote()))

def busy(cpus):
    group = ray.util.placement_group([{"CPU": cpus}])
    assert group.wait(10)
    return group

least = int(ray.cluster_resources()["CPU"])
join("local", least + 1)
more = [ray.cluster_resources()["CPU"] - least]
ray.util.remove_placement_group(busy(least + 1))
for need in (least, least + 2):
    join("local", need)
    more.append(ray.cluster_resources()["CPU"] - least)
    ray.get(ray.remote(num_cpus=1)(lambda: None).remote())
said(more)
"""


@pytest.fixture(scope="module")
def own() -> list[Any]:
    """What a process with a Ray of its own says of it: its actors and processes, priorities, the bytes that an owner of small
    blocks holds, and the CPUs that runs add which need more or fewer."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_worker_niceness"}
    done = subprocess.run(
        [sys.executable, "-c", _OWN], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.ray
def test_a_ray_of_ones_own_leaves_out_the_processes_that_a_run_does_not_need(own: list[Any]) -> None:
    actors, words = own[0]
    assert actors == []
    found = {Path(word).name for word in words if "=" not in word}
    assert "raylet" in found
    assert not found & {"monitor.py", "log_monitor.py", "dashboard.py"}


@pytest.mark.ray
def test_workers_have_the_priority_of_the_command(own: list[Any]) -> None:
    command, worker = own[1]
    assert worker == command


@pytest.mark.ray
def test_no_process_keeps_the_small_blocks_that_another_has_read(own: list[Any]) -> None:
    assert own[2] < 50_000


@pytest.mark.ray
def test_a_larger_run_of_the_same_process_gets_a_larger_ray(own: list[Any]) -> None:
    assert own[3] == [1, 1, 2]


_PRIORITIES = """
import os, ray
from raymtl.training.cluster import join
join("local", 1)
nice = ray.remote(num_cpus=0)(lambda: os.getpriority(os.PRIO_PROCESS, 0))
print(os.getpriority(os.PRIO_PROCESS, 0), ray.get(nice.remote()))
"""


@pytest.mark.ray
def test_workers_have_the_priority_that_the_environment_sets() -> None:
    environment = os.environ | {"RAY_worker_niceness": "7"}
    done = subprocess.run(
        [sys.executable, "-c", _PRIORITIES], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    command, worker = map(int, done.stdout.split())
    assert worker == min(command + 7, 19)  # the lowest priority


@pytest.mark.ray
def test_a_ray_of_other_code_is_left_as_it_is(ray_cluster: None) -> None:
    own = int(ray.cluster_resources()["CPU"])
    assert cluster.join(None, own + 1)
    assert ray.cluster_resources()["CPU"] == own
