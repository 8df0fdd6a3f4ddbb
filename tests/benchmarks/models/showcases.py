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
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

Values = dict[str, Any]
Columns = dict[str, np.ndarray]

PROCESSES = 2
DAYS = 6
PROPERTIES = ("hist_kinds", "hist_gaps", "hist_hours")
TRAIN: Values = {
    "batch_size": 512,  # few rows: the steps count
    "dense_optimizer": {"type": "adam", "lr": 3e-3},
    "sparse_optimizer": {"type": "rowwise_adagrad", "lr": 0.1},
    "schedule": {"decay": "linear", "final_factor": 0.02},
}
FUNNEL: Values = {
    "click": {"truth": "p_click"},
    "cart": {"parent": "click", "truth": "p_cart"},
    "buy": {"parent": "cart", "observed": "buy_mature", "truth": "p_buy"},
}
POOLED: Values = {"type": "pooled"}


@dataclass(frozen=True)
class Variant:
    """One model of a case: what it has other than the configuration that lies beside the logs."""

    model: Values
    tasks: Values = field(default_factory=lambda: FUNNEL)
    features: Values = field(default_factory=dict)
    """Features given anew; None takes one out."""
    train_on: str = "logs"
    """Folder of the rows to train on, below that of the case and seed."""
    eval_on: str = "logs"


@dataclass(frozen=True)
class Case:
    """Logs, the models to compare on them (the first is the plain rival of the others), and how to judge them."""

    logs: Values
    variants: dict[str, Variant]
    judge: Callable[[Columns], dict[str, float]]
    """Metrics from predictions and the columns of `truth`, by name."""
    truth: tuple[str, ...]
    rows: float = 1.0
    """Rows of a training day, as a multiple of --rows-per-day."""
    eval_rows: float = 1.0
    """Rows of the evaluation day, as a multiple of the same."""
    prepare: Callable[[Path], None] | None = None
    """Derives more rows from the logs in a folder."""


# ----------------------------------------------------------------------------------------------------------- judging


def expected_auc(truth: np.ndarray, scores: np.ndarray, rows: np.ndarray | None = None) -> float:
    """The AUC of the scores expected over labels drawn with the probabilities `truth`: every row is both, in part."""
    if rows is not None:
        truth, scores = truth[rows], scores[rows]
    truth = truth.astype(np.float64)
    _, place = np.unique(scores, return_inverse=True)
    positive, negative = np.bincount(place, truth), np.bincount(place, 1 - truth)
    below = np.cumsum(negative) - negative / 2
    return float((positive @ below) / (positive.sum() * negative.sum()))


def judge_funnel(columns: Columns, rows: np.ndarray | None = None) -> dict[str, float]:
    """AUC of every step, its gap to the best achievable, and the mean gap."""
    found: dict[str, float] = {}
    for task in FUNNEL:
        truth = columns[f"p_{task}"]
        found[f"{task} AUC"] = expected_auc(truth, columns[task], rows)
        found[f"{task} gap"] = expected_auc(truth, truth, rows) - found[f"{task} AUC"]
    found["mean gap"] = sum(found[f"{task} gap"] for task in FUNNEL) / len(FUNNEL)
    return found


def judge_conversion(columns: Columns) -> dict[str, float]:
    """P(buy | click) on all impressions, on the clicked ones, and on the half of them that is least likely clicked."""
    truth = columns["p_buy_if_clicked"] if "p_buy_if_clicked" in columns else columns["p_buy"] / columns["p_click"]
    score = columns["cvr" if "cvr" in columns else "conversion"]
    places = {
        "all": np.ones(len(truth), bool),
        "clicked": columns["click"] == 1,
        "rarely clicked": columns["p_click"] < np.median(columns["p_click"]),
    }
    found: dict[str, float] = {}
    for place, rows in places.items():
        found[f"AUC, {place}"] = expected_auc(truth, score, rows)
        found[f"best AUC, {place}"] = expected_auc(truth, truth, rows)
        found[f"calibration, {place}"] = float(score[rows].sum() / truth[rows].sum())
    return found


def judge_position(columns: Columns) -> dict[str, float]:
    """Clicks, against their probability had the item been shown first: over all scenarios, and the mean of each alone."""
    truth, random = columns["p_click_first"], columns["random_order"].astype(bool)
    score, scenario = columns["click"], columns["scenario"]
    within = [expected_auc(truth, score, scenario == value) for value in np.unique(scenario)]
    return {
        "AUC": expected_auc(truth, score),
        "AUC, random order": expected_auc(truth, score, random),
        "best AUC": expected_auc(truth, truth),
        "AUC within a scenario": sum(within) / len(within),
        "AUC as logged": expected_auc(columns["p_click"], score),
    }


