"""The configuration that trains on synthetic logs."""

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa

from raymtl.data.writing import OutputFolder, rows_without_collision, write_config
from raymtl.storage.paths import split_options
from raymtl.synth.attributes import AGES, APPS, DEVICES, GENDERS
from raymtl.synth.behaviours import GAPS, KINDS
from raymtl.synth.columns import IMPRESSIONS
from raymtl.synth.engagement import ACTIONS
from raymtl.synth.shard import Shard
from raymtl.synth.spec import SynthSpec
from raymtl.synth.truth import ACTIVITY_LOG_MEAN, ACTIVITY_LOG_STD, PRICE_LOG_MEAN, PRICE_LOG_STD

_HEADER = """\
Synthetic logs of `raymtl synth`: a funnel of three steps, a count and a real target, with the true probability of every label.
{position}
p_click_first is the click probability at position 1, for models that remove the position effect.
{buy}
{history}"""
_POSITION = {
    "id": "`position` is an ordinary ID feature here; the model may use it, and so do the best achievable metrics.",
    "bias": "only the position tower reads `position`, and no prediction includes it; the best achievable metrics do.",
}
_BUYS = "`cart` is null if the app does not log it, `buy` if it may still arrive; null means not observed, never 0."
_LATE_BUYS = """\
`cart` is null if the app does not log it; null means not observed, never 0.
`buy` is final in all rows; `buy_time` says when it was made, which may be days after the impression."""
_HISTORY = "`hist_items` looks up the table of `item_id`."
_HISTORIES = """\
`hist_items`, `hist_carts` and `hist_buys` look up the table of `item_id`; `hist_kinds`, `hist_gaps` and `hist_hours` are the
kind, the age and the hour of each step of `hist_items`."""
_PROPERTIES = {"hist_kinds": KINDS, "hist_gaps": GAPS, "hist_hours": 24}
_ID_SLACK = 2  # rows per ID in the tables of users and items


def synth_config(spec: SynthSpec, root: str) -> dict[str, Any]:
    """A complete configuration for the logs of `spec` in `root`, as plain data for YAML.

    Trains on all days but the last and evaluates on the last; a single day serves as both.
    """
    dates = spec.dates()
    folder, options = split_options(root)
    return {
        "name": "synth",
        "data": {
            "path": root,
            "train": _days(dates[0], dates[-2] if len(dates) > 1 else dates[0]),
            "eval": _days(dates[-1], dates[-1]),
            "scenario": {"column": "scenario", "values": [s.name for s in spec.scenarios]},
            "weight": "weight",
            "group": "user_id",
            "timestamp": "timestamp",
            **({"impressions": IMPRESSIONS} if spec.layout == "nested" else {}),
            "unit_rows": min(spec.rows_per_day, 500_000),
        },
        "features": _features(spec),
        "table_defaults": {"dim": 16},
        "tables": _tables(spec),
        "tasks": _tasks(spec),
        "model": _model(spec),
        "train": {
            "sparse_optimizer": {"type": "adagrad"},
            "schedule": {"decay": "linear", "final_factor": 0.02},
        },
        "daily": {
            "store": f"{folder.rstrip('/')}-versions{options}",
            "bootstrap_days": max(1, len(dates) - 3),
            "schedule": {"decay": "linear", "final_factor": 0.02},
            "gate": {"holdout": 0.05},
        },
    }


def write_synth_config(spec: SynthSpec, folder: OutputFolder) -> str:
    """Write `synth_config` to the folder of the logs; returns the file's path."""
    history = _HISTORIES if spec.behaviours and spec.history else _HISTORY
    buy = _LATE_BUYS if spec.buy_delay_days else _BUYS
    header = _HEADER.format(position=_POSITION[spec.position], history=history, buy=buy)
    return write_config(synth_config(spec, folder.path), folder, header)


def _days(first: dt.date, last: dt.date) -> dict[str, str]:
    return {"start": str(first), "end": str(last)}


