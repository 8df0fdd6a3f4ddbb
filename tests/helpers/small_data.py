"""Small configurations and data sets for the tests of the data layer."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.config.root import Config

DAY = "2026-01-01"
TABLELESS = ("dense", "bucket", "vector", "sequence_dense")
"""Kinds that need no entry in `tables`."""


def make_config(
    features: dict[str, Any] | None = None,
    tasks: dict[str, Any] | None = None,
    tables: dict[str, Any] | None = None,
    **data: Any,
) -> Config:
    """A valid configuration with the given parts; a table of 100 rows for every ID feature that names none, but buckets."""
    features = features or {"item": {"kind": "id"}}
    tasks = tasks or {"click": {"kind": "binary"}}
    lookups = {f.get("table", name) for name, f in features.items() if f["kind"] not in TABLELESS}
    sequences = any(f["kind"] == "sequence" for f in features.values())
    return Config.model_validate(
        {
            "data": {"path": "/nowhere", "train": {"start": DAY, "end": DAY}, **data},
            "features": features,
            "tables": {name: {"rows": 100} for name in lookups} | (tables or {}),
            "tasks": tasks,
            "train": {"precision": "fp32"},
            "model": {
                "trunk": {"type": "shared_bottom", "hidden": [4]},
                "sequence": {"type": "pooled" if sequences else "none"},
            },
        }
    )


def write_file(
    root: Path, table: pa.Table, day: str = DAY, name: str = "part-0.parquet", group_rows: int = 1_000_000
) -> str:
    """Write one parquet file of a day; returns its path."""
    path = root / f"ds={day}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group_rows, write_page_checksum=True)
    return str(path)


def click_rows(count: int, start: int = 0) -> pa.Table:
    """Rows with an item, a click every fourth row, and a row number."""
    numbers = range(start, start + count)
    return pa.table(
        {
            "item": pa.array([n % 50 for n in numbers], pa.int64()),
            "click": pa.array([int(n % 4 == 0) for n in numbers], pa.int8()),
            "row": pa.array(numbers, pa.int64()),
        }
    )
