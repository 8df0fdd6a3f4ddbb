"""Columns that a configuration asks for, and schemas that fit or not."""

import pyarrow as pa
import pytest

from raymtl.data.column_types import fits
from raymtl.data.contract import mixed_problems, plain_types, required_columns, schema_faults
from tests.helpers.small_data import make_config

CONFIG = make_config(
    features={
        "user": {"kind": "id", "column": "user_id"},
        "city": {"kind": "id"},
        "tags": {"kind": "ids"},
        "history": {"kind": "sequence", "table": "tags"},
        "price": {"kind": "dense"},
    },
    tables={"city": {"rows": 10, "id_space": "direct"}},
    tasks={
        "click": {"kind": "binary", "label": "clicked", "observed": "seen", "truth": "p"},
        "watch": {"kind": "real"},
    },
    scenario={"column": "scene", "values": ["feed"]},
    weight="w",
    group="user_id",
    timestamp="ts",
)
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "city": pa.int32(),
        "tags": pa.list_(pa.int64()),
        "history": pa.large_list(pa.int32()),
        "price": pa.float64(),
        "clicked": pa.int8(),
        "seen": pa.bool_(),
        "p": pa.float32(),
        "watch": pa.float32(),
        "scene": pa.string(),
        "w": pa.float32(),
        "ts": pa.timestamp("ms"),
        "extra": pa.binary(),
    }
)


def faults_of(schema: pa.Schema) -> list[str]:
    return [fault for _, fault in schema_faults(schema, CONFIG, required_columns(CONFIG))]


def changed(**types: pa.DataType) -> pa.Schema:
    return pa.schema({name: types.get(name, kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)})


def test_required_columns_in_the_order_of_the_configuration():
    columns = required_columns(CONFIG)
    assert [(c.name, c.kind, c.used_by) for c in columns] == [
        ("user_id", "id", "features.user"),
        ("city", "id", "features.city"),
        ("tags", "ids", "features.tags"),
        ("history", "ids", "features.history"),
        ("price", "number", "features.price"),
        ("clicked", "number", "tasks.click.label"),
        ("seen", "flag", "tasks.click.observed"),
        ("p", "number", "tasks.click.truth"),
        ("watch", "number", "tasks.watch.label"),
        ("scene", "category", "data.scenario.column"),
        ("w", "number", "data.weight"),
        ("user_id", "id", "data.group"),
        ("ts", "time", "data.timestamp"),
    ]
    assert [c.used_by for c in columns if not c.training] == ["tasks.click.truth", "data.group", "data.timestamp"]


def test_a_fitting_schema_with_an_extra_column():
    assert faults_of(SCHEMA) == []


FITTING = {
    "id": ["int8", "uint64", "string", "large_string"],
    "number": ["bool", "int8", "uint64", "float16", "float32", "float64"],
    "flag": ["bool", "int8", "uint32"],
    "category": ["int32", "string", "large_string"],
    "time": ["date32", "int64", "float64", "string"],
}


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in FITTING.items() for n in names])
def test_types_that_fit(kind, name):
    assert fits(pa.type_for_alias(name), kind)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("id", pa.dictionary(pa.int32(), pa.string())),
        ("id", pa.dictionary(pa.int8(), pa.int64())),
        ("id", pa.float64()),
        ("category", pa.float32()),
        ("ids", pa.list_(pa.float64())),
        ("ids", pa.list_(pa.string())),
        ("ids", pa.large_list(pa.int16())),
        ("ids", pa.list_(pa.int64(), 5)),
        ("ids", pa.list_(pa.null())),
        ("ids", pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        ("number", pa.decimal128(10, 2)),
        ("category", pa.dictionary(pa.int32(), pa.string())),
        ("time", pa.timestamp("us", "UTC")),
    ],
    ids=str,
)
def test_composed_types_that_fit(kind, found):
    assert fits(found, kind)


