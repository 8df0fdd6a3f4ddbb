"""What `raymtl train` needs beside its steps: from the command to the first step, and from the last one to the prompt.

python -m tests.benchmarks.training.start --source DIR_WITH_THE_CENSUS_FILES [--checkouts OLD,NEW] [--rounds 3] [--workers 2]

Each round runs the command as a process once for every checkout, one after the other; prints the seconds of every run and their
medians. `lines` are the seconds at which a line of the command appeared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raymtl.data.convert.registry import convert
from tests.benchmarks.training.census import MODELS

LINES = ("starting Ray", "training with")


def timed(checkout: Path, folder: Path, name: str, config: str, workers: int) -> dict[str, float]:
    """Seconds of one run of the command."""
    sets = [
        *MODELS["mmoe"],
        f"name={name}",
        f"output={folder}",
        f"train.workers={workers}",
        "train.epochs=1",
        "train.log_every_steps=1",
    ]
    command = [sys.executable, "-m", "raymtl", "train", "-c", config, *(a for s in sets for a in ("--set", s))]
    seconds: dict[str, float] = {}
    began = time.time()
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    # In another folder than this checkout, whose code Python would take first
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=folder.parent) as process:
        assert process.stdout is not None
        for line in process.stdout:
            for start in LINES:
                if start in line:
                    seconds.setdefault(f"{start} …", time.time() - began)
    ended = time.time()
    assert process.returncode == 0, f"exit code {process.returncode}"
    records = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (record["time"] for record in records if record["kind"] == "train")
    written = (folder / name / "result.json").stat().st_mtime
    return seconds | {
        "first step": first - began,
        "last step to result": written - last,
        "result to prompt": ended - written,
        "all": ended - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder with the census files")
    parser.add_argument("--checkouts", default=".", help="roots of checkouts, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = convert("census", options.source, folder)
        for turn in range(options.rounds):
            for number, checkout in enumerate(options.checkouts.split(",")):
                run = timed(
                    Path(checkout).resolve(), Path(folder, "runs"), f"run-{number}-{turn}", config, options.workers
                )
                found.setdefault(checkout, []).append(run)
                print(json.dumps({checkout: {key: round(value, 1) for key, value in run.items()}}), flush=True)
    for checkout, runs in found.items():
        medians = {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
        print(json.dumps({f"median of {checkout}": medians}))


if __name__ == "__main__":
    main()
