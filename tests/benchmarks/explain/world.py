"""Logs with columns of known worth, and a version that is trained on them in this process, without Ray."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.read import Input, Schedule
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.model_store.store import publish
from raymtl.model_store.writer import Draft, write_version
from raymtl.storage.object_store import Store
from raymtl.training.build import build
from raymtl.training.progress import Progress
from raymtl.training.steps import planned_steps
from raymtl.training.trainer import Trainer, Worker
from tests.helpers.served_version import alone

START = dt.date(2026, 1, 1)
STRONG = ("item", "city", "price", "rate", "tags")
USELESS = (
    "noise_number", "noise_amount", "noise_half_null", "noise_small_id", "noise_id", "noise_large_id", "noise_text",
    "noise_list", "noise_vector", "noise_bucket",
)  # fmt: skip
USERS, ITEMS = 2000, 500


@dataclass(frozen=True)
class Truth:
    """What makes a label, the same on all days of a world."""

    user: np.ndarray
    item: np.ndarray
    city: np.ndarray
    tag: np.ndarray

    @classmethod
    def of(cls, seed: int) -> "Truth":
        random = np.random.default_rng([seed, 100])
        sizes = ((USERS, 0.3), (ITEMS, 0.8), (30, 0.8), (40, 0.8))
        return cls(*(random.normal(0, scale, size) for size, scale in sizes))


def columns_of_day(seed: int, day: int, rows: int, more: int = 0) -> dict[str, Any]:
    """A day's rows: five columns that matter, a copy of one of them, ten that do not; `more` further ones that do not."""
    truth, random = Truth.of(seed), np.random.default_rng([seed, day])
    user, item = random.integers(0, USERS, rows), (ITEMS * random.random(rows) ** 1.5).astype(np.int64)
    city, tags = random.integers(0, 30, rows), random.integers(0, 40, (rows, 3))
    price, rate = random.lognormal(2, 1, rows), random.normal(0, 1, rows)
    logit = truth.user[user] + truth.item[item] + truth.city[city] + truth.tag[tags].mean(1) * 1.7
    logit += 0.7 * rate - 0.7 * (np.log1p(price) - 2.1)
    click = random.random(rows) < 1 / (1 + np.exp(1 - logit))
    copy = rate + random.normal(0, 0.05, rows)
    found = {
        "user": pa.array([f"u{n}" for n in user]),
        "item": item,
        "city": pa.array([f"c{n}" for n in city]),
        "price": price,
        "rate": rate,
        "tags": pa.FixedSizeListArray.from_arrays(pa.array(tags.ravel()), 3).cast(pa.list_(pa.int64())),
        "rate_again": copy,
        "noise_number": random.normal(0, 1, rows),
        "noise_amount": random.lognormal(1, 2, rows),
        "noise_half_null": pa.array(random.normal(0, 1, rows), mask=random.random(rows) < 0.5),
        "noise_small_id": random.integers(0, 5, rows),
        "noise_id": random.integers(0, 200, rows),
        "noise_large_id": random.integers(0, 20_000, rows),
        "noise_text": pa.array([f"t{n}" for n in random.integers(0, 50, rows)]),
        "noise_list": pa.FixedSizeListArray.from_arrays(pa.array(random.integers(0, 60, 2 * rows)), 2).cast(
            pa.list_(pa.int64())
        ),
        "noise_vector": pa.FixedSizeListArray.from_arrays(pa.array(random.normal(0, 1, 4 * rows), pa.float32()), 4),
        "noise_bucket": random.normal(0, 1, rows),
        "click": click.astype(np.float32),
        "spend": np.where(click, random.poisson(2 + np.exp(0.5 * rate)), 0).astype(np.float32),
    }
    return found | {f"more_{n}": random.normal(0, 1, rows) for n in range(more)}


