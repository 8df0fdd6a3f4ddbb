"""Searches whose driver is killed at random moments (docs/tuning.md).

    python -m tests.benchmarks.tuning.kills --kills 10

A Ray cluster stands all the while, so that what a dead driver leaves behind would stay. An undisturbed search comes first. The
disturbed ones begin anew until so many kills were dealt out; after each kill Ray's state API must show no living actor and no
placement group. In the end a disturbed search must have the trials of the undisturbed one, with the same draws and metrics, and
no trial that had a checkpoint may have begun at row 0 again.
"""

import argparse
import json
import logging
import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from raymtl.training.rundir import RunFolder
from raymtl.tuning.trial_store import TrialStore
from tests.helpers.tune_process import leaks, search_config, start

TUNE: dict[str, Any] = {
    "space": {"train.dense_optimizer.lr": {"log_uniform": [0.0005, 0.01]}},
    "presets": ["loss_weights", "alpha"],
    "sampler": {"type": "random"},
    "max_trials": 6,
    "max_concurrent": 2,
    "repeats": 1,
}


def facts(book: TrialStore) -> dict[int, Any]:
    """What must not depend on what was killed: draws, and the metrics of every trial that was trained to its end."""
    return {
        t.number: (t.kind, t.params, t.metrics["mean_auc"] if t.status == "finished" and t.metrics else None)
        for t in book.trials.values()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest-s", type=float, default=25, help="most seconds from a start to its kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    ray.init(address="local", num_cpus=8, include_dashboard=True, log_to_driver=False, logging_level=logging.ERROR)
    address = ray.get_runtime_context().gcs_address
    with tempfile.TemporaryDirectory(prefix="raymtl-kill-tune-") as scratch:
        root = Path(scratch)

        def folder(name: str) -> str:
            return str(root / "runs" / f"{name}-tune")

        arguments = ("--address", address)
        began = time.monotonic()
        config = search_config(root, "calm", TUNE, files=12, rows=1500)
        assert start(config, root / "calm.log", *arguments).wait() == 0, (root / "calm.log").read_text()
        calm = facts(TrialStore(RunFolder.open(folder("calm"))))
        print(json.dumps({"undisturbed_s": round(time.monotonic() - began, 1), "trials": len(calm)}), flush=True)
        kills = searches = 0
        moments: list[float] = []
        while kills < options.kills:
            name = f"killed{searches}"
            searches += 1
            config = search_config(root, name, TUNE, files=12, rows=1500)
            while True:
                process = start(config, root / f"{name}.log", *arguments)
                wait = dice.uniform(8, options.longest_s) if kills < options.kills else None
                try:
                    code = process.wait(wait)
                    assert code == 0, (code, (root / f"{name}.log").read_text()[-3000:])
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    kills += 1
                    moments.append(round(wait or 0, 1))
                    left = leaks(address)
                    assert not left, left
            book = TrialStore(RunFolder.open(folder(name)))
            same = facts(book) == calm
            again = [t.number for t in book.trials.values() if t.from_scratch > 1]
            answer = {
                "search": name,
                "same_trials_and_metrics": same,
                "starts": {t.number: t.starts for t in book.trials.values()},
                "from_scratch": {t.number: t.from_scratch for t in book.trials.values()},
                "began_again_after_a_checkpoint": again,
            }
            print(json.dumps(answer), flush=True)
            assert same, (facts(book), calm)
            assert not again
        print(json.dumps({"kills": kills, "searches": searches, "moments_s": moments, "leaks": leaks(address)}))


if __name__ == "__main__":
    main()
