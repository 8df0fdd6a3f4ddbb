"""The installed stack of a node: versions, whether they fit together, and whether they find the GPUs.

A separate process (`python -m raymtl.doctor.stack`) inspects it: a library that does not fit can end the process that loads it,
and Ray hides the GPUs from a task that did not request one.
"""

import ctypes
import json
import os
import subprocess
import sys
from typing import Any

from raymtl.dependencies import StackError, check_stack, package_versions
from raymtl.doctor.finding import Finding

SHOWN = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "ray", "pyarrow")


def look(limit_s: float) -> dict[str, Any]:
    """The output of `python -m raymtl.doctor.stack` on this node; `{"died": ...}` if it fails."""
    hidden = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "raymtl.doctor.stack"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return {"died": f"loading torch, TorchRec and fbgemm took more than {limit_s:.0f} s"}
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        said = (ended.stderr.strip() or "nothing").splitlines()[-1]
        return {"died": f"the process that loads torch, TorchRec and fbgemm ended with {ended.returncode}: {said}"}
    return json.loads(lines[-1])


def evaluate(found: dict[str, Any], here: dict[str, str], ray_gpus: float, node: str) -> list[Finding]:
    """Findings of one node; `here`: the packages of the checking machine, `ray_gpus`: the node's GPUs according to Ray."""
    if "died" in found:
        return [Finding("stack", "versions", "fail", found["died"], "install the lock again: `make setup`", node)]
    packages: dict[str, str] = found["packages"]
    text = ", ".join(f"{name} {packages[name]}" for name in SHOWN if name in packages)
    if found["misfit"]:
        sentence, _, remedy = found["misfit"].rpartition("; ")
        findings = [Finding("stack", "versions", "fail", sentence or remedy, remedy, node)]
    elif other := [name for name in sorted({*packages, *here}) if packages.get(name) != here.get(name)]:
        differing = ", ".join(f"{n} {packages.get(n, 'missing')} (here {here.get(n, 'missing')})" for n in other)
        remedy = "use one image, or one lock, on every node"
        findings = [Finding("stack", "versions", "fail", differing, remedy, node)]
    else:
        findings = [Finding("stack", "versions", "ok", text, node=node)]
    return [*findings, *_check_gpus(found, ray_gpus, node)]


def _check_gpus(found: dict[str, Any], ray_gpus: float, node: str) -> list[Finding]:
    cuda, driver, devices = found["cuda"], found["driver"], found["devices"]
    if found["misfit"] or (not ray_gpus and driver is None and not devices):
        return []

    def finding(status: Any, value: str, remedy: str = "") -> Finding:
        return Finding("stack", "GPUs", status, value, remedy, node)

    seen = f"torch finds {len(devices)} GPUs, Ray counts {ray_gpus:g}"
    if cuda is None:
        status = "fail" if ray_gpus else "warn"
        return [finding(status, "torch is a CPU build, but the node has a GPU", "install with `make setup LOCK=gpu`")]
    if driver is None or driver[0] < int(cuda.split(".")[0]):
        has = "no driver" if driver is None else f"a driver for CUDA {driver[0]}.{driver[1]}"
        return [
            finding(
                "fail",
                f"torch needs CUDA {cuda}, the node has {has}",
                "install a newer driver, or a torch build for it",
            )
        ]
    if len(devices) < ray_gpus:
        return [finding("fail", seen, f"start Ray on the node with --num-gpus {len(devices)}, or repair the driver")]
    if found["gpu_error"]:
        return [finding("fail", f"fbgemm fails on the GPU: {found['gpu_error']}", "install with `make setup LOCK=gpu`")]
    if len(devices) > ray_gpus:
        return [finding("warn", seen, "start Ray on the node with --num-gpus to use them all")]
    value = (
        f"{len(devices)} x {devices[0]}, driver CUDA {driver[0]}.{driver[1]}, torch CUDA {cuda}, NCCL {found['nccl']}"
    )
    return [finding("ok", value)]


def _driver() -> list[int] | None:
    """The newest CUDA that the installed driver supports, [major, minor], or None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return [version.value // 1000, version.value % 1000 // 10]


def _facts() -> dict[str, Any]:
    found: dict[str, Any] = {"packages": package_versions(), "misfit": None, "driver": _driver(), "gpu_error": None}
    found |= {"cuda": None, "devices": [], "nccl": None}
    try:
        check_stack()
        import fbgemm_gpu  # noqa: F401  registers the operators
        import torch

        torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))
    except (StackError, ImportError, OSError, RuntimeError, AttributeError) as error:
        found["misfit"] = str(error)
        return found
    found["cuda"] = torch.version.cuda
    if torch.cuda.is_available():
        found["devices"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        try:
            torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2], device="cuda")).cpu()
        except RuntimeError as error:
            found["gpu_error"] = str(error).splitlines()[0]
    return found


if __name__ == "__main__":
    print(json.dumps(_facts()))
