"""Raw columns to blocks: what null, NaN, empty and long values turn into, and the error of each broken value."""

import decimal
import math
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.config.slots.coupler import Product
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.ids.hashing import hash_rows, hash_strings, to_int64
from raymtl.data.units import Counted
from raymtl.data.user_slice import UserSlice
from raymtl.errors import DataError
from tests.helpers.small_data import make_config

PLACE = Place("logs/ds=2026-01-01/part-0.parquet", 1000)
CLICK = pa.array([0, 1, 0, 1], pa.int8())


def block_of(config, columns, evaluation=False, rows=None):
    """The block of raw columns; `click` is added where it is the only task."""
    rows = rows or len(next(iter(columns.values())))
    if "click" in config.tasks and "click" not in columns:
        columns = {**columns, "click": pa.array([0] * rows, pa.int8())}
    raw = pa.table({n: c if isinstance(c, pa.Array) else pa.array(c) for n, c in columns.items()})
    return BlockMaker(config, evaluation)(raw, PLACE, 7)


def one(kind, values, table=None, **options):
    """The block column of a single feature `f`."""
    config = make_config(
        {"f": {"kind": kind, **options}}, tables={"f": {"rows": 100, **(table or {})}} if kind != "dense" else None
    )
    role = {"id": "id", "bias": "id", "dense": "dense"}.get(kind, "ids")
    return block_of(config, {"f": values}).column(f"{role}:f").to_pylist()


def rows_of(ids):
    return [None if i is None else int(hash_rows(np.array([i]), 100)[0]) for i in ids]


def rows_of_text(texts):
    return [None if t is None else int(hash_rows(hash_strings(pa.array([t])), 100)[0]) for t in texts]


# Features of kind id


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.dictionary(pa.int8(), pa.int64())], ids=str
)
def test_integer_ids_are_hashed_and_null_stays_null(kind):
    assert one("id", pa.array([3, None, 0, 3], kind)) == rows_of([3, None, 0, 3])


@pytest.mark.parametrize("encode", [False, True])
def test_string_ids_and_the_empty_string(encode):
    ids = pa.array(["a", None, "", "日本"])
    assert one("id", ids.dictionary_encode() if encode else ids) == rows_of_text(["a", None, "", "日本"])


def test_negative_and_huge_ids_hash_too():
    assert one("id", pa.array([-1, 2**63 - 1, -(2**63)])) == rows_of([-1, 2**63 - 1, -(2**63)])


def test_direct_ids_are_rows():
    assert one("id", pa.array([0, None, 9], pa.int32()), {"rows": 10, "id_space": "direct"}) == [0, None, 9]


def test_what_stands_below_a_null_is_no_id():
    """A buffer may hold anything where the validity says null."""
    garbage = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x02"), pa.py_buffer(np.array([-5, 3]).tobytes())])
    assert one("id", garbage, {"rows": 10, "id_space": "direct"}) == [None, 3]


def test_columns_of_type_null_are_all_null():
    config = make_config(
        {"i": {"kind": "id"}, "t": {"kind": "ids"}, "d": {"kind": "dense", "fill": 2.0}},
        tasks={"click": {"kind": "binary", "observed": "seen"}},
        weight="w",
        scenario={"column": "s", "values": ["a"]},
        group="g",
    )
    block = block_of(
        config, dict.fromkeys(["i", "t", "d", "click", "seen", "w", "s", "g"], pa.nulls(2)), evaluation=True
    )
    assert block.column("id:i").to_pylist() == [None, None]
    assert block.column("ids:t").to_pylist() == [[], []]
    assert block.column("dense:d").to_pylist() == [2.0, 2.0]
    assert np.isnan(block.column("label:click").to_numpy()).all()
    assert block.column("weight").to_pylist() == [0.0, 0.0]
    assert block.column("scenario").to_pylist() == [1, 1]
    assert len(set(block.column("group").to_pylist())) == 2


# Features of kind ids and sequence


