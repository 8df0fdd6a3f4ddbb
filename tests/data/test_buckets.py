"""Numbers as IDs, by their bucket: edges, tables, nulls, and what `raymtl check` says of them."""

import numpy as np
import pyarrow as pa
import pytest

from raymtl.config.load import config_from_dict
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.contract import required_columns, schema_faults
from raymtl.data.count_ids import Tally, count_raw
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.small_data import make_config, write_file
from tests.helpers.validation_logs import DAYS, FEATURES, config_of, good_rows, table

EDGES = [-1.0, 0.0, 0.7, 1e6]
BUCKET = {"kind": "bucket", "edges": EDGES}
VALUES = [-2.0, -1.0, -0.5, -0.0, None, 0.7, np.nextafter(np.float32(0.7), np.float32(0)), 1e6, 3e38, 999_999.0]
IDS = [0, 1, 1, 2, None, 3, 2, 4, 4, 3]


def rows_of(config, values, **columns) -> list:
    raw = pa.table({"age": values, "click": pa.array([0] * len(values), pa.int8()), **columns})
    return BlockMaker(config, evaluation=False)(raw, Place("a.parquet", 10), 0).column("id:age").to_pylist()


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
def test_the_id_is_the_number_of_edges_that_are_not_above(kind):
    config = make_config({"age": BUCKET})
    assert rows_of(config, pa.array(VALUES, kind)) == IDS
    random = np.random.default_rng(0).normal(size=3001).astype(np.float32) * 3
    assert rows_of(config, pa.array(random)) == np.digitize(random, np.array(EDGES, np.float32)).tolist()


@pytest.mark.parametrize(
    "values", [pa.array([1, None, -7]), pa.array([True, None, False]), pa.nulls(3)], ids=["int", "bool", "null"]
)
def test_any_type_of_number_has_a_bucket(values):
    expected = [3, None, 0] if values.type == pa.int64() else [3, None, 2] if values.type == pa.bool_() else [None] * 3
    assert rows_of(make_config({"age": BUCKET}), values) == expected


def test_the_table_is_direct_with_a_row_per_bucket_unless_it_says_otherwise():
    table_ = make_config({"age": BUCKET}).tables["age"]
    assert (table_.rows, table_.id_space, table_.dim) == (5, "direct", 16)
    given = make_config({"age": BUCKET}, tables={"age": {"rows": 9, "dim": 8}}).tables["age"]
    assert (given.rows, given.id_space, given.dim) == (9, "direct", 8)
    config = make_config({"age": BUCKET}, tables={"age": {"rows": 50, "id_space": "hash"}})
    assert rows_of(config, pa.array([0.5, None])) == [int(hash_rows(np.array([2]), 50)[0]), None]
    shared = {"age": {**BUCKET, "table": "ages"}, "old": {"kind": "bucket", "edges": [5, 6, 7, 8, 9], "table": "ages"}}
    assert make_config(shared).tables["ages"].rows == 6
    mixed = make_config({"age": {**BUCKET, "table": "city"}, "city": {"kind": "id"}})
    assert mixed.tables["city"].id_space == "hash"


def test_a_configuration_that_is_written_out_is_the_same():
    config = make_config({"age": BUCKET})
    assert config_from_dict(config.model_dump(mode="json")).tables == config.tables


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_an_error(value):
    with pytest.raises(
        DataError, match=r"column `age` \(features.age\), row 11: the value is .*, expected a finite number"
    ):
        rows_of(make_config({"age": BUCKET}), pa.array([1.0, value, 2.0]))


def test_a_column_of_strings_is_refused_and_wide_decimals_are_not():
    config = make_config({"age": BUCKET})
    columns = required_columns(config)
    ((_, fault),) = schema_faults(pa.schema({"age": pa.string(), "click": pa.int8()}), config, columns)
    assert "column `age` (features.age) has type string, expected a number" in fault
    assert schema_faults(pa.schema({"age": pa.decimal128(30, 2), "click": pa.int8()}), config, columns) == []


def test_the_ids_of_a_map_are_counted():
    config = make_config({"age": BUCKET}, tables={"age": {"rows": 4, "id_space": "map"}})
    tallies = {"age": Tally()}
    count_raw(config, pa.table({"age": VALUES}), 3, tallies)
    counts = tallies["age"].total()
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == {0: 1, 1: 2, 2: 2, 3: 2, 4: 2}


def logs(root) -> None:
    for n, day in enumerate(DAYS):
        write_file(root, table(good_rows(2000, seed=n, day=day), user=pa.string()), day)


def test_check_counts_the_rows_of_each_bucket(tmp_path, in_process):
    logs(tmp_path)
    edges = [0.5, 1, 2, 4]
    features = {**FEATURES, "price": {"kind": "bucket", "edges": edges}}
    report = check_data(config_of(tmp_path, features=features))
    assert (report.problems, report.warnings) == ([], [])
    part = report.parts["train"]
    prices = np.concatenate([good_rows(2000, seed=n, day=day)["price"] for n, day in enumerate(DAYS)])
    price = part.features["price"]
    assert price.buckets == np.bincount(np.digitize(prices, edges)).tolist()
    assert (price.kind, price.table, price.distinct) == ("number", "price", 5)
    assert part.tables["price"].distinct == 5
    assert part.types["price"] == "number"


def test_check_warns_of_edges_beyond_the_numbers(tmp_path, in_process):
    logs(tmp_path)
    features = {**FEATURES, "price": {"kind": "bucket", "edges": [1, 1e6, 1e7]}}
    (warning,) = check_data(config_of(tmp_path, features=features)).warnings
    assert warning.startswith("train: features.price: 2 of the 4 buckets have no row (column `price` goes from 0.0")
    assert warning.endswith("); choose edges in that range")
