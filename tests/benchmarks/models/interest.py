"""Interest that depends on the candidate: DIN against the mean of the history and DUPN (docs/showcases.md).

python -m tests.benchmarks.models.interest [--history 50] [--seeds 3] [--rows-per-day 50000] [--only din,…]
python -m tests.benchmarks.models.interest --cost [--workers 1,2] [--history 50]

Synthetic logs with `interest`, in requests of ten rows, five days of training and one of evaluation. A model is judged by the
true probabilities, over three worlds and first weights; prints each model's AUC of the click, and which share of the gap between
the mean of the history and the truth it closes. `--cost` trains the same rows with all models in turn, a step of each at a time,
as `tests.benchmarks.training.requests` does, with flat rows and by request, and prints the median steps.
"""

import argparse
import json
import os
import statistics
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.yamltext import parse_yaml
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.build import build
from tests.benchmarks.models.showcase_judges import expected_auc
from tests.benchmarks.models.showcases import TRAIN
from tests.benchmarks.training.inprocess import train
from tests.benchmarks.training.requests import steps
from tests.helpers.worker_processes import several

Values = dict[str, Any]

HISTORIES = ["hist_items", "hist_categories"]
DIN: Values = {"type": "din", "behaviours": {"clicks": HISTORIES}, "target": ["item_id", "category"]}
MODELS: dict[str, Values] = {
    "pooled": {"type": "pooled"},
    "dupn": {
        "type": "dupn",
        "item": HISTORIES,
        "user": ["user_id", "user_segment", "age", "city", "user_clicks_30d"],
        "hidden": 32,
    },
    "din": DIN,
    "din, softmax": {**DIN, "softmax": True},
    "din, 2 heads": {**DIN, "heads": 2},
    "din, search": {**DIN, "search": {"clicks": "category"}, "search_steps": 20},
}
WARM_UP = 2


def logs_spec(history: int, rows_per_day: int, days: int, seed: int) -> SynthSpec:
    return SynthSpec(
        seed=seed,
        days=days,
        rows_per_day=rows_per_day,
        users=2000,
        items=2000,
        history=history,
        categories=max(30, 30 * history // 50),
        interest=3.0,
    )


def configuration(model: str, folder: str, seed: int, changes: Values | None = None) -> Config:
    """The configuration beside the logs with a model, and with `changes` of `data`."""
    path = Path(folder) / "config.yaml"
    raw = parse_yaml(path.read_text(), str(path))
    raw["output"] = str(Path(folder) / "runs")
    raw["data"] |= {"path": folder, "shuffle": {"seed": seed}, **(changes or {})}
    raw["tasks"] = {"click": {"truth": "p_click"}, "cart": {"parent": "click", "truth": "p_cart"}}
    raw["model"] = {
        "preset": "shared_bottom",
        "trunk": {"type": "shared_bottom", "hidden": [128, 64]},
        "sequence": deepcopy(MODELS[model]),
    }
    raw["train"] = {**deepcopy(TRAIN), "seed": seed}
    return config_from_dict(raw)


def quality(options: argparse.Namespace) -> None:
    models = options.only.split(";") if options.only else list(MODELS)
    models = ["pooled", *(name for name in models if name != "pooled")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            write_logs(logs_spec(options.history, options.rows_per_day, 6, seed), folder)
            for name in models:
                result = train(configuration(name, folder, seed, {"request": "request_id"}), 1, ("p_click",))
                truth, scores = result["predictions"]["p_click"], result["predictions"]["click"]
                best, auc = expected_auc(truth, truth), expected_auc(truth, scores)
                first = found["pooled"][seed]["AUC"] if name != "pooled" else auc
                line = {
                    "AUC": auc,
                    "best AUC": best,
                    "closed": (auc - first) / (best - first),
                    "CPU seconds": result["rows"] / result["rows_per_cpu_s"],
                }
                found[name].append(line)
                print(json.dumps({"seed": seed, "model": name, **line}), flush=True)
    for name, lines in found.items():
        shown = {}
        for key in lines[0]:
            values = np.array([line[key] for line in lines])
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            shown[key] = f"{values.mean():.4f}{spread}"
        print(name, shown, flush=True)


def compared(rank: int, workers: int, folder: str, count: int, batch_size: int, request: bool) -> dict[str, float]:
    """Median seconds of the steps of every model."""
    group = dist.group.WORLD
    assert group is not None
    running = {}
    for name in MODELS:
        days = {"train": {"start": "2026-01-02", "end": "2026-01-02"}, "request": "request_id" if request else None}
        config = configuration(name, folder, 0, days)
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch_size})})
        rates = sample_base_rates(config, plan_input(config, "train"))
        built = build(config, rates, count, torch.device("cpu"), group)
        running[name] = steps(built, config, rank, workers, count)
    times: dict[str, list[float]] = {name: [] for name in MODELS}
    for found in zip(*running.values(), strict=True):
        for name, seconds in zip(MODELS, found, strict=True):
            times[name].append(seconds["step"])
    return {name: statistics.median(seconds[WARM_UP:]) for name, seconds in times.items()}


def cost(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = options.batch_size * (options.steps + 1)
        write_logs(logs_spec(options.history, rows, 2, 0), f"{folder}/logs")
        for workers in map(int, options.workers.split(",")):
            for request in (False, True):
                place = Path(folder, f"run-{workers}-{request}")
                arguments = (f"{folder}/logs", options.steps, options.batch_size, request)
                [found, *_] = several(workers, place, compared, *arguments, limit_s=600)
                kind = "10 rows per request" if request else "flat rows"
                print(f"histories of {options.history}, {kind}, {workers} workers:")
                for name, seconds in found.items():
                    print(f"    {name}: {1000 * seconds:.1f} ms, {seconds / found['pooled']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows-per-day", type=int, default=50_000)
    parser.add_argument("--only", default="", help="models, with a semicolon between two")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    (cost if options.cost else quality)(options)


if __name__ == "__main__":
    main()
