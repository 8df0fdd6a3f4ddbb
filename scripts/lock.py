"""Write requirements/cpu.txt and requirements/gpu.txt: every package that raymtl and its tests need, pinned.

Run it as `make lock`, with Python 3.11, the oldest that raymtl supports: what only the oldest needs belongs in the
locks, and does no harm on a newer one.

pip resolves `requirements/stack.in` and the requirements of `pyproject.toml` (with the `dev` extra) once, without
installing anything, for the CUDA build of torch. From that answer:

* `gpu.txt` takes everything;
* `cpu.txt` leaves out the CUDA libraries, and takes `fbgemm-gpu-cpu` in place of `fbgemm-gpu`.

These two both unpack into the folder `fbgemm_gpu`, and torchrec asks for the CUDA build by name: that is why the locks
are installed with `--no-deps` (see the Makefile).

pip's configuration files and `PIP_FIND_LINKS` are ignored here, since a folder of wheels on this machine may hold a CPU
build of torch, which does not name the CUDA libraries. Set `PIP_INDEX_URL` to use a mirror.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
STACK = FOLDER / "stack.in"
CUDA = re.compile(r"^(nvidia-.*|cuda-.*|triton)$")
HEADER = """\
# {title}
# Written by scripts/lock.py (`make lock`) from pyproject.toml and requirements/stack.in: do not edit.
# Install with --no-deps, as `make setup` does: torchrec asks for fbgemm-gpu, whose folder fbgemm-gpu-cpu shares.
"""


def main() -> None:
    """Resolve once and write both locks."""
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"lock.py needs Python 3.11, the oldest that raymtl supports; this is {sys.version.split()[0]}")
    pins = resolve(requirements())
    if "nvidia-cublas" not in pins:
        sys.exit(f"the index has a torch ({pins['torch']}) that names no CUDA libraries; set PIP_INDEX_URL to another")
    cpu = {name: version for name, version in pins.items() if not CUDA.match(name)}
    cpu["fbgemm-gpu-cpu"] = cpu.pop("fbgemm-gpu")
    write(
        "cpu.txt",
        cpu,
        "For machines without a GPU (Linux): fbgemm's CPU build, and whichever build of torch the index has.",
    )
    write(
        "gpu.txt",
        pins,
        "For machines with a GPU (Linux, x86-64): the CUDA builds, and the CUDA libraries that torch declares.",
    )


def requirements() -> list[str]:
    """What raymtl declares, with the `dev` extra and what builds it (`make setup` builds without isolation)."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = declared["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"], *declared["build-system"]["requires"]]


def resolve(wanted: list[str]) -> dict[str, str]:
    """Ask pip which versions it would install into an empty environment: canonical name to version."""
    env = {k: v for k, v in os.environ.items() if k != "PIP_FIND_LINKS"} | {"PIP_CONFIG_FILE": os.devnull}
    with tempfile.TemporaryDirectory() as folder:
        # A pip of its own, since older ones download every wheel (3 GB) even for a dry run.
        python, report = Path(folder, "venv/bin/python"), Path(folder, "report.json")
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--upgrade", "pip"], check=True, env=env)
        dry = ["-q", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
        subprocess.run([python, "-m", "pip", "install", *dry, "-c", STACK, *wanted], check=True, env=env)
        packages = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {re.sub(r"[-_.]+", "-", p["name"]).lower(): p["version"] for p in packages}


def write(name: str, pins: dict[str, str], title: str) -> None:
    """Write one lock, sorted by name; the public version only, so that any build of a version fits the pin."""
    lines = [f"{package}=={version.split('+')[0]}\n" for package, version in sorted(pins.items())]
    (FOLDER / name).write_text(HEADER.format(title=title) + "".join(lines))
    print(f"requirements/{name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
