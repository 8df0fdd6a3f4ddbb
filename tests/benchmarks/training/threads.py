"""Workers and threads against each other, readers and trainers on the same cores (docs/performance.md).

    python -m tests.benchmarks.training.threads --source DIR_WITH_THE_CENSUS_FILES [--runs 1x1,2x1,1x2] [--models mmoe,aitm]

Trains the census configuration once for each run (workers x threads; null: the default) in every round, one after the other, and
prints rows/s of steady training, with the ratio to the first run of the same round.
"""

import argparse
import json
import statistics
import tempfile
from itertools import product
from pathlib import Path

from raymtl.config.load import load_config
from raymtl.data.convert.registry import convert
from raymtl.training import driver
from tests.benchmarks.training import stages
from tests.benchmarks.training.census import MODELS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder with the census files")
    parser.add_argument("--runs", default="1x1,2x1,1x2")
    parser.add_argument("--models", default="mmoe")
    parser.add_argument("--precisions", default="fp32")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="rounds over all runs, one after the other")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = convert("census", options.source, folder)
        kinds = list(product(options.models.split(","), options.precisions.split(",")))
        speeds: dict[str, list[float]] = {}
        ratios: dict[str, list[float]] = {}
        for turn, (model, precision) in product(range(options.repeats), kinds):
            base = 0.0
            for run in options.runs.split(","):
                workers, _, threads = run.partition("x")
                name = f"{model}-{precision}-{run}"
                sets = [
                    *MODELS[model],
                    "train.batch_size=2048",
                    f"train.epochs={options.epochs}",
                    f"train.workers={workers}",
                    f"train.threads_per_worker={threads}",
                    f"train.precision={precision}",
                    f"name={name}-{turn}",
                    f"output={folder}/runs",
                    "data.eval=null",
                    "train.log_every_steps=25",
                ]
                driver.train(load_config(path, [*sets, *options.set]), address="local")
                speed = stages.steady(stages.windows(Path(folder, "runs", f"{name}-{turn}")))
                base = base or speed
                speeds.setdefault(name, []).append(round(speed))
                ratios.setdefault(name, []).append(round(speed / base, 3))
                print(json.dumps({name: [speeds[name][-1], ratios[name][-1]]}), flush=True)
        medians = {name: statistics.median(values) for name, values in ratios.items()}
        print(json.dumps({"rows_per_s": speeds, "ratios": ratios, "medians": medians, **stages.machine()}, indent=1))


if __name__ == "__main__":
    main()
