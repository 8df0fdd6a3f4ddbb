"""Test AUC on census over seeds: `mmoe` against one `single_task` model per task, and fp32 against bf16 (docs/results.md).

python -m tests.benchmarks.models.census --source DIR_WITH_THE_CENSUS_FILES [--seeds 3] [--workers 2]
python -m tests.benchmarks.models.census --source DIR --models mmoe --precisions fp32,bf16 --seeds 5 --workers 0
"""

import argparse
import itertools
import json
import statistics
import tempfile

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.convert.registry import convert
from raymtl.training import driver
from tests.benchmarks.training import inprocess

RUNS = {
    "mmoe": [],
    "single_task income": ["model={preset: single_task}", "tasks_subset=[income]"],
    "single_task never_married": ["model={preset: single_task}", "tasks_subset=[never_married]"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="0: in this process, without Ray")
    parser.add_argument("--models", default=",".join(RUNS))
    parser.add_argument("--precisions", default="auto")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    answer: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = convert("census", options.source, f"{folder}/data")
        for kind, precision in itertools.product(options.models.split(","), options.precisions.split(",")):
            found: dict[str, list[float]] = {}
            for seed in range(options.seeds):
                name = f"{kind.replace(' ', '-')}-{precision}-{seed}"
                config = load_config(
                    path,
                    [
                        *RUNS[kind],
                        *options.set,
                        f"output={folder}/runs",
                        f"name={name}",
                        f"train.seed={seed}",
                        f"data.shuffle.seed={seed}",
                        f"train.workers={options.workers or 1}",
                        f"train.precision={precision}",
                    ],
                )
                for task, auc in _aucs(config, in_process=options.workers == 0).items():
                    found.setdefault(task, []).append(auc)
            key = f"{kind} {precision}"
            answer[key] = {
                task: {
                    "auc_mean": round(statistics.mean(values), 5),
                    "auc_std": round(statistics.stdev(values), 5) if len(values) > 1 else None,
                    "auc": [round(v, 5) for v in values],
                }
                for task, values in found.items()
            }
            print(json.dumps({key: answer[key]}), flush=True)


def _aucs(config: Config, in_process: bool) -> dict[str, float]:
    """The AUC of each task on the evaluation days after the last epoch."""
    if in_process:
        tasks = inprocess.train(config)["metrics"]["tasks"]
    else:
        tasks = driver.train(config, address="local")["metrics"]["eval"]
    return {task: metrics["auc"] for task, metrics in tasks.items()}


if __name__ == "__main__":
    main()
