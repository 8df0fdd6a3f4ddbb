"""Small logs and a configuration for whole runs: an ID with nulls, a string ID, lists, a number, a funnel with gaps."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DAYS = ("2026-01-01", "2026-01-02")


def write_part(root: Path, day: str, name: str, rows: int, seed: int, **columns: Any) -> Path:
    """One parquet file of random rows; `columns` replace some."""
    random = np.random.default_rng(seed)
    users = random.integers(0, 40, rows)
    chance = 0.15 + 0.7 * (users % 2)
    click = (random.random(rows) < chance).astype(np.float32)
    buy = click * (random.random(rows) < 0.4)
    missing = random.random(rows) < np.where(np.arange(rows) < rows // 2, 0.7, 0.1)
    table = {
        "user": pa.array([f"u{n}" for n in users]),
        "item": pa.array(random.integers(0, 90, rows), mask=random.random(rows) < 0.1),
        "tags": pa.array(
            [random.integers(0, 20, n).tolist() for n in random.integers(0, 4, rows)], pa.list_(pa.int64())
        ),
        "history": pa.array(
            [random.integers(0, 90, n).tolist() for n in random.integers(0, 7, rows)], pa.list_(pa.int64())
        ),
        "price": pa.array(random.lognormal(size=rows).astype(np.float32)),
        "place": pa.array(random.choice(["feed", "search", "mail"], rows)),
        "click": pa.array(click),
        "buy": pa.array(buy, mask=missing),
    } | columns
    path = root / f"ds={day}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


def small_config(root: Path, output: Path, name: str, **train: Any) -> dict[str, Any]:
    """Train on the first day, evaluate on the second."""
    return {
        "name": name,
        "output": str(output),
        "data": {
            "path": str(root),
            "train": {"start": DAYS[0], "end": DAYS[0]},
            "eval": {"start": DAYS[1], "end": DAYS[1]},
            "scenario": {"column": "place", "values": ["feed", "search"]},
            "group": "user",
        },
        "features": {
            "user": {"kind": "id"},
            "item": {"kind": "id"},
            "tags": {"kind": "ids"},
            "history": {"kind": "sequence", "table": "item", "max_length": 5},
            "price": {"kind": "dense", "transform": "log1p"},
        },
        "table_defaults": {"dim": 8},
        "tables": {"user": {"rows": 512}, "item": {"rows": 256, "id_space": "direct"}, "tags": {"rows": 64}},
        "tasks": {"click": {}, "buy": {"parent": "click"}},
        "model": {
            "preset": "aitm",
            "sequence": {"type": "pooled"},
            "towers": {"hidden": [16, 8]},
            "coupler": {"type": "ait", "width": 8},
        },
        "train": {
            "batch_size": 64,
            "threads_per_worker": 1,
            "log_every_steps": 1,
            "precision": "fp32",
            "sparse_optimizer": {"lr": 0.05},
            **train,
        },
    }


def write_config(raw: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


def write_elastic_run(
    root: Path, name: str, files: int, rows: int, epochs: int, checkpoint: dict[str, Any] | None = None
) -> Path:
    """Write `files` files of `rows` rows, and the configuration of a run over them with 2 to 4 workers; returns its path."""
    for n in range(files):
        write_part(root / "logs", DAYS[0], f"part-{n:02}.parquet", rows, seed=n)
    write_part(root / "logs", DAYS[1], "part-0.parquet", 500, seed=99)
    raw = small_config(root / "logs", root / "runs", name, workers={"min": 2, "max": 4}, epochs=epochs)
    raw["train"] |= {"batch_size": 200, "resize_check_s": 5, "threads_per_worker": 1, "log_every_steps": 10}
    raw["train"] |= {} if checkpoint is None else {"checkpoint": checkpoint}
    raw["data"] |= {"unit_rows": rows, "block_rows": 200}
    return Path(write_config(raw, root / "config.yaml"))