def test_null_and_empty_lists_are_empty_and_nulls_inside_are_left_out():
    lists = pa.array([[1, 2], None, [], [None, 3, None], [None]])
    assert one("ids", lists) == [rows_of([1, 2]), [], [], rows_of([3]), []]


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)], ids=str)
def test_every_list_type(kind):
    assert one("ids", pa.array([[1, 2], None, [3, 4]], kind)) == [rows_of([1, 2]), [], rows_of([3, 4])]


@pytest.mark.parametrize("inner", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_lists_of_strings(inner):
    lists = pa.array([["a"], [], ["b", "a"]], pa.list_(inner))
    assert one("ids", lists) == [rows_of_text(["a"]), [], rows_of_text(["b", "a"])]


def test_lists_that_are_all_empty_have_elements_of_type_null():
    assert one("ids", pa.array([[], [], None])) == [[], [], []]


def test_what_lies_below_a_null_list_is_no_id():
    lists = pa.ListArray.from_arrays([0, 2, 4], pa.array([1, 2, 3, 4]), mask=pa.array([True, False]))
    assert one("ids", lists) == [[], rows_of([3, 4])]


def test_long_lists_keep_their_first_ids_and_sequences_their_last():
    lists = pa.array([[1, 2, 3], [4], [], [5, None, 6, 7]])
    assert one("ids", lists, max_length=2) == [rows_of([1, 2]), rows_of([4]), [], rows_of([5, 6])]
    assert one("sequence", lists, max_length=2) == [rows_of([2, 3]), rows_of([4]), [], rows_of([6, 7])]
    assert one("ids", lists) == [rows_of([1, 2, 3]), rows_of([4]), [], rows_of([5, 6, 7])]


lists_of_ids = st.lists(
    st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-5, 200)), max_size=6)), max_size=12
)


@given(lists_of_ids, st.integers(1, 4), st.booleans(), st.data())
def test_lists_match_a_reference_for_any_slice(lists, longest, sequence, data):
    start = data.draw(st.integers(0, len(lists)))
    part = pa.array(lists, pa.list_(pa.int64())).slice(start)
    expected = []
    for row in lists[start:]:
        ids = [i for i in row or [] if i is not None]
        expected.append(rows_of(ids[-longest:] if sequence else ids[:longest]))
    assert one("sequence" if sequence else "ids", part, max_length=longest) == expected


@given(st.lists(st.one_of(st.none(), st.integers(-5, 200)), max_size=40), st.data())
def test_ids_match_a_reference_for_any_slice(ids, data):
    start = data.draw(st.integers(0, len(ids)))
    assert one("id", pa.array(ids, pa.int64()).slice(start)) == rows_of(ids[start:])
    direct = {"rows": 206, "id_space": "direct"}
    shifted = [None if i is None else i + 5 for i in ids]
    assert one("id", pa.array(shifted, pa.int64()).slice(start), direct) == shifted[start:]


# Dense features


def test_dense_values_are_transformed_then_normalised_and_null_is_filled():
    values = one("dense", pa.array([0.0, None, -3.0], pa.float64()), transform="log1p", mean=1.0, std=2.0, fill=-9.0)
    assert values == pytest.approx([(0 - 1) / 2, -9.0, (-math.log(4) - 1) / 2], rel=1e-6)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ([0, 8], [0, 0, 7, 8, 8]),
        ([None, 8], [-3, 0, 7, 8, 8]),
        ([0, None], [0, 0, 7, 8, 1e30]),
        ([-4, 1e31], [-3, 0, 7, 8, 1e30]),
    ],
)
def test_clip_comes_before_the_transform_and_leaves_null(clip, expected):
    raw = [-3.0, 0.0, 7.0, 8.0, 1e30]
    assert one("dense", [*raw, None], clip=clip, fill=99) == [*map(float, np.float32(expected)), 99]
    logs = one("dense", raw, clip=clip, transform="log1p", mean=0.5)
    assert logs == pytest.approx([math.copysign(math.log1p(abs(x)), x) - 0.5 for x in expected], rel=1e-6)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None], pa.int64()),
        pa.array([1, None], pa.uint8()),
        pa.array([True, None]),
        pa.array([1.0, None], pa.float16()),
        pa.array([decimal.Decimal("1.00"), None]),
    ],
    ids=lambda c: str(c.type),
)
def test_every_number_type(column):
    assert one("dense", column, fill=5.0) == [1.0, 5.0]


