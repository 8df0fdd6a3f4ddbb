"""What a search finds on logs whose answer is known (docs/tuning.md).

    python -m tests.benchmarks.tuning.quality front      a planted conflict between two tasks: TPE in half of random's trials
    python -m tests.benchmarks.tuning.quality alpha      a planted limit on order violations: which alpha is found

`front`: `click` and `share` depend on a number each, and `watch` on two others; the trunk is three units wide, so the weights
decide what it carries. The configuration weighs `watch`, whose loss is the largest anyway, five times: its AUCs are far from the
front. The area of a front is that between it and the point of this default. `alpha`: synthetic logs whose purchases are nearly as
frequent as their carts, where a model without the calibrator often puts the child above its parent; the objective is the AUC of
`buy` with at most 5 % of the rows out of order. A grid over alpha says what is right, the search must come near it.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.config.load import config_from_dict, load_config, section_from
from raymtl.config.root import Config
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.rundir import RunFolder
from raymtl.tuning.objective import area, front
from raymtl.tuning.run import open_search, tune
from raymtl.tuning.trial_store import Trial, TrialStore


def conflict_logs(root: Path, rows: int) -> None:
    for day, count, seed in (("2026-01-01", rows, 0), ("2026-01-02", rows // 2, 1)):
        random = np.random.default_rng(seed)
        a, b, c, d = random.normal(size=(4, count)).astype(np.float32)
        noise = random.normal(size=(3, count)) * 0.5
        folder = root / f"ds={day}"
        folder.mkdir(parents=True)
        table = {
            "user": random.integers(0, 50, count),  # says nothing
            "a": a,
            "b": b,
            "c": c,
            "d": d,
            "click": (a + noise[0] > 0).astype(np.float32),
            "share": (b + noise[1] > 0).astype(np.float32),
            "watch": (1.5 * (c + np.abs(d) + noise[2])).astype(np.float32),
        }
        pq.write_table(pa.table({k: pa.array(v) for k, v in table.items()}), folder / "part-0.parquet")


def conflict_config(root: Path, name: str, sampler: dict[str, Any], trials: int, seed: int) -> Config:
    return config_from_dict(
        {
            "name": name,
            "output": str(root / "runs"),
            "data": {
                "path": str(root / "logs"),
                "train": {"start": "2026-01-01", "end": "2026-01-01"},
                "eval": {"start": "2026-01-02", "end": "2026-01-02"},
            },
            "tables": {"user": {"rows": 64, "dim": 4}},
            "features": {
                "user": {"kind": "id"},
                "a": {"kind": "dense"},
                "b": {"kind": "dense"},
                "c": {"kind": "dense"},
            },
            "tasks": {"click": {}, "share": {}, "watch": {"kind": "real", "weight": 5}},
            "model": {
                "preset": "shared_bottom",
                "trunk": {"type": "shared_bottom", "hidden": [3]},
                "towers": {"hidden": [4]},
            },
            "train": {"batch_size": 256, "epochs": 2, "dense_optimizer": {"lr": 0.005}},
            "tune": {
                "presets": ["loss_weights"],
                "objective": {"pareto": ["click.auc", "share.auc"]},
                "sampler": sampler,
                "max_trials": trials,
                "max_concurrent": 2,
                "repeats": 0,
                "seed": seed,
            },
        }
    )


def measure_front(root: Path, trials: int, seeds: int) -> dict[str, Any]:
    conflict_logs(root / "logs", 40_000)
    found: dict[str, list[Any]] = {"tpe": [], "random": []}
    dominated = []
    for seed in range(seeds):
        for kind, sampler in (("tpe", {"type": "tpe", "startup_trials": 6}), ("random", {"type": "random"})):
            result = tune(conflict_config(root, f"{kind}{seed}", sampler, trials, seed), address="local")
            search, _ = open_search(result["folder"])
            points = [search.evaluator.values(t.metrics) or [] for t in search.trial_store.trials.values()]
            default = points[0]
            found[kind].append([area(points[:n], default) for n in range(1, len(points) + 1)])
            if kind == "tpe":
                best = [points[k] for k in front(dict(enumerate(points)))]
                dominated.append(
                    {
                        "default": [round(v, 4) for v in default],
                        "front": sorted([round(v, 4) for v in p] for p in best),
                        "points_that_beat_the_default_in_both": sum(
                            all(x > y for x, y in zip(p, default, strict=True)) for p in best
                        ),
                    }
                )
    half = trials // 2
    return {
        "trials": trials,
        "seeds": dominated,
        "area_of_random": [round(r[-1], 5) for r in found["random"]],
        "area_of_tpe_in_half": [round(r[half - 1], 5) for r in found["tpe"]],
        "share": round(
            sum(r[half - 1] for r in found["tpe"]) / sum(r[-1] for r in found["random"]),
            4,
        ),
        "trials_of_tpe_to_90_percent": [
            next((n for n, v in enumerate(t, start=1) if v >= 0.9 * r[-1]), None)
            for t, r in zip(found["tpe"], found["random"], strict=True)
        ],
    }


def measure_alpha(root: Path, rows: int, trials: int) -> dict[str, Any]:
    values = {"rows_per_day": rows, "days": 3, "last_day_rows": rows}
    # purchases nearly as frequent as carts, so that their order is easily broken
    path = write_logs(section_from(SynthSpec, values, ["buy_rate=0.038"], "the logs"), str(root / "synth")).config
    sets = ["model.preset=aitm", f"output={root}/runs", "train.batch_size=512", "train.workers=1"]
    objective = "tune.objective={metric: buy.auc, subject_to: {order_violations: {at_most: 0.05}}}"

    def run(name: str, tune_set: str) -> TrialStore:
        config = load_config(
            path, [*sets, f"name={name}", tune_set, objective, "tune.repeats=0", "tune.max_concurrent=2"]
        )
        return TrialStore(RunFolder.open(tune(config, address="local")["folder"]))

    grid = [0.03, 0.1, 0.3, 1, 3, 10, 30]
    book = run(
        "grid",
        f"tune={{space: {{model.order_loss.alpha: {{choice: {grid}}}}}, sampler: {{type: grid}}, max_trials: 99}}",
    )
    curve = sorted(_of(t) for t in book.trials.values() if t.kind == "search")
    space = "{model.order_loss.alpha: {log_uniform: [0.03, 30]}}"
    book = run("tpe", f"tune={{space: {space}, sampler: {{type: tpe, startup_trials: 5}}, max_trials: {trials}}}")
    search, _ = open_search(book.folder.path)
    best = search.best(list(search.trial_store.trials.values()))
    assert best is not None
    return {
        "rows": rows * 2,
        "grid": [dict(zip(("alpha", "order_violations", "buy_auc"), row, strict=True)) for row in curve],
        "found": dict(zip(("alpha", "order_violations", "buy_auc"), _of(best), strict=True)),
        "trials": sorted(_of(t) for t in book.trials.values() if t.kind == "search"),
    }


def _of(trial: Trial) -> tuple[float, float, float]:
    assert trial.metrics is not None
    rate = trial.metrics["order_violation_rate"]["overall"]
    alpha = trial.config["model"]["order_loss"]["alpha"]
    return round(alpha, 3), round(rate, 4), round(trial.metrics["tasks"]["buy"]["auc"], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["front", "alpha"])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=40_000, help="a day, for alpha")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymtl-tune-") as scratch:
        root = Path(scratch)
        if options.what == "front":
            print(json.dumps(measure_front(root, options.trials, options.seeds), indent=1))
        else:
            print(json.dumps(measure_alpha(root, options.rows, options.trials), indent=1))


if __name__ == "__main__":
    main()
