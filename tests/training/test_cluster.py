"""The Ray that a command starts for itself."""

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


_PROCESSES = """
from pathlib import Path
import psutil, ray
import pyarrow as pa
from raymtl.data.scan import scan
from raymtl.training.cluster import join
join("local", 2)
logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
assert "Disabled stats" in (logs / "raylet.out").read_text()
assert sum(map(len, scan("Range", [lambda: [pa.table({"id": range(5)})]] * 2, 40, 2, {}, in_order=True))) == 10
assert ray.data.range(10).repartition(2).sum("id") == 45
print(*(actor["ActorClassName"] for actor in ray._private.state.actors().values()))
print(*(word for process in psutil.Process().children(recursive=True) for word in process.cmdline()), sep="\\n")
"""


@pytest.mark.ray
def test_a_ray_of_ones_own_leaves_out_the_processes_that_a_run_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", _PROCESSES], capture_output=True, text=True, timeout=120, check=True)
    actors, *words = done.stdout.splitlines()
    assert actors.split() == []
    found = {Path(word).name for word in words if "=" not in word}
    assert "raylet" in found
    assert not found & {"monitor.py", "log_monitor.py", "dashboard.py"}


_BORROWED = """
import time, ray
from raymtl.training.cluster import join
join("local", 2)

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
print(ray.get(owner.held.remote()))
"""


@pytest.mark.ray
def test_no_process_keeps_the_small_blocks_that_another_has_read() -> None:
    done = subprocess.run([sys.executable, "-c", _BORROWED], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 50_000


_PRIORITIES = """
import os, ray
from raymtl.training.cluster import join
join("local", 1)
nice = ray.remote(num_cpus=0)(lambda: os.getpriority(os.PRIO_PROCESS, 0))
print(os.getpriority(os.PRIO_PROCESS, 0), ray.get(nice.remote()))
"""


_RUNS = """
import os, ray
from raymtl.training.cluster import join

def busy(cpus):
    group = ray.util.placement_group([{"CPU": cpus}])
    assert group.wait(10)
    return group

least = os.cpu_count()
join("local", least + 1)
more = [ray.cluster_resources()["CPU"] - least]
ray.util.remove_placement_group(busy(least + 1))
for need in (least, least + 2):
    join("local", need)
    more.append(ray.cluster_resources()["CPU"] - least)
    ray.get(ray.remote(num_cpus=1)(lambda: None).remote())
print(*map(int, more))
"""


@pytest.mark.ray
def test_a_larger_run_of_the_same_process_gets_a_larger_ray() -> None:
    done = subprocess.run([sys.executable, "-c", _RUNS], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["1", "1", "2"]


@pytest.mark.ray
def test_a_ray_of_other_code_is_left_as_it_is(ray_cluster: None) -> None:
    own = int(ray.cluster_resources()["CPU"])
    assert cluster.join(None, own + 1)
    assert ray.cluster_resources()["CPU"] == own


@pytest.mark.ray
@pytest.mark.parametrize(("set_to", "lower_by"), [(None, 0), ("7", 7)])
def test_workers_have_the_priority_of_the_command(set_to: str | None, lower_by: int) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_worker_niceness"}
    if set_to is not None:
        environment["RAY_worker_niceness"] = set_to
    done = subprocess.run(
        [sys.executable, "-c", _PRIORITIES], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    own, worker = map(int, done.stdout.split())
    assert worker == min(own + lower_by, 19)  # the lowest priority
