"""The doctor on a real Ray: everything once, storage that does not do, and nodes that do not answer."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import ray

from raymtl.cli import run_command
from raymtl.config.load import load_config
from raymtl.doctor import run, storage
from raymtl.doctor.probe import Probe
from raymtl.errors import StorageError

CONFIG = """
data: {{path: {root}/logs, train: {{start: 2026-01-01, end: 2026-01-01}}}}
features: {{user: {{kind: id}}}}
tables: {{user: {{rows: 100}}}}
tasks: {{click: {{}}}}
model: {{preset: shared_bottom}}
train: {{workers: 99, batch_size: 9900}}
output: {root}/runs
"""


def node(name: str, gpus: float = 0) -> run.Node:
    return run.Node(name, "0" * 56, "127.0.0.1", 0, gpus, 1, 0)


@pytest.mark.ray
def test_everything_once(ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    config = tmp_path / "conf.yaml"
    config.write_text(CONFIG.format(root=tmp_path))
    assert run_command(["doctor", "--config", str(config), "--json"]) == 69
    printed = capfd.readouterr().out.splitlines()
    found = json.loads(printed[-1])
    assert found["status"] == "fail"
    statuses = {f["check"]: f["status"] for f in found["findings"]}
    assert [check for check, status in statuses.items() if status == "fail"] == ["room"]
    assert {"versions", "memory", "temporary space", "nodes", "clock", "data.path", "output", "all-to-all"} <= set(
        statuses
    )
    assert any("fail  room" in line and "99" in line for line in printed)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.ray
def test_who_does_not_answer_is_a_line_that_says_so(ray_cluster: None) -> None:
    lost = node("a")

    @ray.remote(num_cpus=0)
    def asleep() -> None:
        threading.Event().wait(30)

    hanging = asleep.remote()
    _, missing = run._collect({lost: hanging}, 0.2)
    ray.cancel(hanging, force=True)
    assert missing == {lost: "no answer in 0.2 s"}
    with run._probes([lost]) as probes:  # Ray knows no such node
        offsets, findings = run._clocks(probes, 10)
    assert offsets == {}
    assert [(f.status, f.node) for f in findings] == [("fail", "a")]
    assert run._collect({}, 1) == ({}, {})


@pytest.mark.ray
def test_a_cluster_without_a_dashboard(ray_cluster: None) -> None:
    nodes, _ = run._nodes()
    with run._probes(nodes) as probes:
        (finding,) = run._dashboard(probes, 20)
    assert (finding.status, finding.value) == ("warn", "there is none")


def test_storage_from_a_node(tmp_path: Path) -> None:
    folder = storage.begin(str(tmp_path / "runs"))
    good = storage.look(folder, "a")
    assert storage.judge(good, "output", folder, "a").status == "ok"
    assert storage.unseen(folder, ["a", "b"]) == ["b"]
    (Path(folder) / storage.ASKER).unlink()  # as on a disk of the node's own
    finding = storage.judge(storage.look(folder, "b"), "output", folder, "b")
    assert (finding.status, "all nodes share" in finding.remedy) == ("fail", True)
    storage.end(folder)
    assert list((tmp_path / "runs").iterdir()) == []


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError, match="runs"):
        storage.begin(str(tmp_path / "runs"))


def test_nccl_between_the_nodes_with_a_gpu_and_gloo_between_all() -> None:
    head, a, b, c = node("head"), node("a", gpus=1), node("b", gpus=8), node("c", gpus=1)
    assert run._exchanges([head, a, b]) == [("nccl", [a, b]), ("gloo", [head, a, b])]
    assert run._exchanges([head, b]) == [("nccl", [b, b]), ("gloo", [head, b])]
    assert run._exchanges([b]) == [("nccl", [b, b]), ("gloo", [b, b])]
    assert run._exchanges([head, a]) == [("gloo", [head, a])]
    assert run._exchanges([c]) == [("gloo", [c, c])]
    assert run._exchanges([]) == []
    many = [node(str(n), gpus=n % 2) for n in range(40)]
    assert [(backend, len(chosen)) for backend, chosen in run._exchanges(many)] == [("nccl", 8), ("gloo", 8)]


def test_ray_starts_here_as_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def no_ray(**options: Any) -> None:
        asked.update(options)
        raise RuntimeError("not now")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", no_ray)
    monkeypatch.setattr("raymtl.doctor.stack.look", lambda limit_s: {"died": "not looked at"})
    config = tmp_path / "conf.yaml"
    config.write_text(CONFIG.format(root=tmp_path))
    found = run.examine(load_config(str(config)), None, lambda text: None)
    assert [f.check for f in found] == ["versions", "Ray"]
    assert asked["num_cpus"] == 99 + 1  # and a reader


def test_an_endpoint_that_nobody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymtl.doctor.probe._AGENT_STARTS_S", 0.0)
    assert "refused" in (Probe().endpoint("127.0.0.1", 1) or "")
