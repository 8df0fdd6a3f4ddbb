"""A spend that is 0 in 99 % of the rows, learned as every kind that fits: order and calibration against the true means.

python -m tests.benchmarks.models.spend [--rows-per-day 50000] [--seeds 3] [--kinds ziln,count,log1p]

Prints a table over seeds, which change the logs and the model: the normalised Gini coefficient, that of the true means, the sum
of the predictions over the sum of the labels and over that of the true means, the sum of the training labels over that of their
true means (what chance gave the model to learn from), and the error by decile.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import torch

from raymtl.config.load import load_config, section_from
from raymtl.objectives.metrics.ordered import gini
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from tests.benchmarks.training.inprocess import train

KINDS = {
    "ziln": "{kind: ziln, weight: 4.0",
    "count": "{kind: count, weight: 0.1",
    "log1p": "{kind: real, transform: log1p, weight: 0.1",
    "watch_time": "{kind: watch_time, weight: 0.5",
    "real": "{kind: real, weight: 0.1",
}
"""The start of a task; the weights make up for losses of different sizes."""
_DECAY = ["train.schedule={decay: linear}"]
"""The last steps move the level of a 1 % event by 5 to 15 %, in all kinds; with a decay they do not."""
_LOGS = ["spend=true", "buy_rate=0.01", "buy_window_hours=0"]
"""Every label is known: else the rows of late hours, with which a training in the order of time ends, move the shared layers
without any label of the spend."""
_REST = ", label: spend, observed: buy_mature, truth: mean_spend}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows-per-day", type=int, default=50_000)
    parser.add_argument("--evaluation-rows", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=4, help="the last one is for evaluation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", default="ziln,count,log1p")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    print(
        "| kind | seed | Gini | of the true means | sum / labels | sum / true means | training labels | decile error |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            values = {
                "rows_per_day": options.rows_per_day,
                "last_day_rows": options.evaluation_rows,
                "days": options.days,
                "users": 5_000,
                "items": 1_000,
                "seed": seed,
            }
            spec = section_from(SynthSpec, values, _LOGS, "the logs")
            summary = write_logs(spec, f"{folder}/logs")
            learned_from = training_labels(f"{folder}/logs")
            for name in options.kinds.split(","):
                tasks = [f"tasks.amount={KINDS[name]}{_REST}", "tasks_subset=[click, cart, buy, amount]"]
                sets = [*tasks, f"train.seed={seed}", "train.precision=fp32", "train.workers=1", *_DECAY, *options.set]
                result = train(load_config(summary.config, sets), extra=["mean_spend", "spend"])
                print(row(name, seed, result, learned_from), flush=True)


def training_labels(logs: str) -> str:
    """The sum of the labels of all days but the last over that of their true means, with half its 95 % interval."""
    days = sorted(path for path in Path(logs).iterdir() if path.is_dir())[:-1]
    rows = ds.dataset([str(file) for day in days for file in day.rglob("*.parquet")])
    table = rows.to_table(["spend", "mean_spend"], filter=ds.field("buy_mature") & ds.field("spend").is_valid())
    label, truth = (table.column(name).to_numpy() for name in ("spend", "mean_spend"))
    return f"{label.sum() / truth.sum():.3f} ± {1.96 * np.sqrt((label**2).sum()) / truth.sum():.3f}"


def row(name: str, seed: int, result: dict, learned_from: str) -> str:
    report, found = result["metrics"]["tasks"]["amount"], result["predictions"]
    predicted, truth, label = (found[key].astype(np.float64) for key in ("amount", "mean_spend", "spend"))
    seen = ~np.isnan(label)
    rows = torch.from_numpy(label[seen])
    best, _ = gini(torch.from_numpy(truth[seen]), rows, torch.ones_like(rows), torch.arange(len(rows)), len(rows))
    cells = [with_half(report, "gini"), f"{best:.3f}", with_half(report, "calibration")]
    cells += [f"{predicted[seen].sum() / truth[seen].sum():.3f}", learned_from, f"{report['decile_error']:.3f}"]
    return f"| {name} | {seed} | {' | '.join(cells)} |"


def with_half(report: dict, metric: str) -> str:
    low, high = report["intervals"][metric]
    return f"{report[metric]:.3f} ± {(high - low) / 2:.3f}"


if __name__ == "__main__":
    main()
