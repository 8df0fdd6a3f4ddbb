"""Clean logs for the tests of `raymtl check`, to be spoilt by them."""

from typing import Any

import numpy as np
import pyarrow as pa

from tests.helpers.small_data import make_config

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
FEATURES: dict[str, Any] = {
    "user": {"kind": "id"},
    "city": {"kind": "id"},
    "tags": {"kind": "ids", "max_length": 3},
    "price": {"kind": "dense", "transform": "log1p", "mean": 1.2, "std": 0.6},
}
TABLES = {"user": {"rows": 10_000}, "city": {"rows": 20, "id_space": "direct"}, "tags": {"rows": 1000}}
TASKS = {
    "click": {"kind": "binary", "truth": "p"},
    "buy": {"kind": "binary", "parent": "click", "observed": "mature"},
    "views": {"kind": "count"},
}


def good_rows(count: int = 400, seed: int = 0, day: str = DAYS[0]) -> dict[str, list]:
    """Columns of clean logs, as lists to be spoilt by a test."""
    random = np.random.default_rng(seed)
    click = random.integers(0, 2, count)
    start = np.datetime64(day, "us").astype(np.int64)
    return {
        "user": [f"u{n}" for n in random.integers(0, 300, count)],
        "city": random.integers(0, 20, count).tolist(),
        "tags": [list(map(int, random.integers(0, 90, n))) for n in random.integers(0, 5, count)],
        "price": np.exp(random.normal(0.5, 1, count)).tolist(),
        "click": click.tolist(),
        "p": random.random(count).tolist(),
        "buy": (click * random.integers(0, 2, count)).tolist(),
        "mature": (random.random(count) < 0.8).tolist(),
        "views": random.poisson(2, count).tolist(),
        "scene": random.choice(["feed", "search"], count).tolist(),
        "weight": random.choice([0.0, 1.0, 2.0], count).tolist(),
        "ts": [int(start + n) for n in random.integers(0, 86_400_000_000, count)],
    }


def table(columns: dict[str, list], **types: pa.DataType) -> pa.Table:
    types = {"ts": pa.timestamp("us"), "city": pa.int32(), **types}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


def config_of(root, days=DAYS, **data):
    features, tasks = data.pop("features", FEATURES), data.pop("tasks", TASKS)
    looked_up = {f.get("table", name) for name, f in features.items()}
    tables = {name: spec for name, spec in {**TABLES, **data.pop("tables", {})}.items() if name in looked_up}
    settings = {
        "path": str(root),
        "train": {"start": days[0], "end": days[-1]},
        "scenario": {"column": "scene", "values": ["feed", "search"]},
        "weight": "weight",
        "timestamp": "ts",
        "group": "user",
        "block_rows": 64,
    }
    return make_config(features, tasks, tables, **{**settings, **data})


def everything(root) -> dict[str, list]:
    """All rows of the clean data as one set of columns."""
    merged: dict[str, list] = {}
    for n, day in enumerate(DAYS):
        for part in range(2):
            for name, values in good_rows(seed=2 * n + part, day=day).items():
                merged.setdefault(name, []).extend(values)
    return merged
