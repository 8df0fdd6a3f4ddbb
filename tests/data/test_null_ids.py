"""`null_id`: null as an ID of its own, wherever IDs are read."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.count_ids import Tally, count_raw
from raymtl.data.ids.hashing import cross, hash_rows, id_of, to_int64
from tests.helpers.small_data import make_config

FEATURES: dict[str, dict[str, Any]] = {
    "city": {"kind": "id", "null_id": "unknown"},
    "place": {"kind": "id", "null_id": 7},
    "age": {"kind": "bucket", "edges": [18, 40], "null_id": 3},
    "pair": {"kind": "cross", "of": ["city", "age"]},
    "other": {"kind": "id", "column": "city"},
}
RAW = pa.table(
    {
        "city": ["a", None, "unknown", None, "b"],
        "place": pa.array([0, None, 7, 3, None]),
        "age": pa.array([18.0, None, 3.0, None, 50.0]),
        "click": pa.array([0] * 5, pa.int8()),
    }
)


def test_null_looks_up_its_own_row() -> None:
    config = make_config(FEATURES, tables={"place": {"rows": 8, "id_space": "direct"}})
    assert config.tables["age"].rows == 4
    block = BlockMaker(config, evaluation=False)(RAW, Place("a.parquet", 0), 0)
    found = {name: block.column(f"id:{name}").to_pylist() for name in FEATURES}
    cities = to_int64(pa.array(["a", "unknown", "unknown", "unknown", "b"])).to_numpy()
    ages = np.array([1, 3, 0, 3, 2])
    assert found["city"] == hash_rows(cities, 100).tolist()
    assert found["place"] == [0, 7, 7, 3, 7]
    assert found["age"] == ages.tolist()
    assert found["pair"] == hash_rows(cross([cities, ages]), 100).tolist()
    assert [row is None for row in found["other"]] == [False, True, False, True, False]


def test_maps_count_it_like_any_id() -> None:
    config = make_config(FEATURES, tables={n: {"rows": 50, "id_space": "map"} for n in ("city", "place")})
    tallies = {"city": Tally(), "place": Tally()}
    count_raw(config, RAW, 0, tallies)
    counts = {
        name: dict(zip(t.ids.tolist(), t.counts.tolist(), strict=True))
        for name, t in ((n, t.total()) for n, t in tallies.items())
    }
    assert counts["city"][id_of("unknown")] == 3
    assert counts["place"] == {0: 1, 7: 3, 3: 1}


@pytest.mark.parametrize(
    ("feature", "table", "words"),
    [
        (
            {"kind": "id", "null_id": 8},
            {"rows": 8, "id_space": "direct"},
            "features.x.null_id is 8, which is no row of the `direct` table `x`; set it to a number from 0 to 7 that no ID has",
        ),
        (
            {"kind": "id", "null_id": "?"},
            {"rows": 8, "id_space": "direct"},
            "features.x.null_id is '?', which is no row",
        ),
        (
            {"kind": "bucket", "edges": [1], "null_id": 5},
            {"rows": 4},
            "tables.x.rows is 4, but the buckets of features.x need 6; set it to 6 or more",
        ),
        ({"kind": "id", "null_id": 2**63}, {"rows": 8}, "less than 9223372036854775808"),
        ({"kind": "bucket", "edges": [1], "null_id": -1}, {"rows": 4}, "greater than or equal to 0"),
    ],
)
def test_an_impossible_one_is_refused(feature: dict[str, Any], table: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_config({"x": feature}, tables={"x": table})
    assert words in str(caught.value)
