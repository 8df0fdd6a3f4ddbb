"""A published version made without Ray, and what evaluation predicts with its model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import hash_strings, to_int64
from raymtl.data.ids.id_map import IdMap, save_map
from raymtl.data.units import plan_input
from raymtl.embeddings.rows import table_rows
from raymtl.model_store.store import publish
from raymtl.model_store.writer import Draft, write_version
from raymtl.objectives.calibration.calibrator import Calibrator
from raymtl.storage.folder import Folder
from raymtl.storage.object_store import Store
from raymtl.training.build import TrainState, build
from tests.helpers.run_logs import DAYS, small_config, write_part

USER_SIDE = ["user", "place", "history", "gap", "likes", "age"]
ITEM_SIDE = ["item", "tags", "topics", "again", "price", "level", "content", "text", "cost"]
"""The features of `served_config` that logs have, in the order of the program's inputs."""
ROWS = 300
"""Rows of a day: two files, of 200 and 100."""


@contextmanager
def alone() -> Iterator[dist.ProcessGroup]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def few_features(root: Path, calibration: dict[str, Any] | None = None, **data: Any) -> Config:
    """`served_config` without the features that take long to trace and a layer for the history: for tests of what comes after
    them."""
    raw = served_config(root, calibration, **data).model_dump(mode="json")
    raw["features"] = {name: raw["features"][name] for name in ("user", "item", "history", "tags", "price", "age")}
    raw["tables"] = {name: raw["tables"][name] for name in ("user", "item", "tags")}
    raw["model"] |= {"sequence": {"type": "pooled"}, "bias": {"type": "none"}}
    return config_from_dict(raw)


def served_config(root: Path, calibration: dict[str, Any] | None = None, **data: Any) -> Config:
    """A funnel over string, `direct` and `map` IDs, lists, also with weights, a history with numbers, buckets, vectors, numbers
    as vectors, crosses of one side and of both, learned nulls and a position; MMoE with DUPN."""
    raw = small_config(root / "logs", root / "runs", "served")
    raw["features"] |= {
        "user": {"kind": "id"},
        "place": {"kind": "id", "side": "user"},
        "tags": {"kind": "ids", "max_length": 2},
        "again": {"kind": "ids", "column": "history", "table": "item"},
        "topics": {"kind": "ids", "column": "tags", "table": "tags", "weights": "tag_weights", "max_length": 2},
        "likes": {"kind": "ids", "weights": "likes", "side": "user", "table": "item", "max_length": 3},
        "gap": {"kind": "sequence_dense", "of": "history", "transform": "log1p", "mean": 1.0, "fill": -0.5},
        "level": {"kind": "bucket", "column": "price", "edges": [0.5, 1, 2.5]},
        "content": {"kind": "vector", "width": 3},
        "text": {"kind": "vector", "width": 3, "column": "content", "project": 5},
        "age": {"kind": "dense", "side": "user", "embed": {"type": "piecewise", "edges": [1, 2.5, 4, 6]}},
        "cost": {"kind": "dense", "column": "price", "embed": {"type": "autodis", "width": 4, "buckets": 3}},
        "pair": {"kind": "cross", "of": ["user", "level", "item"]},
        "visit": {"kind": "cross", "of": ["place", "user"]},
        "rank": {"kind": "bias"},
    }
    raw["tables"] |= {
        "pair": {"rows": 500},
        "visit": {"rows": 100},
        "user": {"rows": 30, "id_space": "map"},
        "place": {"rows": 16},
        "rank": {"rows": 8},
    }
    raw["tables"]["tags"]["pooling"] = "mean"
    raw["model"] = {
        "preset": "mmoe",
        "input": {"type": "concat", "missing": "learned", "missing_flags": True},
        "sequence": {"type": "dupn", "item": ["history"], "user": ["user"], "hidden": 8, "attention_hidden": 4},
        "coupler": {"type": "product"},
        "bias": {"type": "position"},
    }
    raw["data"] |= data
    if calibration is not None:
        raw["calibration"] = calibration
    return config_from_dict(raw)


