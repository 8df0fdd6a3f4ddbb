"""A run with tables from files, vectors of numbers and a refined input: what it says, and what its version holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict
from raymtl.data.build_id_maps import saved_maps
from raymtl.data.ids.hashing import to_int64
from raymtl.model_store.publish_run import publish_run
from raymtl.storage.object_store import Store
from raymtl.training import driver
from raymtl.training.rundir import RunFolder, run_folder
from tests.helpers.run_logs import DAYS, small_config, write_part

USERS = [f"u{n}" for n in range(0, 60, 2)]


def write_vectors(path: Path, ids: list[Any]) -> np.ndarray:
    vectors = np.random.default_rng(len(ids)).normal(size=(len(ids), 8)).astype(np.float32)
    pq.write_table(pa.table({"id": ids, "vector": vectors.tolist()}), path, row_group_size=11)
    return vectors


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_run_starts_its_tables_from_files(ray_cluster: None, tmp_path: Path) -> None:
    for day in DAYS:
        write_part(tmp_path / "logs", day, "part-0.parquet", 150, seed=3)
    items = write_vectors(tmp_path / "items.parquet", [*range(50, 120)])
    users = write_vectors(tmp_path / "users.parquet", USERS[:7] + ["other"])
    pq.write_table(pa.table({"name": USERS}), tmp_path / "vocabulary.parquet")
    raw = small_config(tmp_path / "logs", tmp_path / "runs", "files", workers=2)
    raw["features"]["user"]["null_id"] = "u0"
    raw["features"]["price"]["embed"] = {"type": "piecewise", "edges": [0.3, 1, 2.5]}
    raw["features"]["later"] = {"kind": "dense", "since": "2026-02-01", "embed": {"type": "autodis", "width": 4}}
    raw["model"]["refine"] = {"type": "dcn_v2", "rank": 4}
    raw["tables"]["item"] |= {"trainable": False, "vectors": {"path": str(tmp_path / "items.parquet")}}
    raw["tables"]["user"] = {
        "rows": 40,
        "id_space": "map",
        "vocabulary": {"path": str(tmp_path / "vocabulary.parquet"), "id": "name"},
        "vectors": {"path": str(tmp_path / "users.parquet")},
        "lr": 1e-9,
    }
    config = config_from_dict(raw)
    heard: list[dict[str, Any]] = []
    driver.train(config, on_event=heard.append)
    notes = [event["note"] for event in heard if "note" in event]
    assert "table user: 30 IDs of its vocabulary, 30 of them new" in notes
    assert f"table user: 7 rows of 40 start from the 8 vectors of {tmp_path}/users.parquet" in notes
    assert f"table item: 70 rows of 256 start from the 70 vectors of {tmp_path}/items.parquet" in notes

    folder, store = run_folder(config), Store.open(str(tmp_path / "store"))
    publish_run(folder, store, checkpoint=None, version="v1", check_lease=lambda: None)
    found = {
        name: pq.read_table(tmp_path / "store" / "versions" / "v1" / "tables" / name).sort_by("row")
        for name in ("item", "user")
    }
    assert "momentum1" not in found["item"].column_names
    weights = {name: np.stack(table.column("embedding").to_pylist()) for name, table in found.items()}
    assert np.array_equal(weights["item"][50:120].astype(np.float32), items)  # not one bit of them has changed
    id_map = saved_maps(config, RunFolder.open(folder))["user"].load()
    places, known = id_map.find(np.sort(to_int64(pa.array(USERS[:7])).to_numpy()))
    assert known.all()
    order = np.argsort(to_int64(pa.array(USERS[:7])).to_numpy())
    np.testing.assert_allclose(weights["user"][id_map.rows[places]], users[:7][order], atol=1e-6)