# Labels, weights and the rest


def labels(task, columns, name="click"):
    config = make_config(tasks={name: task})
    rows = len(next(iter(columns.values())))
    found = block_of(config, {"item": pa.array([1] * rows), **columns}).column(f"label:{name}").to_numpy()
    return [None if np.isnan(v) else float(v) for v in found]


def test_null_and_nan_labels_are_not_observed():
    assert labels({"kind": "binary"}, {"click": pa.array([0.0, 1.0, None, math.nan])}) == [0, 1, None, None]


@pytest.mark.parametrize(
    "flags", [pa.array([True, False, None, True]), pa.array([1, 0, None, 2], pa.int8())], ids=["bool", "int"]
)
def test_the_observed_column_decides_and_null_means_not_observed(flags):
    found = labels(
        {"kind": "binary", "observed": "seen"}, {"click": pa.array([1, 1, 1, None], pa.int8()), "seen": flags}
    )
    assert found == [1, None, None, None]


def test_what_is_not_observed_may_hold_anything():
    columns = {"click": pa.array([-1, 1], pa.int8()), "seen": pa.array([False, True])}
    assert labels({"kind": "binary", "observed": "seen"}, columns) == [None, 1]


@pytest.mark.parametrize(
    "column", [pa.array([True, False]), pa.array([1, 0], pa.uint8()), pa.array([1.0, 0.0])], ids=str
)
def test_labels_of_every_type(column):
    assert labels({"kind": "binary"}, {"click": column}) == [1, 0]


def test_counts_and_real_labels():
    assert labels({"kind": "count"}, {"views": pa.array([0, 7, None])}, "views") == [0, 7, None]
    assert labels({"kind": "real"}, {"gain": pa.array([-2.5, 0.5, None])}, "gain") == [-2.5, 0.5, None]


def test_labels_may_have_another_name_and_several_tasks_one_column():
    config = make_config(tasks={"a": {"kind": "binary", "label": "y"}, "b": {"kind": "count", "label": "y"}})
    block = block_of(config, {"item": pa.array([1, 2]), "y": pa.array([0, 1])})
    assert block.column("label:a").to_pylist() == block.column("label:b").to_pylist() == [0, 1]


@pytest.mark.parametrize("column", [pa.array([1.5, None, 0.0]), pa.array([2, None, 0])], ids=["float", "int"])
def test_null_weight_counts_as_zero(column):
    block = block_of(make_config(weight="w"), {"item": pa.array([1, 2, 3]), "w": column})
    assert block.column("weight").to_pylist() == [column[0].as_py(), 0.0, 0.0]


def test_boolean_weights():
    block = block_of(make_config(weight="w"), {"item": pa.array([1, 2, 3]), "w": pa.array([True, None, False])})
    assert block.column("weight").to_pylist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["b", "a", None, "c"]),
        pa.array(["b", "a", None, "c"]).dictionary_encode(),
        pa.array(["x", "b", "a", None, "c"]).dictionary_encode().slice(1),
        pa.array(["b", "a", None, "c"], pa.large_string()),
    ],
    ids=["string", "dictionary", "slice", "large"],
)
def test_scenarios_by_their_place_in_the_configuration(column):
    config = make_config(scenario={"column": "s", "values": ["a", "b"]})
    assert block_of(config, {"item": pa.array([1] * 4), "s": column}).column("scenario").to_pylist() == [1, 0, 2, 2]


def test_integer_scenarios():
    config = make_config(scenario={"column": "s", "values": [10, 20]})
    column = pa.array([20, 10, 30, None], pa.int16())
    assert block_of(config, {"item": pa.array([1] * 4), "s": column}).column("scenario").to_pylist() == [1, 0, 2, 2]


