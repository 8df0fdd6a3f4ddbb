"""Tables that start from a file: the same rows under any sharding, the last vector of a row, all others as `init` says."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.ids.id_map import MapRows
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.training.start_vectors import load_start_vectors
from tests.helpers.version_models import contents, make, mixed_config
from tests.helpers.worker_processes import several

DIM = 16
IDS = {"user": np.arange(-40, 40), "city": np.array([3, 29, 30, -1, 7, 3]), "item": np.arange(0, 100, 3)}
"""In a hash table several IDs share a row; `direct` has rows for some; a map knows some."""
KNOWN, ROWS = np.arange(0, 60, 2), np.arange(1, 31)
ONLY = np.array([2, 4, 7, 19])


def vectors_of(name: str) -> np.ndarray:
    return np.random.default_rng(len(name)).normal(size=(len(IDS[name]), DIM)).astype(np.float32)


def rows_of(name: str) -> np.ndarray:
    ids = IDS[name]
    if name == "user":
        return hash_rows(ids, 51)
    if name == "city":
        return np.where((ids >= 0) & (ids < 30), ids, -1)
    return np.array([1 + np.flatnonzero(one == KNOWN)[0] if one in KNOWN else -1 for one in ids])


def started(rank: int, workers: int, root: str, sharding: list[str | None]) -> Any:
    raw = mixed_config(sharding).model_dump(mode="json")
    for name in IDS:
        raw["tables"][name]["vectors"] = {"path": f"{root}/{name}.parquet", "id": "key", "vector": "values"}
    raw["tables"]["city"]["id_space"], raw["tables"]["item"]["id_space"] = "direct", "map"
    config = config_from_dict(raw)
    maps = MapRows({"item": IdLookup.build(KNOWN, ROWS)})
    built, part = make(config), make(config)
    before = contents(built)
    notes = load_start_vectors(config, built, maps, dist.group.WORLD)
    some = load_start_vectors(config, part, maps, dist.group.WORLD, {"item": ONLY, "tags": None})
    return before, contents(built), contents(part), notes, some


@pytest.mark.dist
@pytest.mark.parametrize("sharding", [["row_wise", "table_wise"], ["column_wise"], ["replicated"]], ids=str)
def test_rows_start_from_their_vectors(sharding: list[str | None], tmp_path: Path) -> None:
    for name, ids in IDS.items():
        values = pa.FixedSizeListArray.from_arrays(vectors_of(name).reshape(-1), DIM)
        pq.write_table(pa.table({"key": ids, "values": values}), tmp_path / f"{name}.parquet", row_group_size=7)
    before, after, part, notes, some = several(2, tmp_path / "work", started, str(tmp_path), sharding)[1]
    filled = {}
    for key, value in before.items():
        expected, only = value.clone(), value.clone()
        name = key.partition(" ")[0]
        if key.endswith(" weight") and name in IDS:
            for row, vector in zip(rows_of(name), vectors_of(name), strict=True):  # in order: the last one stays
                if row >= 0:
                    expected[row] = torch.from_numpy(vector)
                if name == "item" and row in ONLY:
                    only[row] = torch.from_numpy(vector)
            filled[name] = len({row for row in rows_of(name) if row >= 0})
        assert torch.equal(after[key], expected), key
        assert torch.equal(part[key], only), key
    count = len(set(ONLY) & set(rows_of("item")))
    assert notes == [
        f"table {name}: {filled[name]} rows of {rows} start from the {len(IDS[name])} vectors of {tmp_path}/{name}.parquet"
        for name, rows in {"user": 51, "city": 30, "item": 61}.items()
    ]
    assert some == [f"table item: {count} rows of 4 new start from the 34 vectors of {tmp_path}/item.parquet"]
    assert 1 < count < 4
