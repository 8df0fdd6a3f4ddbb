"""Test AUC on census by how the model reads numbers: scaled, in buckets, piecewise linear, AutoDis; and by `model.refine`.

python -m tests.benchmarks.models.numeric_features --source DIR_WITH_THE_CENSUS_FILES [--seeds 3] [--threads 1]

`all` has the 32 categorical columns too, `numbers` only the 7 numbers, where the differences are larger. Prints a line per
variant: mean and standard deviation over the seeds, and trained rows per CPU second.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import pyarrow.parquet as pq

from raymtl.config.load import config_from_dict
from raymtl.config.source import read_source
from raymtl.data.convert.census import DENSE
from raymtl.data.convert.registry import convert
from raymtl.init.quantiles import quantile_edges
from tests.benchmarks.training import inprocess

RANGES = 16
REFINE: dict[str, dict[str, Any]] = {
    "dcn_v2": {"type": "dcn_v2"},
    "dcn_v2 rank 64": {"type": "dcn_v2", "rank": 64},
    "senet": {"type": "senet"},
}


def variants(raw: dict[str, Any], edges: dict[str, list[float]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """By name: the features and slots that replace the configuration's."""
    scaled = {name: raw["features"][name] for name in DENSE}
    others = {name: f for name, f in raw["features"].items() if name not in DENSE}
    numbers: dict[str, dict[str, Any]] = {
        "scaled": scaled,
        "buckets": {n: {"kind": "bucket", "edges": own[1:-1] or own} for n, own in edges.items()},
        "scaled and buckets": scaled
        | {f"{n}_bucket": {"kind": "bucket", "column": n, "edges": own[1:-1] or own} for n, own in edges.items()},
        "piecewise": {n: {**scaled[n], "embed": {"type": "piecewise", "edges": own}} for n, own in edges.items()},
        "autodis": {n: {**f, "embed": {"type": "autodis"}} for n, f in scaled.items()},
        "autodis τ=0.1": {n: {**f, "embed": {"type": "autodis", "temperature": 0.1}} for n, f in scaled.items()},
    }
    for name, made in numbers.items():
        yield f"numbers, {name}", {"features": made, "tables": {}}
    for name, made in numbers.items():
        yield f"all, {name}", {"features": others | made}
    for name, refine in REFINE.items():
        yield f"all, {name}", {"model": {**raw["model"], "refine": refine}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", help="variants whose name matches this pattern")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = convert("census", options.source, f"{folder}/data")
        raw = read_source(path, None).merged()
        train = pq.read_table(f"{folder}/data/train", columns=list(DENSE))
        edges = {name: quantile_edges(train[name].to_numpy(), RANGES) for name in DENSE}
        for name, change in variants(raw, edges):
            if fnmatch(name, options.only):
                runs = [_run({**raw, **change}, seed, options.threads) for seed in range(options.seeds)]
                aucs = {task: [run[0][task] for run in runs] for task in raw["tasks"]}
                shown = "  ".join(f"{task} {_shown(values)}" for task, values in aucs.items())
                print(f"{name:28}{shown}  {statistics.mean(run[1] for run in runs):9,.0f} rows/CPU s", flush=True)


def _run(raw: dict[str, Any], seed: int, threads: int) -> tuple[dict[str, float], float]:
    raw["train"] = {**raw["train"], "seed": seed, "precision": "fp32"}
    raw["data"] = {**raw["data"], "shuffle": {"seed": seed}}
    found = inprocess.train(config_from_dict(raw), threads)
    return {task: metrics["auc"] for task, metrics in found["metrics"]["tasks"].items()}, found["rows_per_cpu_s"]


def _shown(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


if __name__ == "__main__":
    main()
