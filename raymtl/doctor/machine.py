"""Checks of a node's machine: memory, disk space, shared memory, open files, and Ray's own folders."""

import os
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

from raymtl.doctor.finding import Finding, Status
from raymtl.words import count_of

_GIB = 2**30
_RAY_STOPS_AT = 0.95  # Ray writes nothing to a disk that is fuller (RAY_local_fs_capacity_threshold)
_FEW_FREE_BYTES = 10 * _GIB
_FEW_FILES = 8192
_LITTLE_MEMORY_BYTES = 2 * _GIB


def look(session_folder: str) -> dict[str, Any]:
    """Facts of this node, bytes and counts; `session_folder` is Ray's own on this node."""
    memory = dict(_meminfo())
    return {
        "memory": [memory["MemAvailable"], memory["MemTotal"]],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "disks": {folder: _usage(folder) for folder in _on_own_disks(tempfile.gettempdir(), session_folder)},
        "shm": _usage("/dev/shm"),
        "logs": _logs(Path(session_folder, "logs")),
        "session": session_folder,
        "nice": [os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, os.getppid())],  # of a worker, and of its raylet
    }


def evaluate(found: dict[str, Any], object_store_bytes: float, node: str) -> list[Finding]:
    """Findings of one node; `object_store_bytes` is what Ray gave its object store there."""

    def finding(check: str, status: Status, value: str, remedy: str = "") -> Finding:
        return Finding("machine", check, status, value, remedy if status != "ok" else "", node)

    available, total = found["memory"]
    findings = [
        finding(
            "memory",
            "warn" if available < _LITTLE_MEMORY_BYTES else "ok",
            f"{_gib(available)} of {_gib(total)} free",
            "end other processes there; a worker needs about 1 GiB besides its tables",
        )
    ]
    for folder, (free, size) in found["disks"].items():
        full = size > 0 and 1 - free / size > _RAY_STOPS_AT
        findings.append(
            finding(
                "temporary space",
                "fail" if full else "warn" if free < _FEW_FREE_BYTES else "ok",
                f"{_gib(free)} of {_gib(size)} free in {folder}",
                f"free space: Ray stops at {_RAY_STOPS_AT:.0%} full, and checkpoints are written there before they are copied",
            )
        )
    shm_free, shm_size = found["shm"]
    findings.append(
        finding(
            "shared memory",
            "warn" if shm_size < object_store_bytes else "ok",
            f"/dev/shm {_gib(shm_size)}, {_gib(shm_free)} free; object store {_gib(object_store_bytes)}",
            "give the container a larger /dev/shm (`--shm-size`, or an emptyDir of medium Memory): Ray spills the rest to disk",
        )
    )
    files = found["files"]
    unlimited = files == resource.RLIM_INFINITY
    findings.append(
        finding(
            "open files",
            "ok" if unlimited or files >= _FEW_FILES else "warn",
            "unlimited" if unlimited else f"{files:,}",
            f"raise `ulimit -n` to {_FEW_FILES:,} or more before `ray start`",
        )
    )
    worker, raylet = found["nice"]
    findings.append(
        finding(
            "priority",
            "warn" if worker > raylet else "ok",
            f"workers run at nice {worker}, Ray itself at {raylet}",
            "start Ray there with RAY_worker_niceness=0 in its environment: now everything else on the node goes first",
        )
    )
    logs = found["logs"]
    findings.append(
        finding(
            "Ray's logs",
            "fail" if "error" in logs else "ok",
            logs.get("error")
            or f"{count_of(logs['files'], 'file')}, {logs['bytes'] / 2**20:.0f} MiB in {found['session']}/logs",
            "give the workers' user read access to that folder, or start Ray with another --temp-dir",
        )
    )
    return findings


def _meminfo() -> list[tuple[str, int]]:
    with open("/proc/meminfo") as lines:
        parts = [line.split() for line in lines]
    return [(name.rstrip(":"), int(value) * 1024) for name, value, *_ in parts]


def _on_own_disks(*folders: str) -> list[str]:
    """The first folder on each file system."""
    return list({os.stat(folder).st_dev: folder for folder in reversed(folders)}.values())


def _usage(folder: str) -> list[int]:
    """[free, size] of the file system of a folder, in bytes; zeros if the folder does not exist."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return [0, 0]
    return [usage.free, usage.total]


def _logs(folder: Path) -> dict[str, Any]:
    """Files and bytes in Ray's log folder, after reading one of its files."""
    try:
        files = [entry for entry in os.scandir(folder) if entry.is_file()]
        for entry in files[:1]:
            with open(entry.path, "rb") as stream:
                stream.read(1)
        return {"files": len(files), "bytes": sum(entry.stat().st_size for entry in files)}
    except OSError as error:
        return {"error": f"{folder} cannot be read: {error.strerror or error}"}


def _gib(count: float) -> str:
    return f"{count / _GIB:,.1f} GiB"