def test_group_and_truth_are_read_for_evaluation_alone():
    config = make_config(tasks={"click": {"kind": "binary", "truth": "p"}}, group="user")
    raw = {
        "item": pa.array([1, 2]),
        "click": pa.array([0, 1]),
        "p": pa.array([0.25, None]),
        "user": pa.array(["u1", None]),
    }
    assert BlockMaker(config, evaluation=False).raw_columns() == ["item", "click"]
    assert BlockMaker(config, evaluation=True).raw_columns() == ["item", "click", "p", "user"]
    assert block_of(config, raw).column_names == ["id:item", "label:click", "unit"]
    block = block_of(config, raw, evaluation=True)
    assert block.column("group")[0].as_py() == hash_strings(pa.array(["u1"]))[0]
    assert block.column("truth:click").to_pylist() == [0.25, pytest.approx(math.nan, nan_ok=True)]


def test_rows_without_a_group_are_groups_of_their_own_the_same_each_time():
    config = make_config(group="user")
    columns = {"item": pa.array([1] * 4), "user": pa.array([5, None, None, 5])}
    groups = block_of(config, columns, evaluation=True).column("group").to_pylist()
    assert (groups[0], groups[3]) == (5, 5)
    assert len(set(groups)) == 3
    assert groups == block_of(config, columns, evaluation=True).column("group").to_pylist()
    raw = pa.table({**columns, "click": pa.array([0] * 4)})
    for other in (Place(PLACE.path, 1004), Place("another.parquet", 1000)):
        assert not {*groups[1:3]} & {*BlockMaker(config, True)(raw, other, 0).column("group").to_pylist()}


def test_types_of_a_block():
    config = make_config({"i": {"kind": "id"}, "t": {"kind": "ids"}, "d": {"kind": "dense"}}, weight="w")
    columns = {"i": pa.array([1]), "t": pa.array([[1]]), "d": pa.array([1]), "w": pa.array([1])}
    schema = block_of(config, columns).schema
    assert dict(zip(schema.names, map(str, schema.types), strict=True)) == {
        "id:i": "int64",
        "ids:t": "list<item: int64>",
        "dense:d": "float",
        "label:click": "float",
        "weight": "float",
        "unit": "int32",
    }


def test_columns_in_chunks():
    chunked = pa.chunked_array([pa.array(["a"]).dictionary_encode(), pa.array(["b", None]).dictionary_encode()])
    raw = pa.table({"item": chunked, "click": pa.chunked_array([[0], [1, 0]])})
    block = BlockMaker(make_config(), False)(raw, PLACE, 0)
    assert block.column("id:item").to_pylist() == rows_of_text(["a", "b", None])
    assert block.column("label:click").to_pylist() == [0, 1, 0]


def test_no_rows():
    config = make_config({"i": {"kind": "id"}, "t": {"kind": "ids", "max_length": 2}, "d": {"kind": "dense"}})
    columns = {
        "i": pa.array([], pa.string()),
        "t": pa.array([], pa.list_(pa.string())),
        "d": pa.array([], pa.float32()),
    }
    assert len(block_of(config, {**columns, "click": pa.array([], pa.int8())}, rows=0)) == 0


def test_a_maker_travels_to_the_reading_tasks():
    maker = pickle.loads(pickle.dumps(BlockMaker(make_config(), False)))
    assert maker.raw_columns() == ["item", "click"]


# Broken values: file, column, key, row of the file, value and remedy