def judge_order(columns: Columns) -> dict[str, float]:
    found = judge_funnel(columns)
    wrong = (columns["buy"] > columns["cart"]) | (columns["cart"] > columns["click"])
    return {**found, "order violations": float(wrong.mean())}


# ------------------------------------------------------------------------------------------------------- more rows


def only_live(folder: Path) -> None:
    """The rows of the small scenario alone."""
    for path in (folder / "logs").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        _write(table.filter(pc.equal(table["scenario"], "live")), folder / "live" / path.relative_to(folder / "logs"))


def all_first(folder: Path) -> None:
    """The evaluation day as if every row stood at position 1."""
    for path in _last_day(folder):
        table = pq.read_table(path, partitioning=None)
        n = table.schema.get_field_index("position")
        first = pc.add(pc.multiply(table["position"], 0), 1)
        _write(
            table.set_column(n, table.schema.field(n), first.cast(table.schema.field(n).type)),
            folder / "first" / path.relative_to(folder / "logs"),
        )


def _last_day(folder: Path) -> list[Path]:
    return sorted(sorted((folder / "logs").glob("ds=*"))[-1].glob("*.parquet"))


def _write(table: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


# ----------------------------------------------------------------------------------------------------------- cases

TRUTH = ("p_click", "p_cart", "p_buy")
SEPARATE: Values = {"trunk": {"type": "shared_bottom", "hidden": []}}  # towers that share the tables only
APART: Values = {**SEPARATE, "towers": {"hidden": [128, 64]}}
MMOE: Values = {"preset": "mmoe", "trunk": {"type": "mmoe", "experts": 4, "hidden": [64, 32]}}
PLE: Values = {
    "preset": "ple",
    "trunk": {"type": "ple", "levels": 2, "task_experts": 1, "shared_experts": 1, "hidden": [64, 32]},
}
BOTTOM: Values = {"preset": "shared_bottom", "trunk": {"type": "shared_bottom", "hidden": [128, 64]}}
M2M: Values = {
    "preset": "m2m",
    "sequence": POOLED,
    "trunk": {
        "type": "m2m",
        "experts": 4,
        "hidden": [64, 32],
        "knowledge": ["scenario", "user_segment"],
        "knowledge_dim": 16,
        "tower_layers": 1,
    },
}
TIM: Values = {
    "type": "tim",
    "behaviours": {"clicks": ["hist_items", *PROPERTIES], "carts": ["hist_carts"], "buys": ["hist_buys"]},
    "target": ["item_id", "category"],
    "width": 16,
}
DTRN: Values = {**MMOE, "preset": "dtrn", "sequence": TIM, "refine": {"type": "trm", "hidden": 32}}
DUPN: Values = {
    "type": "dupn",
    "item": ["hist_items"],
    "properties": list(PROPERTIES),
    "user": ["user_id", "user_segment", "age", "city", "user_clicks_30d"],
    "hidden": 32,
}


def click_and_buy() -> Values:
    """ESMM's tasks, both on all impressions."""
    return {"ctr": {"label": "click"}, "ctcvr": {"label": "buy", "parent": "ctr", "observed": "buy_mature"}}


def conversion(click_weight: float) -> Values:
    """The conversion as a task of its own on the clicked rows; without weight the click teaches the tables nothing."""
    return {
        "ctr": {"label": "click", "weight": click_weight},
        "conversion": {"label": "buy", "given": "ctr", "observed": "buy_mature"},
    }


def scenarios(feed: float, search: float, live: float, rate: float = 1.0) -> list[Values]:
    """The shares of the usual three, their click rates times `rate`."""
    shares, rates = {"feed": feed, "search": search, "live": live}, (0.12, 0.22, 0.16)
    return [{"name": n, "share": s, "click_rate": r * rate} for (n, s), r in zip(shares.items(), rates, strict=True)]


def escm2(**loss: Any) -> Values:
    return {"preset": "esmm", "conversion_loss": loss}


ESCM2: dict[str, Values] = {
    "esmm, clicked rows too": {"weight": 1.0},
    "escm2-ips": {"weight": 1.0, "min_propensity": 0.05},
}


def selection(logs: Values) -> Case:
    return Case(
        logs=logs,
        variants={
            "clicked rows, alone": Variant(APART, tasks=conversion(click_weight=0.0)),
            "clicked rows, with the click": Variant(APART, tasks=conversion(click_weight=1.0)),
            "esmm": Variant({"preset": "esmm"}, tasks=click_and_buy()),
            **{name: Variant(escm2(**loss), tasks=click_and_buy()) for name, loss in ESCM2.items()},
        },
        judge=judge_conversion,
        truth=("p_click", "p_buy", "click", *(["p_buy_if_clicked"] if "hidden_intent" in logs else [])),
    )


def conflict(share: float) -> Case:
    return Case(
        logs={"behaviours": True, "conflict": share, "history": 10},
        variants={name: Variant(m) for name, m in zip(CONFLICT, (BOTTOM, MMOE, PLE, DTRN), strict=True)},
        judge=judge_funnel,
        truth=TRUTH,
    )


CONFLICT = ("shared_bottom", "mmoe", "ple", "dtrn")

CASES: dict[str, Case] = {
    "esmm": selection({}),
    "esmm, rare clicks": selection(
        {"scenarios": scenarios(0.6, 0.3, 0.1, rate=0.2), "cart_rate": 0.012, "buy_rate": 0.006}
    ),
    "esmm, hidden intent": selection({"hidden_intent": 1.0}),
    "position": Case(
        logs={},
        variants={
            "no position": Variant(MMOE, features={"position": None}),
            "position as an input": Variant(MMOE),
            "position as an input, scored at 1": Variant(MMOE, eval_on="first"),
            "position tower": Variant(
                {**MMOE, "bias": {"type": "position", "tasks": list(FUNNEL)}}, features={"position": {"kind": "bias"}}
            ),
        },
        judge=judge_position,
        truth=("p_click", "p_click_first", "random_order", "scenario"),
        prepare=all_first,
    ),
    "m2m": Case(
        logs={"scenarios": scenarios(0.69, 0.30, 0.01), "cart_not_logged": []},
        variants={
            "mmoe": Variant(MMOE, eval_on="live"),
            "mmoe, only live": Variant(MMOE, train_on="live", eval_on="live"),
            "m2m": Variant(M2M, eval_on="live"),
        },
        judge=judge_funnel,
        truth=TRUTH,
        eval_rows=10.0,
        prepare=only_live,
    ),
    "conflict 0": conflict(0.0),
    "conflict 1": conflict(1.0),
    "aitm": Case(
        logs={"buy_rate": 0.002, "cart_rate": 0.01},
        variants={
            "same towers": Variant({**SEPARATE, "towers": {"hidden": [128, 64, 32]}}),
            "mmoe": Variant(MMOE),
            "aitm": Variant({"preset": "aitm"}),
            "aitm, alpha 0": Variant({"preset": "aitm", "order_loss": {"alpha": 0.0}}),
        },
        judge=judge_order,
        truth=TRUTH,
    ),
    "dupn": Case(
        logs={"behaviours": True, "drift": 0.0, "new_users": 0.0, "new_items": 0.0},
        variants={
            "pooled": Variant({"preset": "dupn", "sequence": POOLED}, features={"hist_carts": None, "hist_buys": None}),
            "dupn": Variant({"preset": "dupn", "sequence": DUPN}, features={"hist_carts": None, "hist_buys": None}),
        },
        judge=judge_funnel,
        truth=TRUTH,
        rows=2.0,
    ),
    "missing": Case(
        logs={"missing_signal": 1.0},
        variants={
            "fill": Variant(BOTTOM),
            "learned": Variant({**BOTTOM, "input": {"type": "concat", "missing": "learned"}}),
            "learned, with flags": Variant(
                {**BOTTOM, "input": {"type": "concat", "missing": "learned", "missing_flags": True}}
            ),
        },
        judge=judge_funnel,
        truth=TRUTH,
    ),
}


# ----------------------------------------------------------------------------------------------------------- running


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
        "last_day_rows": round(rows_per_day * case.eval_rows),
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
        "path": str(place / variant.train_on),
        "eval_path": str(place / variant.eval_on),
        "shuffle": {"seed": seed},
    }
    raw["features"] = {k: v for k, v in {**raw["features"], **variant.features}.items() if v}
    used = {f.get("table") or name for name, f in raw["features"].items()}
    raw["tables"] = {name: table for name, table in raw["tables"].items() if name in used}
    raw["tasks"] = deepcopy(variant.tasks)
    raw["model"] = {"sequence": POOLED, **deepcopy(variant.model)}
    raw["train"] = {**deepcopy(TRAIN), "seed": seed}
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
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seeds = range(options.seeds)
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for name in options.only or CASES:
            pool.map(write, [(name, seed, folder, options.rows_per_day) for seed in seeds], chunksize=1)
            jobs = [(name, variant, seed, folder) for seed in seeds for variant in CASES[name].variants]
            found = {(v, seed): metrics for _, v, seed, metrics in pool.imap_unordered(run, jobs)}
            for line in lines(name, found, seeds):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