FEATURES: dict[str, dict[str, Any]] = {
    "user": {"kind": "id"},
    "item": {"kind": "id"},
    "city": {"kind": "id"},
    "price": {"kind": "dense", "transform": "log1p", "mean": 2.1, "std": 0.8},
    "rate": {"kind": "dense"},
    "tags": {"kind": "ids"},
    "rate_again": {"kind": "dense"},
    "noise_number": {"kind": "dense"},
    "noise_amount": {"kind": "dense", "transform": "log1p", "mean": 1.7, "std": 1.2},
    "noise_half_null": {"kind": "dense"},
    "noise_small_id": {"kind": "id"},
    "noise_id": {"kind": "id"},
    "noise_large_id": {"kind": "id"},
    "noise_text": {"kind": "id"},
    "noise_list": {"kind": "ids"},
    "noise_vector": {"kind": "vector", "width": 4},
    "noise_bucket": {"kind": "bucket", "edges": [-1.5, -0.7, 0, 0.7, 1.5]},
}
TABLES = {
    "user": 4000, "item": 1000, "city": 64, "tags": 100, "noise_small_id": 16, "noise_id": 500, "noise_large_id": 40_000,
    "noise_text": 128, "noise_list": 128,
}  # fmt: skip


def write_day(root: Path, day: int, columns: Mapping[str, Any]) -> None:
    folder = root / f"ds={START + dt.timedelta(days=day)}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), folder / "part-0.parquet", row_group_size=20_000)


def world_config(root: Path, days: int, features: Mapping[str, Any] = FEATURES, **more: Any) -> Config:
    """Train on the first `days` days."""
    last = START + dt.timedelta(days=days - 1)
    raw = {
        "name": "world",
        "output": str(root / "runs"),
        "data": {
            "path": str(root / "logs"),
            "train": {"start": str(START), "end": str(last)},
            "eval": {"start": str(last + dt.timedelta(days=1)), "end": str(last + dt.timedelta(days=1))},
            "group": "user",
        },
        "features": dict(features),
        "table_defaults": {"dim": 8},
        "tables": {name: {"rows": rows} for name, rows in TABLES.items() if name in features},
        "tasks": {"click": {}, "spend": {"kind": "count"}},
        "model": {"preset": "shared_bottom", "trunk": {"hidden": [64]}, "towers": {"hidden": [32]}},
        "train": {"batch_size": 1000, "threads_per_worker": 2, "precision": "fp32", "epochs": 1},
    }
    for section, values in more.items():
        raw[section] = {**raw.get(section, {}), **values}  # type: ignore[dict-item]
    return config_from_dict(raw)


def train_here(config: Config, root: Path, name: str = "v1") -> str:
    """Train a version in this process and publish it; returns the store."""
    plan = plan_input(config, "train")
    rates = sample_base_rates(config, plan)
    torch.manual_seed(config.train.seed)

    def stream(source: Input, schedule: Schedule, meetings: Sequence[int]) -> Iterator[pa.Table]:
        maker = BlockMaker(config, False, {})
        for place, (epoch, number) in enumerate(schedule):
            for fragment in plan.units[number].fragments:
                random = np.random.default_rng([epoch, number])
                for raw, row in read_fragment(plan.root, fragment, maker.raw_columns(), 65_536):
                    block = maker(raw, Place(fragment.path, row), place)
                    yield block.take(pa.array(random.permutation(len(block))))

    with alone() as group:
        inputs = {"train": Input(plan)}
        built = build(config, rates, planned_steps(config, plan, False), torch.device("cpu"), group)
        worker = Worker(0, 1, torch.device("cpu"), group, None, None, stream)
        progress = Progress(plan=plan.identity)
        Trainer(worker, config, built, inputs, progress, None, lambda: None).run()
        store = Store.open(str(root / "store"))
        days = [str(config.data.train.start), str(config.data.train.end)]
        write_version(built, store, Draft(name, config, {"train": days}), group, maps={})
        publish(store, name)
    return store.path
