"""What a search costs beside the training of its trials: 24 trials on census, two at a time (docs/tuning.md).

    python -m tests.benchmarks.tuning.overhead --source DIR_WITH_THE_CENSUS_FILES [--trials 24]

Pure training is the sum over the trials of their training steps and evaluations, measured in the trials; the start-up is what
comes before the first trial trains: Ray, the rows that all share, the first process. The ratio is (wall - start-up) / (pure / 2).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from raymtl.config.load import load_config
from raymtl.data.convert.registry import convert
from raymtl.training.rundir import RunFolder
from raymtl.tuning.run import tune
from raymtl.tuning.trial_store import TrialStore

AT_A_TIME = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymtl-bench-tune-") as scratch:
        path = convert("census", options.source, str(Path(scratch, "data")))
        section = {
            "presets": ["loss_weights", "learning_rates"],
            "max_trials": options.trials,
            "max_concurrent": AT_A_TIME,
            "repeats": 0,
        }
        sets = [f"output={scratch}/runs", "train.batch_size=2048", "train.epochs=1", f"tune={json.dumps(section)}"]
        began = time.time()
        result = tune(load_config(path, [*sets, *options.set]), address="local")
        wall = time.time() - began
        trials = list(TrialStore(RunFolder.open(result["folder"])).trials.values())
        print(json.dumps(answer(trials, wall, result), indent=1))


def answer(trials: list[Any], wall: float, result: dict[str, Any]) -> dict[str, Any]:
    pure = sum(t.train_seconds for t in trials) / AT_A_TIME
    first_process = max(t.start_seconds for t in trials[:AT_A_TIME])
    ready = wall - result["searched_s"] + result["prepared_s"]
    rest = wall - ready - first_process
    return {
        "trials": len(trials),
        "finished": sum(t.status == "finished" for t in trials),
        "wall_s": round(wall, 1),
        "start_up_s": {"ray_and_rows": round(ready, 1), "first_model": round(first_process, 1)},
        "pure_training_s_over_2": round(pure, 1),
        "ratio": round(rest / pure, 3),
        "start_of_a_later_trial_s": round(
            sum(t.start_seconds for t in trials[AT_A_TIME:]) / max(len(trials) - AT_A_TIME, 1), 2
        ),
    }


if __name__ == "__main__":
    main()
