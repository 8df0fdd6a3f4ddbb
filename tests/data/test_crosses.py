"""Crosses: one ID for the combination of several features of a row."""

import numpy as np
import pyarrow as pa
import pytest

from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.count_ids import Tally, _CountTask, count_raw
from raymtl.data.ids.hashing import cross, hash_rows, hash_strings
from raymtl.data.units import Fragment
from raymtl.data.validation.run import check_data
from raymtl.serving.plan import default_keys, served_columns
from raymtl.serving.rows import new_users
from tests.helpers.small_data import make_config, write_file
from tests.helpers.validation_logs import DAYS, FEATURES, TABLES, config_of, good_rows, table

CONFIG = make_config(
    {
        "user": {"kind": "id", "column": "uid", "side": "user"},
        "age": {"kind": "bucket", "edges": [18, 40], "side": "user"},
        "item": {"kind": "id"},
        "pair": {"kind": "cross", "of": ["user", "age", "item"]},
        "self": {"kind": "cross", "of": ["age", "user"]},
    },
    tables={"pair": {"rows": 10**9}, "self": {"rows": 10**9}},
)
RAW = pa.table(
    {
        "uid": ["a", "b", None, "a", "a"],
        "age": pa.array([17, 18.5, 40, None, 99]),
        "item": pa.array([5, None, 7, 8, -1]),
        "click": pa.array([0, 0, 0, 0, 1], pa.int8()),
    }
)


def row_of(*ids: int) -> int:
    return int(hash_rows(cross([np.array([number], np.int64) for number in ids]), 10**9)[0])


def test_the_row_is_that_of_the_parts_ids_and_null_if_one_is():
    block = BlockMaker(CONFIG, evaluation=False)(RAW, Place("a.parquet", 0), 0)
    a, b = hash_strings(pa.array(["a", "b"])).tolist()
    assert block.column("id:pair").to_pylist() == [row_of(a, 0, 5), None, None, None, row_of(a, 2, -1)]
    assert block.column("id:self").to_pylist() == [row_of(0, a), row_of(1, b), None, None, row_of(2, a)]


def test_the_order_of_the_parts_counts_and_every_part_does():
    ids = np.arange(100_000)
    found = [cross(parts) for parts in ((ids, ids + 1), (ids + 1, ids), (ids,) * 2, (ids,) * 3, (ids * 0 - 5, ids))]
    assert len(np.unique(np.concatenate(found))) == 500_000


def test_it_needs_no_column_and_belongs_to_the_user_if_all_parts_do():
    assert BlockMaker(CONFIG, evaluation=False).raw_columns() == ["uid", "age", "item", "click"]
    assert (served_columns(CONFIG), default_keys(CONFIG)) == (["uid", "age", "item"], ["uid", "item"])
    assert CONFIG.user_features() == ["user", "age", "self"]
    assert new_users(RAW, CONFIG, CONFIG.user_features()).tolist() == [True, True, True, True, True]


def test_a_map_counts_its_ids(tmp_path):
    config = make_config(
        {
            "age": {"kind": "bucket", "edges": [18]},
            "item": {"kind": "id"},
            "pair": {"kind": "cross", "of": ["item", "age"]},
        },
        tables={"pair": {"rows": 5, "id_space": "map"}},
    )
    raw = pa.table({"item": [1, 1, 2, None, 1], "age": [20.0, 30, 3, 4, 5], "click": pa.array([0] * 5, pa.int8())})
    tallies = {"pair": Tally()}
    count_raw(config, raw, 3, tallies)
    counts = tallies["pair"].total()
    found = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert sorted(found.values()) == [1, 1, 2]
    (row,) = _CountTask(config, str(tmp_path), [Fragment(write_file(tmp_path, raw), (0,), 0, 5)])()
    assert dict(zip(row.column("ids:pair")[0].as_py(), row.column("counts:pair")[0].as_py(), strict=True)) == found


@pytest.mark.parametrize("absent", [0, 1])
def test_check_counts_rows_nulls_and_distinct_ids(tmp_path, in_process, absent):
    pairs = set()
    for n, day in enumerate(DAYS):
        rows = good_rows(2000, seed=n, day=day)
        rows["city"][:7] = [None] * 7 * absent + rows["city"][: 7 * (1 - absent)]
        write_file(tmp_path, table(rows, user=pa.string()), day)
        pairs |= {pair for pair in zip(rows["user"], rows["city"], strict=True) if pair[1] is not None}
    features = {**FEATURES, "pair": {"kind": "cross", "of": ["user", "city"]}}
    report = check_data(config_of(tmp_path, features=features, tables={**TABLES, "pair": {"rows": 100_000}}))
    assert (report.problems, report.warnings) == ([], [])
    pair = report.parts["train"].features["pair"]
    assert (pair.column, pair.rows, pair.nulls) == ("user × city", 6000, 21 * absent)
    assert pair.distinct == pytest.approx(len(pairs), rel=0.03)
    assert report.parts["train"].tables["pair"].distinct == pair.distinct
