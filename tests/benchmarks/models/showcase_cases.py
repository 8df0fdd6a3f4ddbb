"""The showcases: logs that need what a model was built for, the model and its rivals (docs/showcases.md)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.benchmarks.models.showcase_judges import (
    ACTIONS,
    Columns,
    judge_conversion,
    judge_funnel,
    judge_order,
    judge_position,
    judge_preferences,
    judge_scenarios,
)

Values = dict[str, Any]

PROPERTIES = ("hist_kinds", "hist_gaps", "hist_hours")
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
    eval_on: str = "logs"
    """Folder of the rows to evaluate on, below that of the case and seed."""
    train: Values = field(default_factory=dict)
    """Keys of `train` other than the usual ones."""


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
    prepare: Callable[[Path], None] | None = None
    """Derives more rows from the logs in a folder."""


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


TRUTH = ("p_click", "p_cart", "p_buy")
SEPARATE: Values = {"trunk": {"type": "shared_bottom", "hidden": []}}  # towers that share the tables only
APART: Values = {**SEPARATE, "towers": {"hidden": [128, 64]}}
MMOE: Values = {"preset": "mmoe", "trunk": {"type": "mmoe", "experts": 4, "hidden": [64, 32]}}
BOTTOM: Values = {"preset": "shared_bottom", "trunk": {"type": "shared_bottom", "hidden": [128, 64]}}
M2M: Values = {
    "preset": "m2m",
    "sequence": POOLED,
    "trunk": {"type": "m2m", "experts": 4, "hidden": [64, 32], "knowledge_dim": 16, "tower_layers": 2},
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
        variants={"shared_bottom": Variant(BOTTOM), "dtrn": Variant(DTRN)},
        judge=judge_funnel,
        truth=TRUTH,
    )


def preferences() -> Values:
    """Eight tasks that each have their own preference: whether a step of the funnel or an action follows the one before."""
    return {
        "click": {},
        "cart": {"given": "click"},
        "buy": {"given": "cart", "observed": "buy_mature"},
        **{name: {"given": "click"} for name in ACTIONS},
    }


def experts(width: int, balance: str = "fixed", own_only: bool = False) -> dict[str, Variant]:
    """Three trunks of about the same number of weights: one layer of 144 units and nine of 16, all ending at `width`."""
    trunks: dict[str, Values] = {
        "shared_bottom": {"type": "shared_bottom", "hidden": [144, width]},
        "mmoe": {"type": "mmoe", "experts": 9, "hidden": [16, width]},
        "ple": {"type": "ple", "levels": 1, "task_experts": 1, "shared_experts": 1, "hidden": [16, width]},
    }
    if own_only:
        trunks["ple, no shared expert"] = {**trunks["ple"], "shared_experts": 0}
    balanced = "" if balance == "fixed" else f", {balance}"
    return {
        f"{name}, {width} wide{balanced}": Variant(
            {"trunk": trunk, "towers": {"hidden": [16]}}, tasks=preferences(), train={"balance": {"type": balance}}
        )
        for name, trunk in trunks.items()
    }


def funnel(variants: tuple[str, ...], **rates: float) -> Case:
    """A funnel with the usual rates of clicks and stronger effects than usual."""
    towers: Values = {**SEPARATE, "towers": {"hidden": [128, 64, 32]}}
    entropy: Values = {"balance": {"type": "entropy"}}
    known = {
        "same towers": Variant(towers),
        "same towers, entropy": Variant(towers, train=entropy),
        "shared_bottom": Variant({"preset": "shared_bottom"}),
        "mmoe": Variant({"preset": "mmoe"}),
        "products": Variant({**towers, "coupler": {"type": "product"}}),
        "aitm": Variant({"preset": "aitm"}),
        "aitm, alpha 0": Variant({"preset": "aitm", "order_loss": {"alpha": 0.0}}),
        "aitm, entropy": Variant({"preset": "aitm"}, train=entropy),
    }
    return Case(
        logs={"signal": 1.5, **rates},
        variants={name: known[name] for name in variants or known},
        judge=judge_order,
        truth=TRUTH,
    )


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
        logs={
            "scenarios": [{"name": f"s{n}", "share": 1 / (n + 1), "click_rate": 0.2} for n in range(20)],
            "scenario_tastes": 1.5,
            "cart_rate": 0.06,
            "buy_rate": 0.02,
            "cart_not_logged": [],
        },
        variants={
            "mmoe": Variant(MMOE),
            "mmoe, larger": Variant({"preset": "mmoe", "trunk": {"type": "mmoe", "experts": 7, "hidden": [128, 64]}}),
            "mmoe with epnet": Variant({**MMOE, "refine": {"type": "epnet"}}),
            "mmoe with dcn_v2": Variant({**MMOE, "refine": {"type": "dcn_v2"}}),
            "m2m": Variant(M2M),
            "m2m with dcn_v2": Variant({**M2M, "refine": {"type": "dcn_v2"}}),
        },
        judge=judge_scenarios,
        truth=(*TRUTH, "scenario"),
        rows=2.0,
    ),
    "ple": Case(
        logs={
            "scenarios": [{"name": "feed", "share": 1, "click_rate": 0.5}],
            "cart_rate": 0.2,
            "buy_rate": 0.1,
            "engagement": True,
            "signal": 1.5,
            "cart_not_logged": [],
            "old_app": 0.0,
        },
        variants={
            **experts(16, own_only=True),
            **experts(4),
            **experts(16, balance="entropy"),
            **experts(4, balance="entropy"),
        },
        judge=judge_preferences,
        truth=(*TRUTH, *(f"p_{name}" for name in ACTIONS)),
    ),
    "conflict 0": conflict(0.0),
    "conflict 1": conflict(1.0),
    "aitm": funnel((), cart_rate=0.004, buy_rate=0.0004),
    "aitm, frequent buys": funnel(("same towers", "products", "aitm")),
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
