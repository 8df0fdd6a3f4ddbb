"""Threads of the workers against each other, readers and trainers on the same cores (docs/performance.md).

    python -m tests.benchmarks.training.threads --source DIR_WITH_THE_CENSUS_FILES [--workers 1,2] [--threads 1,2]

Trains the census configuration several times over for each combination and prints rows/s of steady training; null is the default.
"""

import argparse
import json
import tempfile

from raymtl.config.load import load_config
from raymtl.data.convert.registry import convert
from raymtl.training import driver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder with the census files")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--threads", default="null,1,2")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="rounds over all combinations, one after the other")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = convert("census", options.source, folder)
        speeds: dict[str, list[int]] = {}
        for turn in range(options.repeats):
            for workers in options.workers.split(","):
                for threads in options.threads.split(","):
                    sets = [
                        "train.batch_size=2048",
                        f"train.epochs={options.epochs}",
                        f"train.workers={workers}",
                        f"train.threads_per_worker={threads}",
                        f"name=w{workers}-t{threads}-{turn}",
                        f"output={folder}/runs",
                        "data.eval=",
                    ]
                    result = driver.train(load_config(path, [*sets, *options.set]), address="local")
                    speeds.setdefault(f"workers {workers}, threads {threads}", []).append(round(result["rows_per_s"]))
        print(json.dumps(speeds, indent=1))


if __name__ == "__main__":
    main()
