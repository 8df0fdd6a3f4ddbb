"""What the checks conclude from what they see, and how it is shown."""

import resource
from typing import Any

import pytest
from rich.console import Console

from raymtl.doctor import clocks, machine, network, stack
from raymtl.doctor.finding import Finding, worst
from raymtl.doctor.view import lines, merge_findings, verdict

GIB = 2**30
HERE = {"raymtl": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"}
MACHINE = {
    "memory": [20 * GIB, 32 * GIB],
    "files": 65536,
    "disks": {"/tmp": [100 * GIB, 200 * GIB]},
    "shm": [16 * GIB, 16 * GIB],
    "logs": {"files": 3, "bytes": 100},
    "session": "/tmp/ray/session",
    "nice": [0, 0],
}


def seen(**changes: Any) -> dict[str, Any]:
    known = {"packages": HERE, "misfit": None, "driver": None, "cuda": None, "devices": [], "nccl": None}
    return {**known, "gpu_error": None, **changes}


GPU = {"driver": [12, 8], "cuda": "12.6", "devices": ["H100", "H100"], "nccl": "2.27.5"}


@pytest.mark.parametrize(
    ("found", "gpus", "status", "words"),
    [
        (seen(), 0, "ok", "torch 2.13.0, ray 2.60.0"),
        (seen(packages={**HERE, "ray": "2.59.0"}), 0, "fail", "ray 2.59.0 (here 2.60.0)"),
        (seen(packages={k: v for k, v in HERE.items() if k != "torch"}), 0, "fail", "torch missing (here 2.13.0)"),
        (seen(misfit="torch 2.13.0 and fbgemm do not fit; run `make setup`"), 0, "fail", "do not fit"),
        ({"died": "the process ended with -11: nothing"}, 0, "fail", "ended with -11"),
        (seen(**GPU), 2, "ok", "2 x H100, driver CUDA 12.8, torch CUDA 12.6, NCCL 2.27.5"),
        (seen(**GPU), 4, "fail", "torch finds 2 GPUs, Ray counts 4"),
        (seen(**GPU), 0, "warn", "torch finds 2 GPUs, Ray counts 0"),
        (seen(**GPU) | {"driver": [11, 4], "devices": []}, 2, "fail", "a driver for CUDA 11.4"),
        (seen(**GPU) | {"cuda": None, "devices": []}, 2, "fail", "a CPU build"),
        (seen(**GPU) | {"gpu_error": "no kernel image"}, 2, "fail", "no kernel image"),
    ],
)
def test_stack(found: dict[str, Any], gpus: float, status: str, words: str) -> None:
    findings = stack.evaluate(found, HERE, gpus, "a")
    assert worst(findings) == status
    assert any(words in f.value for f in findings if f.status == status)
    assert all(bool(f.remedy) == (f.status != "ok") for f in findings)


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({}, "memory", "ok"),
        ({"memory": [GIB, 32 * GIB]}, "memory", "warn"),
        ({"disks": {"/tmp": [GIB, 200 * GIB]}}, "temporary space", "fail"),
        ({"disks": {"/tmp": [9 * GIB, 20 * GIB]}}, "temporary space", "warn"),
        ({"shm": [GIB, GIB]}, "shared memory", "warn"),
        ({"files": 1024}, "open files", "warn"),
        ({"files": resource.RLIM_INFINITY}, "open files", "ok"),
        ({"nice": [15, 0]}, "priority", "warn"),
        ({"nice": [5, 5]}, "priority", "ok"),
        ({"logs": {"error": "/logs cannot be read: Permission denied"}}, "Ray's logs", "fail"),
    ],
)
def test_machine(changes: dict[str, Any], check: str, status: str) -> None:
    findings = {f.check: f for f in machine.evaluate({**MACHINE, **changes}, 8 * GIB, "a")}
    assert findings.pop(check).status == status
    assert worst(findings.values()) == "ok"


def test_clocks_are_as_far_off_as_is_certain() -> None:
    ahead, doubt = clocks.offset(100.0, 100.2, 103.1)
    assert (ahead, doubt) == (pytest.approx(3.0), pytest.approx(0.1))
    found = clocks.evaluate(
        {"a": (0.001, 0.002), "b": (-0.9, 0.5), "c": (3.0, 0.1), "d": (-45.0, 1.0), "e": (20.0, 19.5)}
    )
    assert [(f.status, f.node) for f in found] == [("warn", "c"), ("fail", "d"), ("ok", "3 nodes")]


def test_the_slowest_worker_counts() -> None:
    fast, slow = {"bytes_per_s": 1e9, "latency_s": 1e-4}, {"bytes_per_s": 5e7, "latency_s": 1e-4}
    assert network.evaluate([fast, fast], 2, "gloo").status == "ok"
    assert network.evaluate([fast, slow], 2, "gloo").status == "warn"
    assert "50 MB/s" in network.evaluate([fast, slow], 2, "gloo").value


def test_nodes_that_agree_are_one_line_and_the_worst_comes_first() -> None:
    findings = [Finding("machine", "memory", "ok", "much", node=f"n{n}") for n in range(9)]
    findings += [Finding("machine", "memory", "fail", "none", "add some", node="n9")]
    findings += [Finding("cluster", "metrics", "ok", f"port {n}", node=f"n{n}") for n in range(9)]
    found = merge_findings(findings)
    assert [(f.status, f.value, f.node) for f in found] == [
        ("fail", "none", "n9"),
        ("ok", "much", "9 nodes"),
        *(("ok", f"port {n}", f"n{n}") for n in range(3)),
        ("ok", "6 more like these", ""),
    ]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(lines(findings))
    text = console.export_text()
    assert "fail  memory" in text
    assert "→ add some" in text
    assert verdict(findings) == "1 failed; follow the lines that begin with →"
    assert verdict([f for f in findings if f.status == "ok"]) == "all checks passed"