def _tasks(spec: SynthSpec) -> dict[str, Any]:
    # Weights inversely proportional to the losses: otherwise counts and amounts dominate the tables, and buy learns too little
    final: dict[str, Any] = {"delay_days": spec.buy_delay_days} if spec.buy_delay_days else {"observed": "buy_mature"}
    tasks: dict[str, Any] = {
        "click": {"kind": "binary", "truth": "p_click"},
        "cart": {"kind": "binary", "parent": "click", "weight": 2.0, "truth": "p_cart"},
        "buy": {"kind": "binary", "parent": "cart", "weight": 4.0, **final, "truth": "p_buy"},
        "page_views": {"kind": "count", "weight": 0.2, "truth": "mean_page_views"},
        "watch_time": {"kind": "real", "transform": "log1p", "weight": 0.1, "truth": "mean_watch_time"},
    }
    if spec.spend:
        # no log1p: nearly all labels are 0
        tasks["spend"] = {"kind": "real", "weight": 0.1, **final, "truth": "mean_spend"}
    if spec.engagement:
        tasks |= {name: {"kind": "binary", "parent": "click", "truth": f"p_{name}"} for name in ACTIONS}
        tasks["stars"] = {"kind": "real", "weight": 0.1, "truth": "mean_stars"}
    return tasks


def _model(spec: SynthSpec) -> dict[str, Any]:
    model: dict[str, Any] = {"preset": "mmoe"}
    if spec.history:
        model["sequence"] = {"type": "pooled"}
    if spec.position == "bias":
        # everything after a click depends on the position through it
        model["bias"] = {"type": "position", "tasks": [n for n, t in _tasks(spec).items() if t["kind"] == "binary"]}
    return model


def _features(spec: SynthSpec) -> dict[str, Any]:
    ids = ("user_id", "user_segment", "age", "gender", "city", "device", "app_version", "scenario", "hour_of_day")
    features: dict[str, Any] = {name: {"kind": "id", "side": "user"} for name in ids}
    features |= {name: {"kind": "id"} for name in ("position", "item_id", "category", "brand")}
    features["position"] = {"kind": spec.position}
    features["tags"] = {"kind": "ids"}
    if spec.history:
        length = {"max_length": spec.history}
        more = ("hist_carts", "hist_buys") if spec.behaviours else ()
        features |= {name: {"kind": "sequence", "table": "item_id", **length} for name in ("hist_items", *more)}
        features |= {name: {"kind": "sequence", **length} for name in _PROPERTIES if spec.behaviours}
        if spec.interest:
            features["hist_categories"] = {"kind": "sequence", "table": "category", **length}
    day = Shard(spec.model_copy(update={"shards": 1})).day(0)
    shown = day.draw_item.weights
    # in the true model, null means "no effect" for these two; it becomes 0 here, so use the true centre, not a measured one
    features["price"] = _dense("log1p", PRICE_LOG_MEAN, PRICE_LOG_STD)
    features["user_clicks_30d"] = {**_dense("log1p", ACTIVITY_LOG_MEAN, ACTIVITY_LOG_STD), "side": "user"}
    features["item_age_days"] = _dense("log1p", *_moments(np.log1p(day.items.age_days), shown))
    features["item_ctr_7d"] = _dense("none", *_moments(day.item_ctr, shown))
    features["rating"] = _dense("none", *_moments(day.item_rating, shown))
    return features


def _moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean and standard deviation of the values that are not NaN; 0 and 1 if there is none or one."""
    known = ~np.isnan(values)
    values, weights = values[known].astype(np.float64), weights[known]
    if not len(values):
        return 0.0, 1.0
    mean = float(np.average(values, weights=weights))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=weights))) or 1.0


def _dense(transform: str, mean: float, std: float) -> dict[str, Any]:
    return {"kind": "dense", "transform": transform, "mean": round(mean, 4), "std": round(std, 4)}


def _tables(spec: SynthSpec) -> dict[str, Any]:
    """Hash tables for growing and string IDs; small integers are their own row numbers."""
    users = spec.users * (1 + spec.new_users * (spec.days - 1))
    items = spec.items * (1 + spec.new_items * (spec.days - 1))
    words = {
        "age": AGES,
        "gender": GENDERS,
        "device": DEVICES,
        "app_version": APPS,
        "scenario": [s.name for s in spec.scenarios],
    }
    direct = {
        "user_segment": spec.segments,
        "city": spec.cities,
        "hour_of_day": 24,
        "position": spec.request_rows + 1,
        "category": spec.categories,
        "tags": spec.tag_values,
        **(_PROPERTIES if spec.behaviours and spec.history else {}),
    }
    return {
        "user_id": {"rows": _round_up(_ID_SLACK * users)},
        "item_id": {"rows": _round_up(_ID_SLACK * items)},
        "brand": {"rows": max(64, 8 * spec.brands)},
        **{name: {"rows": rows_without_collision(pa.chunked_array([list(values)]))} for name, values in words.items()},
        **{name: {"rows": rows, "id_space": "direct"} for name, rows in direct.items()},
    }


def _round_up(rows: float) -> int:
    """The next multiple of 1000, for readable sizes."""
    return int(-(-rows // 1000) * 1000)