BROKEN = {
    "NaN": (
        {"item": {"kind": "dense"}},
        {},
        {"item": [1.0, None, math.nan]},
        "`item` (features.item), row 1002: the value is nan, expected a finite number; write null",
    ),
    "infinity": (
        {"item": {"kind": "dense", "transform": "log1p"}},
        {},
        {"item": [1.0, -math.inf, 2.0]},
        "row 1001: the value is -inf",
    ),
    "too large for float32": (
        {"item": {"kind": "dense"}},
        {},
        {"item": [1.0, 1e300, 2.0]},
        "row 1001: the value is 1e+300",
    ),
    "binary": (
        None,
        {"click": {}},
        {"click": [0, 1, 2]},
        "`click` (tasks.click.label), row 1002: the label is 2, expected 0 or 1; fix the logs",
    ),
    "fraction": (None, {"click": {}}, {"click": [0.5, 1, 0]}, "row 1000: the label is 0.5, expected 0 or 1"),
    "count": (
        None,
        {"click": {"kind": "count"}},
        {"click": [1, None, -1]},
        "row 1002: the label is -1, expected a finite number ≥ 0",
    ),
    "infinite count": (
        None,
        {"click": {"kind": "count"}},
        {"click": [1.0, math.inf, 1.0]},
        "row 1001: the label is inf",
    ),
    "real": (
        None,
        {"click": {"kind": "real"}},
        {"click": [1.0, -math.inf, 1.0]},
        "row 1001: the label is -inf, expected a finite number;",
    ),
    "log of negative": (
        None,
        {"click": {"kind": "real", "transform": "log1p"}},
        {"click": [1.0, -0.5, 1.0]},
        "row 1001: the label is -0.5, expected a finite number ≥ 0",
    ),
    "weight": (
        None,
        {},
        {"weight": [1.0, 0.0, -1.0]},
        "`weight` (data.weight), row 1002: the weight is -1.0, expected a finite number ≥ 0",
    ),
    "weight NaN": (None, {}, {"weight": [1.0, math.nan, 1.0]}, "row 1001: the weight is nan"),
    "weight infinite": (None, {}, {"weight": [math.inf, 1.0, 1.0]}, "row 1000: the weight is inf"),
    "direct id": (
        None,
        {},
        {"direct": [0, 10, 5]},
        "`direct` (features.direct), row 1001: the ID is 10, expected 0 to 9",
    ),
    "negative id": (None, {}, {"direct": [0, None, -1]}, "row 1002: the ID is -1"),
    "direct list": (
        None,
        {},
        {"lists": [[1, None, 2], [], [3, 77]]},
        "`lists` (features.lists), row 1002: the ID is 77, expected 0 to 9",
    ),
    "direct list after a null": (None, {}, {"lists": [None, [-1], [3]]}, "row 1001: the ID is -1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_value_names_its_place_and_the_remedy(case):
    features, tasks, columns, words = BROKEN[case]
    raw: dict = {"item": [1, 2, 3], "click": [0, 0, 0], **columns}
    features = dict(features or {"item": {"kind": "id"}})
    tables = {}
    for name, kind in (("direct", "id"), ("lists", "ids")):
        if name in raw:
            features[name] = {"kind": kind}
            tables[name] = {"rows": 10, "id_space": "direct"}
    config = make_config(features, tasks or None, tables, **({"weight": "weight"} if "weight" in raw else {}))
    with pytest.raises(DataError) as caught:
        block_of(config, raw)
    message = str(caught.value)
    assert message.startswith(f"{PLACE.path}: column ")
    assert words in message
    assert "\n" not in message


def test_a_broken_value_in_a_list_that_would_be_cut_off_does_not_count():
    assert one("ids", pa.array([[1, 77]]), {"rows": 10, "id_space": "direct"}, max_length=1) == [[1]]


# The rows of some users alone

USERS = UserSlice("user", 5, 0.5, True)
OTHERS = UserSlice("user", 5, 0.5, False)
WORDS = pa.array(["a", None, "b", "c", "a", "d", "e", None, "f", "b"])


def all_kinds(**changes):
    """A configuration with every role of a column, and raw rows for it; the users are strings."""
    config = make_config(
        {"i": {"kind": "id"}, "t": {"kind": "ids", "max_length": 2}, "s": {"kind": "sequence"}, "d": {"kind": "dense"}},
        tasks={"click": {"truth": "p"}},
        tables={name: {"rows": 50, "id_space": "direct"} for name in "its"},
        weight="w",
        scenario={"column": "place", "values": ["x"]},
        group="user",
    )
    rows = len(WORDS)
    numbers = [float(n) for n in range(rows)]
    columns = {
        "user": WORDS,
        "i": pa.array([None if n % 4 == 1 else n for n in range(rows)]),
        "t": [[n, None, n + 1, 49] if n % 3 else None for n in range(rows)],
        "s": [[n] * (n % 3) for n in range(rows)],
        "d": numbers,
        "click": pa.array([n % 2 for n in range(rows)], pa.int8()),
        "p": [n / 10 for n in numbers],
        "w": numbers,
        "place": pa.array(["x", "y"] * (rows // 2)).dictionary_encode(),
    }
    return config, pa.table({n: c if isinstance(c, pa.Array) else pa.array(c) for n, c in (columns | changes).items()})


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("start", [0, 3])
def test_the_rows_of_some_users_are_those_of_the_full_block(evaluation, start):
    config, raw = all_kinds()
    raw = raw.slice(start)
    whole = BlockMaker(config, evaluation)(raw, PLACE, 7)
    chosen = USERS.contains(to_int64(WORDS.slice(start)))
    assert 0 < chosen.sum() < len(raw)
    for users, kept in ((USERS, chosen), (OTHERS, ~chosen)):
        maker = BlockMaker(config, evaluation, users=users)
        assert "user" in maker.raw_columns()
        assert len(set(maker.raw_columns())) == len(maker.raw_columns())
        assert maker(raw, PLACE, 7).equals(whole.filter(pa.array(kept)))  # so with the groups of rows without a user


def test_no_user_of_the_slice():
    config, raw = all_kinds()
    none = raw.filter(pa.array(OTHERS.contains(to_int64(WORDS))))
    block = BlockMaker(config, True, users=USERS)(none, PLACE, 7)
    assert len(block) == 0
    assert block.schema == BlockMaker(config, True)(raw, PLACE, 7).schema
    nobody = all_kinds(user=pa.nulls(len(WORDS)))[1]  # a column without any value
    assert len(BlockMaker(config, False, users=USERS)(nobody, PLACE, 7)) == 0
    assert len(BlockMaker(config, False, users=OTHERS)(nobody, PLACE, 7)) == len(WORDS)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("i", 50, "the ID is 50"),
        ("t", [3, 77], "the ID is 77"),
        ("s", [1, 2, -4], "the ID is -4"),
        ("d", math.inf, "the value is inf"),
        ("click", 2, "the label is 2"),
        ("w", -1.0, "the weight is -1.0"),
    ],
)
def test_errors_name_the_row_of_the_file_and_only_of_rows_that_are_read(column, value, words):
    config, raw = all_kinds()
    for row in range(2, len(raw)):
        values = raw.column(column).to_pylist()
        values[row] = value
        broken = raw.set_column(raw.schema.get_field_index(column), column, pa.array(values))
        chosen = USERS.contains(to_int64(WORDS))[row]
        reads, spared = (USERS, OTHERS) if chosen else (OTHERS, USERS)
        with pytest.raises(DataError, match=rf"row {PLACE.first_row + row}: {words}"):
            BlockMaker(config, True, users=reads)(broken, PLACE, 0)
        BlockMaker(config, True, users=spared)(broken, PLACE, 0)


# Units in which the labels of some tasks count


def with_tasks(tasks, product):
    """Labels by task with only those of `tasks` counted, None where not observed."""
    config = make_config(tasks={"click": {}, "buy": {"parent": "click"}, "late": {"given": "click"}})
    if product:
        model = config.model.model_copy(update={"coupler": Product(type="product")})
        config = config.model_copy(update={"model": model})
    raw = {
        "item": [1, 2, 3, 4],
        "click": pa.array([0, 1, 1, None]),
        "buy": pa.array([1, 1, 0, 1]),
        "late": pa.array([1, 0, None, 1]),
    }
    block = BlockMaker(config, False)(pa.table(raw), PLACE, 0, Counted(tasks))
    found = {n: block.column(f"label:{n}").to_pylist() for n in config.tasks}
    return {name: [None if math.isnan(v) else v for v in values] for name, values in found.items()}


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("counted", [(), ("click",), ("buy",), ("late",), ("buy", "late"), ("click", "buy", "late")])
def test_labels_of_other_tasks_are_not_observed_and_the_rest_are_as_before(counted, product):
    whole = with_tasks(None, product)
    assert whole["buy"] == ([0, 1, 0, None] if product else [1, 1, 0, 1])
    assert whole["late"] == [None, 0, None, None]
    assert with_tasks(counted, product) == {n: v if n in counted else [None] * 4 for n, v in whole.items()}
