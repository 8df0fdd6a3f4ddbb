"""Test AUC on census over seeds: `mmoe` against one `single_task` model per task (docs/results.md).

python -m tests.benchmarks.models.census --source DIR_WITH_THE_CENSUS_FILES [--seeds 3] [--workers 2]
"""

import argparse
import json
import statistics
import tempfile

from raymtl.config.load import load_config
from raymtl.data.convert.registry import convert
from raymtl.training import driver

RUNS = {
    "mmoe": [],
    "single_task income": ["model={preset: single_task}", "tasks_subset=[income]"],
    "single_task never_married": ["model={preset: single_task}", "tasks_subset=[never_married]"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    answer: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = convert("census", options.source, f"{folder}/data")
        for kind, sets in RUNS.items():
            found: dict[str, list[float]] = {}
            for seed in range(options.seeds):
                name = f"{kind.replace(' ', '-')}-{seed}"
                config = load_config(
                    path,
                    [
                        *sets,
                        *options.set,
                        f"output={folder}/runs",
                        f"name={name}",
                        f"train.seed={seed}",
                        f"data.shuffle.seed={seed}",
                        f"train.workers={options.workers}",
                    ],
                )
                for task, metrics in driver.train(config, address="local")["metrics"]["eval"].items():
                    found.setdefault(task, []).append(metrics["auc"])
            answer[kind] = {
                task: {
                    "auc_mean": round(statistics.mean(values), 5),
                    "auc_std": round(statistics.stdev(values), 5) if len(values) > 1 else None,
                    "auc": [round(v, 5) for v in values],
                }
                for task, values in found.items()
            }
            print(json.dumps({kind: answer[kind]}), flush=True)


if __name__ == "__main__":
    main()
