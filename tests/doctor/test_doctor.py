"""The doctor on a real Ray: everything once, storage that does not do, and nodes that do not answer."""

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from raymtl.cli.main import run_command
from raymtl.config.load import load_config
from raymtl.doctor import run, storage
from raymtl.doctor.probe import Probe

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
    assert not (tmp_path / "runs").exists()


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
    assert (finding.status, finding.value) == ("warn", "not running")


class Method:
    """A method of an actor, called at once."""

    def __init__(self, method: Callable[..., Any]):
        self.remote = method


class OnDisk:
    """A probe on a node that has another disk than the checking machine, or the same one."""

    def __init__(self, asker: Path, disk: Path):
        self.storage = Method(lambda folder, node: storage.try_operations(folder.replace(str(asker), str(disk)), node))
        self.remove_trial_files = Method(
            lambda folder, node: storage.remove_trial_files(folder.replace(str(asker), str(disk)), node)
        )


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of `Method`s in place of Ray's references."""
    monkeypatch.setattr(run, "_collect", lambda answers, limit_s: (answers, {}))


def test_storage_from_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trial = storage.begin("runs")
    assert Path(trial.store.path).parent == tmp_path / "runs"  # nodes have another current folder
    good = storage.try_operations(trial.store.path, "a")
    assert storage.evaluate(good, "output", trial.store.path, "a").status == "ok"
    assert storage.nodes_not_seen(trial, ["a", "b"]) == ["b"]
    assert storage.remove_trial_files(trial.store.path, "a") is None
    assert [file.name for file in Path(trial.store.path).iterdir()] == [storage.CHECKER]
    storage.end(trial)
    assert list(tmp_path.iterdir()) == []


def test_disks_of_the_nodes_own_are_left_as_they_were(tmp_path: Path, at_once: None) -> None:
    asker, other = tmp_path / "asker", tmp_path / "other"
    for disk in (asker, other):
        disk.mkdir()
    probes = {node(name): OnDisk(asker, disk) for name, disk in (("a", asker), ("b", other))}
    found = {f.node: f for f in run._tried(probes, "output", str(asker / "runs" / "ctr"), 10)}
    assert {name: f.status for name, f in found.items()} == {"a": "ok", "b": "fail"}
    assert "all nodes share" in found["b"].remedy
    assert list(asker.iterdir()) == list(other.iterdir()) == []


def test_a_node_whose_files_are_not_seen_removes_them(tmp_path: Path, at_once: None) -> None:
    asker, other = tmp_path / "asker", tmp_path / "other"

    class Copied(OnDisk):
        """On a disk that gets what the checking machine writes, and gives nothing back."""

        def __init__(self) -> None:
            super().__init__(asker, other)
            look = self.storage.remote

            def copied(folder: str, name: str) -> dict[str, Any]:
                there = Path(folder.replace(str(asker), str(other)))
                there.mkdir(parents=True)
                (there / storage.CHECKER).write_bytes(b"here")
                found = look(folder, name)
                (there / storage.CHECKER).unlink()
                return found

            self.storage = Method(copied)

    (finding,) = run._tried({node("b"): Copied()}, "output", str(asker), 10)
    assert (finding.status, "does not see what the node wrote" in finding.value) == ("fail", True)
    assert [path.name for path in tmp_path.rglob("*")] == ["other"]


def test_folders_that_are_in_use_by_now_stay(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    trial = storage.begin(str(tmp_path / "before" / "runs" / "ctr"))
    (tmp_path / "before" / "runs" / "other").mkdir()
    storage.end(trial)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "before",
        "before/runs",
        "before/runs/other",
    ]
    storage.end(storage.begin(str(tmp_path / "before" / "runs" / "other")))
    assert (tmp_path / "before" / "runs" / "other").is_dir()


def test_storage_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").write_text("a file")
    (finding,) = run._tried({}, "output", str(tmp_path / "runs"), 10)
    assert (finding.status, "runs" in finding.value, "another output" in finding.remedy) == ("fail", True, True)

    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("raymtl.storage.folder.put", full)
    (finding,) = run._tried({}, "output", str(tmp_path / "new" / "runs"), 10)
    assert "No space left" in finding.value
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("step", ["begin", "nodes_not_seen", "end"])
def test_storage_that_hangs_for_the_asking_machine(
    step: str, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_on = threading.Event()
    monkeypatch.setattr(storage, step, lambda *args: gone_on.wait(20))
    found = run._tried({node("a"): OnDisk(tmp_path, tmp_path)}, "output", str(tmp_path), 0.3)
    gone_on.set()
    hangs = [f for f in found if f.status == "fail"]
    assert [f.value for f in hangs] == [f"{tmp_path}: no answer to this machine in 0.3 s"]
    assert f"remove {tmp_path}/.raymtl-doctor-* if it still exists" in hangs[0].remedy
    assert len(found) == (1 if step == "begin" else 2)


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


def test_an_endpoint_that_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymtl.doctor.probe._AGENT_STARTS_S", 0.0)
    assert "refused" in (Probe().endpoint("127.0.0.1", 1) or "")
