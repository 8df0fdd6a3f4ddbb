"""Made-up searches: real configurations and spaces, and records as a search would have written them."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from raymtl.config.load import load_config
from raymtl.config.tune import Tune
from raymtl.training.rundir import RunFolder
from raymtl.tuning.result import summary
from raymtl.tuning.search import Search
from raymtl.tuning.space import Params, Space
from raymtl.tuning.trial_store import Trial, TrialStore

ROWS = 3_000_000
BASE: dict[str, Any] = {
    "name": "shop",
    "data": {
        "path": "/logs",
        "train": {"start": "2026-01-01", "end": "2026-01-03"},
        "eval": {"start": "2026-01-04", "end": "2026-01-04"},
    },
    "features": {"user": {"kind": "id"}, "age": {"kind": "dense"}},
    "tables": {"user": {"rows": 100}},
    "tasks": {"click": {}, "cart": {"parent": "click"}, "buy": {"parent": "cart"}},
    "model": {"preset": "shared_bottom"},
    "train": {"dense_optimizer": {"lr": 0.001}},
}
SPACE: dict[str, Any] = {
    "train.dense_optimizer.lr": {"log_uniform": [1e-4, 1e-2]},
    "train.sparse_optimizer.lr": {"log_uniform": [1e-3, 1e-1]},
    "model.towers.hidden": {"choice": [[16], [32], [64, 32]]},
}
Effect = Callable[[Trial], dict[str, float]]
"""What a trial's metrics come out as: the AUC of each task, and `order`, the share of rows out of order."""


def make_search(folder: Path, tune: dict[str, Any], base: dict[str, Any] | None = None) -> Search:
    """A search without any trial."""
    config = load_config(
        None, text=yaml.safe_dump({**(base or BASE), "output": str(folder), "tune": tune}, sort_keys=False)
    )
    return Search(config, Space(config), TrialStore(RunFolder.open(str(folder))), ROWS, lambda record: None)


def result_of(search: Search, folder: Path) -> dict[str, Any]:
    """What `result.json` would hold."""
    return summary(search, {"searched_s": 4000.0, "prepared_s": 61.0}, RunFolder.open(str(folder)))


def metrics(values: dict[str, float]) -> dict[str, Any]:
    """An evaluation with these AUCs."""
    aucs = {k: v for k, v in values.items() if k != "order"}
    return {
        "tasks": {k: {"kind": "binary", "auc": v, "logloss": 1.2 - v} for k, v in aucs.items()},
        "mean_auc": sum(aucs.values()) / len(aucs),
        "order_violation_rate": {"overall": values.get("order", 0.05)},
        "rows": 10_000,
    }


def add(
    search: Search,
    params: Params,
    effect: Effect,
    kind: Any = "search",
    status: Any = "finished",
    seed: int = 1,
    **more: Any,
) -> Trial:
    """Add a trial to the records; a stopped one has half its evaluations."""
    own = params if kind != "default" and more.pop("own", True) else {}
    number = search.trial_store.next_number()
    trial = Trial(number, kind, params, search.space.fields(own), {}, seed, **more)
    trial.config = search.space.config(own, seed).model_dump(mode="json")
    trial.status, trial.starts, trial.start_seconds = status, 1, 7.0
    last = {"finished": 6, "stopped": 2, "running": 1, "failed": 0}[status]
    final = effect(trial)
    for step in range(1, last + 1):
        short = 0.08 * (math.exp(-step / 2) - math.exp(-3))
        values = {k: v + short if k == "order" else v - short for k, v in final.items()}
        trial.history.append({"rows": ROWS * step // 6, "metrics": metrics(values)})
    trial.rows = ROWS * last // 6
    trial.train_seconds = 90.0 * last / 6
    if status == "failed":
        trial.reason = trial.reason or "RuntimeError: the loss is not finite (loop.py:88)"
    search.trial_store.trials[number] = trial
    return trial


def draws(search: Search, rng: random.Random) -> Params:
    """A random draw."""
    found: Params = {}
    for dimension in search.space.dimensions:
        d: Any = dimension.distribution
        if not search.space.active(dimension, found):
            continue
        if hasattr(d, "choices"):
            found[dimension.name] = rng.choice(d.choices)
        else:
            value = math.exp(rng.uniform(math.log(d.low), math.log(d.high))) if d.log else rng.uniform(d.low, d.high)
            found[dimension.name] = value if isinstance(d.low, float) else round(value)
    return found


def effect_of(rng: random.Random, noise: float = 0.0006) -> Effect:
    """The dense learning rate decides most; weights move AUC from task to task; alpha keeps the order and costs a little."""

    def effect(trial: Trial) -> dict[str, float]:
        tasks = trial.config["tasks"]
        total = sum(t["weight"] for t in tasks.values())
        dense = math.log10(trial.config["train"]["dense_optimizer"]["lr"]) + 2.8
        sparse = math.log10(trial.config["train"]["sparse_optimizer"]["lr"]) + 1.9
        alpha = trial.config["model"]["order_loss"]["alpha"]
        found = {}
        for i, (task, options) in enumerate(tasks.items()):
            share = math.log(options["weight"] / total * len(tasks))
            value = 0.74 + 0.03 * i - 0.010 * dense**2 - 0.002 * sparse**2 + 0.004 * share - 0.0012 * share**2
            found[task] = value - 0.002 * alpha * (i == 0) + 0.001 * alpha * (i == 2) + rng.gauss(0, noise)
        return {**found, "order": 0.002 + 0.06 * math.exp(-2.2 * alpha) + abs(rng.gauss(0, 0.003))}

    return effect


def filled(
    folder: Path, tune: dict[str, Any], trials: int = 30, seed: int = 5, repeats: int = 3, odd: bool = True
) -> Search:
    """A search with its trials and repeats; with `odd` some were stopped and one or two failed."""
    search, rng = make_search(folder, tune), random.Random(seed)
    effect = effect_of(rng)
    add(search, search.space.default() or {}, effect, "default")
    for n in range(1, trials):
        status = "failed" if odd and n % 14 == 6 else "stopped" if odd and n % 5 == 4 else "finished"
        add(search, draws(search, rng), effect, status=status)
    repeat(search, effect, repeats)
    return search


def repeat(search: Search, effect: Effect, seeds: int) -> None:
    """Repeats of the default and the best trial."""
    assert isinstance(search.tune, Tune)
    best = search.best(search.trial_store.of_kind("default", "search"))
    default = search.trial_store.trials[0]
    for n in range(1, seeds + 1):
        for trial in (default, best):
            if best is not None and best is not default and trial is not None:
                add(
                    search,
                    trial.params,
                    effect,
                    "repeat",
                    seed=trial.seed + n,
                    of=trial.number,
                    own=trial is not default,
                )
