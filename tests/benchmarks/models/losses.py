"""Do losses that compare rows, or the focal loss, rank requests better than the kind's own loss alone? (docs/losses.md)

python -m tests.benchmarks.models.losses [--seeds 3] [--rows-per-day 25000] [--only ranknet]

Nested synthetic logs, five days of training in one pass and one of evaluation; a seed is another world and other first
weights. One JSON line per variant, task and metric: the mean over the seeds, and the mean of the difference to the own loss
alone on the same rows with its 95 % interval over the seeds (Student's t). `clear` counts the seeds whose own interval of the
difference, over the users of that world, excludes 0.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from raymtl.config.load import config_from_dict, section_from
from raymtl.config.yamltext import parse_yaml
from raymtl.objectives.metrics.changes import differences
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from tests.benchmarks.training.inprocess import train

VARIANTS: dict[str, dict[str, Any]] = {
    "own": {},
    "own + 0.3 ranknet": {"ranknet": {"weight": 0.3}},
    "own + ranknet": {"ranknet": {}},
    "own + 0.3 listwise": {"listwise": {"weight": 0.3}},
    "own + listwise": {"listwise": {}},
    "focal": {"own": None, "focal": {}},
}
METRICS = ("auc", "gauc", "ndcg", "ndcg_10", "mrr", "logloss", "calibration")
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantile of Student's t by number of seeds."""


def configuration(logs: Path, seed: int, losses: dict[str, Any]) -> dict[str, Any]:
    path = logs / "config.yaml"
    raw = parse_yaml(path.read_text(), str(path))
    raw["data"] |= {"shuffle": {"seed": seed}}
    raw["tasks"] = {name: {**raw["tasks"][name], "losses": losses} for name in ("click", "cart", "buy")}
    raw["train"] = {"batch_size": 512, "seed": seed, "precision": "fp32", **raw["train"]}
    return raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows-per-day", type=int, default=25_000)
    parser.add_argument("--only", default="", help="variants whose names contain this text, and `own`")
    options = parser.parse_args()
    chosen = {name: losses for name, losses in VARIANTS.items() if name == "own" or options.only in name}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            values = {
                "seed": seed,
                "rows_per_day": options.rows_per_day,
                "users": 2000,
                "items": 500,
                "layout": "nested",
            }
            write_logs(section_from(SynthSpec, values, [], "the logs"), f"{folder}/logs")
            for name, losses in chosen.items():
                config = config_from_dict(configuration(Path(folder, "logs"), seed, losses))
                found[name].append(train(config, with_effects=True)["metrics"])
                print(json.dumps({"seed": seed, "variant": name}), flush=True)
    for name in chosen:
        report(name, found["own"], found[name])


def report(name: str, own: list[dict[str, Any]], those: list[dict[str, Any]]) -> None:
    for task in own[0]["tasks"]:
        for metric in METRICS:
            values = np.array([m["tasks"][task][metric] for m in those])
            line = {"variant": name, "task": task, "metric": metric, "mean": round(float(values.mean()), 5)}
            if name != "own":
                gains = values - np.array([m["tasks"][task][metric] for m in own])
                half = T_975[len(gains)] * gains.std(ddof=1) / math.sqrt(len(gains))
                pairs = [
                    differences(a["tasks"], b["tasks"], a["group_effects"], b["group_effects"])[task].get(metric)
                    for a, b in zip(own, those, strict=True)
                ]
                line["gain"] = round(float(gains.mean()), 5)
                line["interval"] = [round(float(gains.mean() + side * half), 5) for side in (-1, 1)]
                line["clear"] = sum(pair is not None and (pair[0] > 0 or pair[1] < 0) for pair in pairs)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
