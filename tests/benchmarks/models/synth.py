"""Synthetic logs: AUC against the best achievable after one pass, and AITM's order violations as alpha grows (docs/results.md).

python -m tests.benchmarks.models.synth [--rows-per-day 1000000] [--alphas 0,0.6,3]
"""

import argparse
import json
import tempfile

from raymtl.config.load import load_config, section_from
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import driver
from tests.benchmarks.models.synth_settings import SETTINGS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows-per-day", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=6, help="the last one is for evaluation, at half the rows")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--alphas", default="", help="train AITM with each of these instead of MMoE")
    parser.add_argument(
        "--logs", action="append", default=[], metavar="KEY=VALUE", help="a field of the logs, such as buy_rate=0.03"
    )
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = options.rows_per_day
        values = {"rows_per_day": rows, "days": options.days, "last_day_rows": rows // 2}
        summary = write_logs(section_from(SynthSpec, values, options.logs, "the logs"), f"{folder}/logs")
        runs: dict[str, list[str]] = {} if options.alphas else {"mmoe": []}
        for alpha in filter(None, options.alphas.split(",")):
            runs[f"aitm alpha {alpha}"] = ["model.preset=aitm", f"model.order_loss.alpha={alpha}"]
        for name, sets in runs.items():
            config = load_config(
                summary.config,
                [
                    *SETTINGS,
                    *sets,
                    *options.set,
                    f"output={folder}/runs",
                    f"name={name.replace(' ', '-')}",
                    f"train.workers={options.workers}",
                ],
            )
            result = driver.train(config, address="local")
            tasks = {
                task: {
                    key: m.get(key)
                    for key in ("auc", "truth_auc", "ne", "calibration", "count", "rmse", "nmae")
                    if key in m
                }
                for task, m in result["metrics"]["eval"].items()
            }
            keys = ("rows_trained", "rows_left_out", "rows_per_s", "seconds", "peak_memory_bytes")
            print(
                json.dumps(
                    {
                        "run": name,
                        **{k: result[k] for k in keys},
                        "tasks": tasks,
                        "order_violation_rate": result["metrics"]["order_violation_rate"],
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