def write_logs(root: Path) -> None:
    """Two days of rows; prices have gaps, and rows of one user and history lie together in threes."""
    import pyarrow as pa

    for seed, day in enumerate(DAYS):
        for name, rows in (("a", 200), ("b", 100)):
            random = np.random.default_rng([seed, rows])
            users = np.repeat(random.integers(0, 40, rows // 3 + 1), 3)[:rows]
            lists = [random.integers(0, 90, n).tolist() for n in random.integers(0, 9, rows // 3 + 1)]
            gaps = [[None if x < 0.2 else 100 * x for x in random.random(len(ids))] for ids in lists]
            likes = [list(zip(ids, some_weights(random, len(ids)), strict=True)) for ids in reversed(lists)]
            tags = [random.integers(0, 20, n).tolist() for n in random.integers(0, 4, rows)]
            write_part(
                root / "logs",
                day,
                f"{name}.parquet",
                rows,
                seed=10 * seed + rows,
                user=pa.array([f"u{n}" for n in users]),
                history=pa.array([lists[n // 3] for n in range(rows)], pa.list_(pa.int64())),
                gap=pa.array([gaps[n // 3] if n // 3 % 4 else None for n in range(rows)], pa.list_(pa.float64())),
                likes=pa.array([likes[n // 3] for n in range(rows)], pa.map_(pa.int64(), pa.float32())),
                tags=pa.array(tags, pa.list_(pa.int64())),
                tag_weights=pa.array([some_weights(random, len(ids)) for ids in tags], pa.list_(pa.float64())),
                age=pa.array(users % 8, mask=users % 5 == 0),
                place=pa.array(np.repeat(random.choice(["feed", "search", "mail"], rows // 3 + 1), 3)[:rows]),
                price=pa.array(random.lognormal(size=rows).astype(np.float32), mask=random.random(rows) < 0.2),
                content=pa.array([None if n % 5 == 2 else random.normal(size=3).tolist() for n in range(rows)]),
                rank=pa.array(random.integers(0, 8, rows)),
            )


def some_weights(random: np.random.Generator, count: int) -> list[float | None]:
    """Weights of a list, some of which are 0 or null."""
    return [None if x < 0.1 else max(0.0, x - 0.3) for x in random.random(count)]


def user_map() -> IdMap:
    """Half of the users have a row; the others are unknown."""
    import pyarrow as pa

    ids = hash_strings(pa.array([f"u{n}" for n in range(20)]))
    return IdMap.of(30, ids, np.arange(1, 21), np.ones(20), np.full(20, 20_000))


def publish_version(root: Path, config: Config, name: str = "v1", seed: int = 0, **writing: Any) -> np.ndarray:
    """Publish a model with random weights; returns evaluation's predictions of the second day, [rows, O].

    `writing`: more for `write_version`.
    """
    with alone() as group:
        torch.manual_seed(seed)
        built = build(config, dict.fromkeys(config.active_tasks(), 0.3), 1, torch.device("cpu"), group)
        with torch.no_grad():
            for parameter in built.model.module.head.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if (calibrator := built.model.module.head.ranker.calibrator) is not None:
                stir_maps(calibrator)
            for table in table_rows(built.model, group).values():
                for shard in table.local:
                    shard.weight.copy_(torch.randn_like(shard.weight))
        store = Store.open(str(root / "store"))
        days = {"train": [DAYS[0], DAYS[0]]}
        write_version(built, store, Draft(name, config, days), group, maps={"user": user_map()}, **writing)
        publish(store, name)
        return evaluated(built, config, root)


def stir_maps(calibrator: Calibrator) -> None:
    """Give every map of a calibrator parameters of its own."""
    maps = calibrator.maps
    if calibrator.method == "platt":
        maps.copy_(torch.stack([torch.rand(maps.shape[:-1]) + 0.5, torch.randn(maps.shape[:-1])], -1))
    else:
        maps.copy_(torch.rand_like(maps).add_(0.05).mul_(0.4).cumsum(-1) - 5)


def evaluated(built: TrainState, config: Config, root: Path) -> np.ndarray:
    """What the model says in evaluation: its own reading, collating, tables and head."""
    maps = {"user": save_map(user_map(), Folder.open(str(root)), "user.parquet")}
    maker = BlockMaker(config, evaluation=True, maps=maps)
    plan = plan_input(config, "eval")
    found = []
    built.model.eval()
    for fragment in (f for unit in plan.units for f in unit.fragments):
        for raw, row in read_fragment(plan.root, fragment, maker.raw_columns(), ROWS):
            block = maker(raw, Place(fragment.path, row), 0)
            with torch.no_grad():
                batch = Collator(config, len(block), True)([block])
                logits = built.model(batch)[1][0]
                found.append(built.model.module.head.ranker.predictions(logits, batch.scenario).numpy())
    return np.concatenate(found)


def raw_features(root: Path) -> dict[str, torch.Tensor]:
    """The second day as a server would send it, in the order of the program's inputs."""
    raw = pq.read_table(root / "logs" / f"ds={DAYS[1]}")
    made: dict[str, torch.Tensor] = {}
    columns = {"again": "history", "level": "price", "text": "content", "cost": "price", "topics": "tags"}
    for name in [*USER_SIDE, *ITEM_SIDE]:
        column = raw.column(columns.get(name, name)).combine_chunks()
        if name in ("content", "text"):
            made[name] = torch.tensor([[torch.nan] * 3 if row is None else row for row in column.to_pylist()])
        elif name in ("price", "level", "age", "cost"):
            made[name] = torch.tensor(column.to_numpy(zero_copy_only=False).astype(np.float32))
        elif name == "gap":
            history = raw.column("history").to_pylist()
            rows = [gaps or [None] * len(ids) for gaps, ids in zip(column.to_pylist(), history, strict=True)]
            made[name] = torch.tensor([np.nan if x is None else x for row in rows for x in row], dtype=torch.float32)
        elif name in ("history", "tags", "again", "topics", "likes"):
            rows = column.to_pylist() if name != "likes" else [[i for i, _ in row] for row in column.to_pylist()]
            weights = raw.column("tag_weights").to_pylist()
            if name == "likes":
                weights = [[w for _, w in row] for row in column.to_pylist()]
            made[name] = torch.tensor([i for row in rows for i in row])
            made[f"{name}.lengths"] = torch.tensor([len(row) for row in rows])
            if name in ("topics", "likes"):
                flat = [np.nan if w is None else w for row in weights for w in row]
                made[f"{name}.weights"] = torch.tensor(flat, dtype=torch.float32)
        else:
            made[name] = torch.tensor(to_int64(column).fill_null(0).to_numpy())
            made[f"{name}.present"] = torch.tensor(column.is_valid().to_numpy(zero_copy_only=False))
    places = raw.column("place").to_pylist()
    made["data.scenario"] = torch.tensor([["feed", "search"].index(p) if p != "mail" else 2 for p in places])
    return made
