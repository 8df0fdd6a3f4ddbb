"""A funnel that ends at 1 % with a spend that is 0 in 99 % of the rows: AUC against a small sweep, the spend against a constant.

python -m tests.benchmarks.data.spend [--rows-per-day 100000] [--sweep]

Prints a table: AUC of each step of the funnel, calibration of the spend, and its mean squared error as a share of that of a
constant. First the configuration as `raymtl synth` writes it, then with `log1p`, then (`--sweep`) with other rates and batches.
"""

import argparse
import itertools
import tempfile

from raymtl.config.load import load_config, section_from
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import driver

FUNNEL = ("click", "cart", "buy")
LOG = "tasks.spend.transform=log1p"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows-per-day", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=4, help="the last one is for evaluation")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sweep", action="store_true", help="also with other learning rates and batch sizes")
    parser.add_argument("--logs", action="append", default=[], metavar="KEY=VALUE", help="a field of the logs")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    runs = {"as written": [], "log1p": [LOG]}
    if options.sweep:
        for batch, factor in itertools.product((512, 2048), (0.5, 1.0, 2.0)):
            rates = [f"train.dense_optimizer.lr={5e-3 * factor:g}", f"train.sparse_optimizer.lr={5e-2 * factor:g}"]
            runs[f"batch {batch}, rates · {factor:g}"] = [f"train.batch_size={batch}", *rates]
    print("| run | AUC click | cart | buy | spend: calibration | MSE / constant's | best MSE / constant's |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        values = {"rows_per_day": options.rows_per_day, "days": options.days, "users": 5_000, "items": 1_000}
        logs = ["spend=true", "buy_rate=0.01", *options.logs]
        summary = write_logs(section_from(SynthSpec, values, logs, "the logs"), f"{folder}/logs")
        for number, (name, sets) in enumerate(runs.items()):
            place = [f"output={folder}/runs", f"name=run{number}", f"train.workers={options.workers}"]
            result = driver.train(load_config(summary.config, [*sets, *options.set, *place]), address="local")
            tasks = result["metrics"]["eval"]
            spend = tasks["spend"]
            cells = [f"{tasks[task]['auc']:.4f}" for task in FUNNEL]
            cells.append(f"{spend['calibration']:.3f}")
            cells += [f"{spend[key] / spend['constant_mse']:.4f}" for key in ("mse", "truth_mse")]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
