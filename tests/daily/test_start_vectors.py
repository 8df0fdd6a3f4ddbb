"""IDs that the daily job admits later start from the file of vectors too, and deltas of a frozen table hold only them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict
from raymtl.daily.day import DailyRequest
from raymtl.daily.runner import run_daily
from raymtl.data.ids.hashing import to_int64
from raymtl.model_store import store as versions
from raymtl.model_store.row_ids import read_map
from raymtl.storage.object_store import Store
from tests.helpers.daily_world import contents, daily_raw, day_of, write_day


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_new_ids_start_from_the_file(ray_cluster: None, tmp_path: Path) -> None:
    for number in range(3):
        write_day(tmp_path / "logs", number)
    names = [f"u{n}" for n in range(0, 70, 2)]  # the logs have all numbers
    vectors = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    pq.write_table(pa.table({"id": names, "vector": vectors.tolist()}), tmp_path / "users.parquet")
    raw = daily_raw(tmp_path / "logs", tmp_path / "store")
    raw["tables"]["user"] |= {"trainable": False, "vectors": {"path": str(tmp_path / "users.parquet")}}
    config = config_from_dict(raw)
    notes: list[str] = []
    for number in (1, 2):
        run_daily(
            config,
            DailyRequest(day_of(number)),
            address=None,
            on_event=lambda item: notes.append(str(item.get("note", ""))),
        )
    store = Store.open(str(tmp_path / "store"))
    chain = versions.chain(store, versions.show(store))
    assert len(chain) == 2
    held = [read_map(store, chain[: n + 1], "user") for n in range(2)]
    new = np.setdiff1d(held[1].ids, held[0].ids)
    given = dict(zip(to_int64(pa.array(names)).to_pylist(), vectors, strict=True))
    assert len({*new.tolist()} & given.keys()) > 3
    for version, id_map in zip(chain, held, strict=True):
        rows = contents(store, version.id)["user"]["embedding"]
        for one, row in zip(id_map.ids.tolist(), id_map.rows.tolist(), strict=True):
            assert one not in given or np.array_equal(rows[row], given[one])
    started = [note for note in notes if "start from the 35 vectors" in note]
    assert [note.split(" start")[0] for note in started] == [
        f"table user: {len({*held[0].ids.tolist()} & given.keys())} rows of 64",
        f"table user: {len({*new.tolist()} & given.keys())} rows of {len(new)} new",
    ]
    assert sum(file.rows or 0 for file in chain[1].tables["user"].files) < 64