@pytest.mark.parametrize("kind", ["id", "ids", "number", "flag", "category", "time"])
def test_a_column_of_type_null_fits_every_kind(kind):
    assert fits(pa.null(), kind)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("id", pa.float16()),
        ("id", pa.list_(pa.int64())),
        ("id", pa.bool_()),
        ("ids", pa.int64()),
        ("ids", pa.list_(pa.float16())),
        ("ids", pa.list_(pa.list_(pa.int64()))),
        ("number", pa.string()),
        ("number", pa.list_(pa.float32())),
        ("flag", pa.float32()),
        ("category", pa.float16()),
        ("time", pa.list_(pa.string())),
    ],
    ids=str,
)
def test_types_that_do_not_fit(kind, found):
    assert not fits(found, kind)


def test_a_missing_column_and_what_it_may_be_called():
    names = ["price" if n == "price" else n for n in SCHEMA.names]
    schema = pa.schema([(n.replace("clicked", "clicks"), SCHEMA.field(n).type) for n in names])
    assert faults_of(schema) == [
        "column `clicked` (tasks.click.label) is missing; set tasks.click.label to `clicks`, or write the column"
    ]
    schema = pa.schema([("zzz", pa.int64())])
    assert "to one of zzz" in faults_of(schema)[0]


def test_a_wrong_type_says_what_was_expected():
    (fault,) = faults_of(changed(price=pa.string()))
    assert fault.startswith("column `price` (features.price) has type string, expected a number or a boolean;")


def test_strings_for_a_direct_table():
    for kind in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
        (fault,) = faults_of(changed(city=kind))
        assert "holds strings, but tables.city.id_space is `direct`" in fault


def test_a_column_that_is_there_twice():
    schema = SCHEMA.append(pa.field("price", pa.float32()))
    assert faults_of(schema) == ["column `price` (features.price) occurs 2 times; write each column once"]


def test_integers_in_one_file_and_strings_in_another():
    files = [("a.parquet", SCHEMA), ("b.parquet", changed(tags=pa.list_(pa.string())))]
    (problem,) = mixed_problems(files, required_columns(CONFIG))
    assert "`tags` (features.tags) holds integers in a.parquet and strings in b.parquet" in problem


@pytest.mark.parametrize("other", [pa.list_(pa.int8()), pa.list_(pa.null()), pa.null()], ids=str)
def test_other_widths_and_empty_columns_do_not_mix(other):
    assert mixed_problems([("a", SCHEMA), ("b", changed(tags=other))], required_columns(CONFIG)) == []


def test_types_in_words():
    assert plain_types([SCHEMA], required_columns(CONFIG)) == {
        "user_id": "string",
        "city": "integer",
        "tags": "list of integer",
        "history": "list of integer",
        "price": "number",
        "clicked": "number",
        "seen": "number",
        "p": "number",
        "watch": "number",
        "scene": "string",
        "w": "number",
        "ts": "time",
    }


@pytest.mark.parametrize(
    "other",
    [
        {
            "user_id": pa.large_string(),
            "city": pa.uint64(),
            "tags": pa.list_(pa.int8(), 3),
            "history": pa.list_(pa.null()),
        },
        {"user_id": pa.dictionary(pa.int32(), pa.string()), "city": pa.dictionary(pa.int8(), pa.int64())},
        {
            "price": pa.int64(),
            "clicked": pa.bool_(),
            "seen": pa.int8(),
            "watch": pa.decimal128(9, 2),
            "ts": pa.date32(),
        },
    ],
)
def test_types_in_words_do_not_tell_what_the_contract_does_not(other):
    columns = required_columns(CONFIG)
    assert plain_types([changed(**other), SCHEMA], columns) == plain_types([SCHEMA], columns)


def test_types_in_words_of_files_that_differ():
    found = plain_types(
        [SCHEMA.remove(0), changed(tags=pa.list_(pa.string()), ts=pa.int64())], required_columns(CONFIG)
    )
    assert (found["user_id"], found["tags"], found["ts"]) == (
        "string",
        "list of integer and list of string",
        "number and time",
    )
    found = plain_types([SCHEMA.remove(0).set(0, pa.field("city", pa.null()))], required_columns(CONFIG))
    assert (found["user_id"], found["city"]) == ("missing", "null")
