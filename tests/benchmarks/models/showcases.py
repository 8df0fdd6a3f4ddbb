"""Where a model should shine, do the data show it? Every preset's claim against its plain rival (docs/showcases.md).

python -m tests.benchmarks.models.showcases [--only esmm] [--seeds 3] [--rows-per-day 50000]

Synthetic logs come with the true probability of every label, so a model is judged by the truth and not by drawn labels: the
AUC is the one expected over all labels that could have been drawn, and it has no noise but that of training. A seed is
another world (other tastes, other users, other rows) and other first weights; what all seeds of a case agree on is the
model's doing. One JSON line per model and metric: mean and standard deviation over the seeds, and the same for the
difference to the case's first model in the same world.
"""

import argparse
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np

from tests.benchmarks.models.showcase_cases import CASES, POOLED, Values, Variant

DAYS = 6
TRAIN: Values = {
    "batch_size": 512,  # few rows: the steps count
    "dense_optimizer": {"type": "adam", "lr": 3e-3},
    "sparse_optimizer": {"type": "rowwise_adagrad", "lr": 0.1},
    "schedule": {"decay": "linear", "final_factor": 0.02},
}


def write(job: tuple[str, int, str, int]) -> None:
    """The logs of one case and seed."""
    from raymtl.config.load import section_from
    from raymtl.synth.spec import SynthSpec
    from raymtl.synth.write import write_logs

    name, seed, folder, rows_per_day = job
    case, place = CASES[name], _place(folder, name, seed)
    values = {
        "seed": seed,
        "days": DAYS,
        "rows_per_day": round(rows_per_day * case.rows),
        "last_day_rows": rows_per_day,
        "users": 2000,
        "items": 500,
        **case.logs,
    }
    write_logs(section_from(SynthSpec, values, [], "the logs"), str(place / "logs"))
    if case.prepare:
        case.prepare(place)


def run(job: tuple[str, str, int, str]) -> tuple[str, str, int, dict[str, float]]:
    """Train one model of a case in one world; its metrics."""
    from raymtl.config.load import config_from_dict
    from tests.benchmarks.training.inprocess import train

    name, variant, seed, folder = job
    case, place = CASES[name], _place(folder, name, seed)
    config = config_from_dict(configuration(case.variants[variant], place, seed))
    result = train(config, 1, case.truth)
    found = case.judge(result["predictions"])
    seconds = result["rows"] / result["rows_per_cpu_s"]
    found |= {"weights": result["dense_parameters"], "CPU seconds": seconds}
    return name, variant, seed, found


def configuration(variant: Variant, place: Path, seed: int) -> Values:
    """The configuration beside the logs, with what the variant changes."""
    from raymtl.config.yamltext import parse_yaml

    path = place / "logs" / "config.yaml"
    raw = parse_yaml(path.read_text(), str(path))
    raw["output"] = str(place / "runs")
    raw["data"] |= {
        "path": str(place / "logs"),
        "eval_path": str(place / variant.eval_on),
        "shuffle": {"seed": seed},
    }
    raw["features"] = {k: v for k, v in {**raw["features"], **variant.features}.items() if v}
    used = {f.get("table") or name for name, f in raw["features"].items()}
    raw["tables"] = {name: table for name, table in raw["tables"].items() if name in used}
    raw["tasks"] = deepcopy(variant.tasks)
    raw["model"] = {"sequence": POOLED, **deepcopy(variant.model)}
    raw["train"] = {**deepcopy(TRAIN), **deepcopy(variant.train), "seed": seed}
    return raw


def _place(folder: str, name: str, seed: int) -> Path:
    return Path(folder) / f"{name}-{seed}"


def lines(name: str, found: dict[tuple[str, int], dict[str, float]], seeds: Sequence[int]) -> Iterable[Values]:
    """One per model and metric: mean and standard deviation over the seeds, alone and of the difference to the first model."""
    first, *_ = variants = list(CASES[name].variants)
    for variant in variants:
        for metric in found[variant, seeds[0]]:
            values = np.array([found[variant, seed][metric] for seed in seeds])
            gain = values - np.array([found[first, seed][metric] for seed in seeds])
            line = {"case": name, "model": variant, "metric": metric, **_moments(values)}
            yield line if variant == first else {**line, **{f"gain_{k}": v for k, v in _moments(gain).items()}}


def _moments(values: np.ndarray) -> dict[str, float | None]:
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return {"mean": round(float(values.mean()), 5), "std": None if math.isnan(spread) else round(spread, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(CASES), help="this case; may be given again")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows-per-day", type=int, default=50_000)
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seeds = range(options.seeds)
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for name in options.only or CASES:
            pool.map(write, [(name, seed, folder, options.rows_per_day) for seed in seeds], chunksize=1)
            jobs = [(name, variant, seed, folder) for seed in seeds for variant in CASES[name].variants]
            found = {(v, seed): metrics for _, v, seed, metrics in pool.imap_unordered(run, jobs)}
            for line in lines(name, found, seeds):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
