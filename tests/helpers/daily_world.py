"""A small world of several days for the daily job, and what a store holds in the end."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.model_store import store as versions
from raymtl.model_store.manifest import KEY, WEIGHT
from raymtl.storage.object_store import Store
from tests.helpers.run_logs import small_config, write_part

FIRST = dt.date(2026, 1, 1)
FILES = (150, 90, 120)


def day_of(number: int) -> dt.date:
    """The n-th day, from 0."""
    return FIRST + dt.timedelta(days=number)


def write_day(root: Path, number: int, files: tuple[int, ...] = FILES, **columns: Any) -> None:
    """One day's logs; its users come from a window that moves on by ten a day."""
    for n, rows in enumerate(files):
        random = np.random.default_rng([number, n])
        users = random.integers(10 * number, 10 * number + 40, rows)
        own = {"user": pa.array([f"u{u}" for u in users])} | columns
        write_part(root, str(day_of(number)), f"part-{n}.parquet", rows, seed=100 * number + n, **own)


def daily_raw(root: Path, store: Path, **daily: Any) -> dict[str, Any]:
    """Two days to begin with, IDs by map, a funnel whose end needs a day to be final."""
    raw = small_config(root, store.parent / "runs", "unused", workers=1)
    raw["data"]["unit_rows"] = 100
    raw["data"].pop("eval")
    raw["tables"]["user"] = {"rows": 64, "id_space": "map", "admit_count": 2, "evict_after_days": 1}
    raw["tasks"]["buy"]["delay_days"] = 1
    gate = {"holdout": 0.2, "norm_growth": 5.0, "calibration": [0.01, 100.0]}
    raw["daily"] = {"store": str(store), "bootstrap_days": 2, "bounds": None, "gate": gate, **daily}
    return raw


def contents(store: Store, version: str | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Every table of a version (published or not; None: the current one), whole: its own rows laid over those of the versions
    that it rests on, column by column."""
    chain = versions.chain(
        store, versions.show(store) if version is None else versions.read_unpublished(store, version)
    )
    found: dict[str, dict[str, np.ndarray]] = {}
    for manifest in chain:
        for name, table in manifest.tables.items():
            columns = found.setdefault(name, {})
            for state in table.state:
                if state in columns:
                    columns[state] = columns[state] * np.float32(manifest.state_decay)
            for file in table.files:
                path = store.inside(f"versions/{manifest.id}/{file.path}")
                read = pq.read_table(path, filesystem=store.filesystem)
                rows = read.column(KEY).to_numpy()
                for column in read.column_names[1:]:
                    values = _values(read.column(column), column)
                    columns.setdefault(column, np.zeros((table.rows, *values.shape[1:]), values.dtype))[rows] = values
    return found


def _values(column: pa.ChunkedArray, name: str) -> np.ndarray:
    if name == WEIGHT or pa.types.is_fixed_size_list(column.type):
        return np.stack(column.to_pylist()).astype(np.float32)
    if name == "last_seen_day":
        column = column.cast(pa.int32())
    return column.fill_null(-1).to_numpy() if column.null_count else column.to_numpy()


def same(a: dict[str, dict[str, np.ndarray]], b: dict[str, dict[str, np.ndarray]]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(
        a[t].keys() == b[t].keys() and all(np.array_equal(a[t][c], b[t][c]) for c in a[t]) for t in a
    )
