"""Random data sets out of every encoding, type, container and name, and what raymtl makes of them."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.column_types import is_text, plain_type
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_inputs
from raymtl.data.validation import run as validation_run
from raymtl.errors import DataError
from tests.helpers.in_process_scan import scan_in_process
from tests.helpers.small_data import make_config

DAYS = ["2026-01-01", "2026-01-02"]
TABLE_ROWS = 1 << 40
SCENARIOS = [b"1", b"i2"]
COMPARED = ["id:user", "ids:tags", "dense:price", "weight", "label:click", "scenario"]
"""The columns of the blocks whose values are compared with pyarrow's."""
START_S = 1767225600
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
DECIMALS = [kind(digits, 0) for kind, digits in
            ((pa.decimal32, 9), (pa.decimal64, 18), (pa.decimal128, 38), (pa.decimal256, 76))]  # fmt: skip
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
         pa.binary(4), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int16(), pa.binary())]  # fmt: skip
FLOATS = [pa.float16(), pa.float32(), pa.float64(), pa.decimal32(9, 2), pa.decimal128(20, 3), pa.decimal256(50, 4)]
TIMES = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")]
FITTING: dict[str, list[pa.DataType]] = {
    "id": INTEGERS + DECIMALS,
    "number": [*FLOATS, *INTEGERS, pa.bool_(), pa.null()],
    "label": [*INTEGERS, pa.bool_(), *FLOATS],
    "flag": [*INTEGERS, pa.bool_()],
    "category": [*INTEGERS, *TEXTS],
    "time": [*TIMES, pa.date32(), pa.date64(), pa.int64(), pa.float64(), pa.null()],
}
ODD = [pa.time32("ms"), pa.time64("ns"), pa.duration("us"), pa.date32(), pa.timestamp("us"), pa.float64(), pa.string(),
       pa.list_(pa.list_(pa.int32())), pa.struct({"a": pa.int64()}), pa.map_(pa.string(), pa.int32()), pa.list_(pa.float32()),
       pa.uuid(), pa.binary(), pa.null(), pa.bool_(), pa.int64(), pa.decimal128(9, 2), pa.list_(pa.string())]  # fmt: skip
CONTAINERS = ["list", "large_list", "fixed_size_list", "list_view", "large_list_view"]
NAMES = ["{}", "{}.id", " {}", "{} ", "{}\n", "Ünï{}", "{}`", "'{}'", '"{}"', "{}%20", "{}/x",
         "{}\\", "{},", "{}[0]", "{}.list.element",
         "🙂{}", "{}{{}}", "列{}", "{}=1", "$" + "{}", "-{}", "0{}", "{}:", "*{}", "null{}", "{0}" * 30]  # fmt: skip
ENCODINGS = {
    "text": ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"],
    "fixed": ["PLAIN", "DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT"],
    "integer": ["PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"],
    "float": ["PLAIN", "BYTE_STREAM_SPLIT"],
    "bool": ["PLAIN", "RLE"],
}


def values(kind: pa.DataType, rows: int, random: np.random.Generator, high: int = 100, nulls: float = 0.0) -> pa.Array:
    """Random values of a type that is not nested."""
    missing = random.random(rows) < nulls
    numbers = random.integers(0, high, rows)

    def each(make: Any) -> list[Any]:
        return [None if none else make(int(n)) for n, none in zip(numbers, missing, strict=True)]

    if pa.types.is_dictionary(kind):
        return values(kind.value_type, rows, random, high, nulls).dictionary_encode()
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        if random.random() < 0.1:  # bytes that are not UTF-8, as Spark keeps them
            raw = pa.array(each(lambda n: b"\xff%d" % n), pa.binary())
            text = pa.StringArray.from_buffers(rows, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
            return text.cast(kind)
        return pa.array(each(lambda n: ("i" * (n % 20) + str(n)) if n else ""), kind)
    if kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        return pa.array(each(lambda n: b"\xff\x00i%d" % n), kind)
    if pa.types.is_fixed_size_binary(kind):
        return pa.array(each(lambda n: b"%04d" % n), kind)
    if kind == pa.uuid():
        return pa.ExtensionArray.from_storage(kind, pa.array(each(lambda n: b"%016d" % n), pa.binary(16)))
    if pa.types.is_decimal(kind):
        return pa.array(each(lambda n: Decimal(n) / (2 if kind.scale and high > 2 else 1)), kind)
    if pa.types.is_boolean(kind):
        return pa.array(each(lambda n: n % 2 == 1), kind)
    if pa.types.is_floating(kind):
        return pa.array(
            each(lambda n: np.float16(n) if kind == pa.float16() else n / 2 if high > 2 else float(n)), kind
        )
    if pa.types.is_null(kind):
        return pa.nulls(rows)
    return pa.array(each(int), kind)


def times(kind: pa.DataType, rows: int, random: np.random.Generator, day: int) -> pa.Array:
    """Moments of a day, in any unit of a number."""
    if pa.types.is_null(kind):
        return pa.nulls(rows)
    moments = START_S + 86_400 * day + random.integers(0, 86_400, rows)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pa.array(moments * 10 ** (3 * int(random.integers(0, 3))), pa.int64()).cast(kind)
    return pa.array(moments * 1_000_000, pa.timestamp("us")).cast(kind, safe=False)


def lists(elements: pa.Array, container: str, random: np.random.Generator, nulls: float) -> pa.Array:
    """Lists of consecutive elements, some of them null or empty."""
    if container == "fixed_size_list":
        missing = pa.array(random.random(len(elements) // 2) < nulls)
        return pa.FixedSizeListArray.from_arrays(elements.slice(0, len(elements) // 2 * 2), 2, mask=missing)
    rows = max(1, len(elements) // 3)
    cuts = np.sort(np.concatenate([[0, len(elements)], random.integers(0, len(elements) + 1, rows - 1)]))
    missing = pa.array((random.random(rows) < nulls) & (np.diff(cuts) == 0))
    if container == "list":
        return pa.ListArray.from_arrays(pa.array(cuts, pa.int32()), elements, mask=missing)
    if container == "large_list":
        return pa.LargeListArray.from_arrays(pa.array(cuts, pa.int64()), elements, mask=missing)
    maker, width = (pa.ListViewArray, pa.int32()) if container == "list_view" else (pa.LargeListViewArray, pa.int64())
    return maker.from_arrays(pa.array(cuts[:-1], width), pa.array(np.diff(cuts), width), elements, mask=missing)


def odd(kind: pa.DataType, rows: int, random: np.random.Generator) -> pa.Array:
    """Any type at all."""
    if pa.types.is_nested(kind):
        one = {"list": [[1]], "struct": {"a": 1}, "map": [("a", 1)]}
        name = "struct" if pa.types.is_struct(kind) else "map" if pa.types.is_map(kind) else "list"
        if name == "list" and not pa.types.is_list(kind.value_type):
            return pa.array([["a"] if kind.value_type == pa.string() else [1]] * rows, kind)
        return pa.array([one[name]] * rows, kind)
    return values(kind, rows, random)


def _family(kind: pa.DataType) -> str:
    if is_text(kind):
        return "fixed" if pa.types.is_fixed_size_binary(plain_type(kind)) else "text"
    if pa.types.is_boolean(kind):
        return "bool"
    return "float" if pa.types.is_floating(kind) and kind != pa.float16() else "integer"


@dataclass
class RandomDataSet:
    """Files of two days, and the configuration that reads them."""

    config: Config
    paths: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    """By role, the name in the files."""


def write_data_set(root: Path, random: np.random.Generator, files: int) -> RandomDataSet:
    """Write a random data set of `files` files; every tenth or so has a column of a type that does not fit, or a damaged file."""

    def one(choices: list) -> Any:
        return choices[int(random.integers(len(choices)))]

    roles = ["user", "tags", "price", "click", "seen", "scene", "weight", "ts"]
    names = {role: one(NAMES).format(role) if random.random() < 0.5 else role for role in roles}
    config = make_config(
        {
            "user": {"kind": "id", "column": names["user"]},
            "tags": {"kind": one(["ids", "sequence"]), "column": names["tags"]},
            "price": {"kind": "dense", "column": names["price"]},
        },
        {"click": {"label": names["click"], "observed": names["seen"]}},
        {name: {"rows": TABLE_ROWS} for name in ("user", "tags")},
        path=str(root),
        train={"start": DAYS[0], "end": DAYS[1]},
        scenario={"column": names["scene"], "values": [value.decode() for value in SCENARIOS]},
        weight=names["weight"],
        group=names["user"],
        timestamp=names["ts"],
        block_rows=int(random.integers(1, 50)),
        unit_rows=int(random.integers(1, 200)),
    )
    made = RandomDataSet(config, columns=names)
    families = {role: one([FITTING["id"], TEXTS]) for role in ("user", "tags")}
    spoilt = one(roles) if random.random() < 0.15 else None
    for number in range(files):
        day = number % 2
        rows = int(random.integers(1, 60)) if random.random() < 0.93 else 0
        nulls = one([0.0, 0.0, 0.2, 1.0])
        tags: Any = None
        while tags is None:
            elements = values(one([*families["tags"], pa.null()]), 3 * rows + 6, random, nulls=one([0.0, 0.3]))
            with contextlib.suppress(pa.ArrowException):
                tags = lists(elements, one(CONTAINERS), random, nulls)
        tags = _exactly(tags, rows)
        columns = {
            "user": values(one([*families["user"], pa.null()]), rows, random, nulls=nulls),
            "tags": tags,
            "price": values(one(FITTING["number"]), rows, random, nulls=nulls),
            "click": values(one(FITTING["label"]), rows, random, high=2),
            "seen": values(one(FITTING["flag"]), rows, random, high=2, nulls=0.1),
            "scene": values(one(FITTING["category"]), rows, random, high=4, nulls=nulls),
            "weight": values(one(FITTING["number"]), rows, random, high=3, nulls=0.1),
            "ts": times(one(FITTING["time"]), rows, random, day),
        }
        if spoilt and random.random() < 0.6:
            with contextlib.suppress(pa.ArrowException, TypeError, ValueError):
                columns[spoilt] = odd(one(ODD), rows, random)
        path = root / f"ds={DAYS[day]}" / f"part-{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        order = random.permutation(len(roles))
        _write({names[roles[n]]: columns[roles[n]] for n in order}, path, random, one)
        if random.random() < 0.01:
            data = path.read_bytes()
            path.write_bytes(data[: int(random.integers(0, len(data)))])
        made.paths.append(str(path))
    return made


def _exactly(array: pa.Array, rows: int) -> pa.Array:
    """The first `rows` lists, padded with the first of them."""
    places = [n if n < len(array) else 0 for n in range(rows)]
    if places == list(range(rows)):
        return array.slice(0, rows)
    return pa.concat_arrays([array.slice(n, 1) for n in places]) if places else array.slice(0, 0)


def _write(columns: dict[str, pa.Array], path: Path, random: np.random.Generator, one: Any) -> None:
    """Write a file with random options; a combination that pyarrow cannot write is written with its defaults."""
    table = pa.table(columns)
    encodings = {}
    for name, column in columns.items():
        inner = column.type
        leaf = name
        if pa.types.is_nested(inner):
            inner, leaf = getattr(inner, "value_type", inner), f"{name}.list.element"
        # pyarrow reads no dictionary out of another encoding, and less than there is out of pages without values
        if not pa.types.is_nested(inner) and random.random() < (0.02 if pa.types.is_dictionary(inner) else 0.7):
            encodings[leaf] = one(ENCODINGS[_family(inner)])
    options: dict[str, Any] = {
        "row_group_size": int(random.integers(1, 40)),
        "compression": one(["none", "snappy", "gzip", "brotli", "lz4", "zstd"]),
        "data_page_version": one(["1.0", "2.0"]),
        "store_schema": bool(random.random() < 0.5),
        "write_page_checksum": bool(random.random() < 0.5),
        "write_statistics": bool(random.random() < 0.5),
        "data_page_size": 1 if random.random() < 0.02 else one([100, 1000, 1 << 20]),
    }
    for more in ({"use_dictionary": False, "column_encoding": encodings}, {}):
        with contextlib.suppress(OSError, pa.ArrowException):
            pq.write_table(table, path, **options, **more)
            return
    pq.write_table(table, path)


def train_on(made: RandomDataSet) -> dict[str, list]:
    """Read the data set as training does; columns of its blocks. Raises DataError if it is refused."""
    plan = plan_inputs(made.config, ["train"])["train"]
    sample_base_rates(made.config, plan)
    found: dict[str, list] = {name: [] for name in COMPARED}
    for evaluation in (False, True):
        maker = BlockMaker(made.config, evaluation)
        for unit in plan.units:
            for fragment in unit.fragments:
                for raw, row in read_fragment(plan.root, fragment, maker.raw_columns(), made.config.data.block_rows):
                    block = maker(raw, Place(fragment.path, row), 0)
                    for name, column in found.items() if not evaluation else ():
                        column += [None if value != value else value for value in block.column(name).to_pylist()]
    assert plan.rows == len(found["id:user"])
    return found


def expected(made: RandomDataSet) -> dict[str, list]:
    """The same columns as pyarrow reads them, with IDs hashed one by one."""
    found: dict[str, list] = {name: [] for name in COMPARED}
    for path in sorted(made.paths):
        for group in range(pq.read_metadata(path).num_row_groups):
            table = pq.ParquetFile(path).read_row_group(group)
            found["id:user"] += [_row(v) for v in _python(table.column(made.columns["user"]))]
            tags = table.column(made.columns["tags"])
            found["ids:tags"] += [
                [_row(v) for v in _python(row.values) if v is not None] if row.is_valid else []
                for row in _scalars(tags)
            ]
            price, weight, label, flag, scene = (
                _python(table.column(made.columns[role])) for role in ("price", "weight", "click", "seen", "scene")
            )
            found["dense:price"] += [0.0 if v is None else float(np.float32(v)) for v in price]
            found["weight"] += [0.0 if v is None else float(np.float32(v)) for v in weight]
            found["label:click"] += [
                float(v) if v is not None and seen else None for v, seen in zip(label, flag, strict=True)
            ]
            words = [v if isinstance(v, bytes) else str(v).encode() for v in scene]
            found["scenario"] += [SCENARIOS.index(word) if word in SCENARIOS else len(SCENARIOS) for word in words]
    return found


def _scalars(column: pa.ChunkedArray) -> Iterator[Any]:
    if pa.types.is_null(column.type):
        return iter([pa.scalar(None, pa.list_(pa.null()))] * len(column))
    return (chunk[n] for chunk in column.chunks for n in range(len(chunk)))


def _python(column: Any) -> list:
    """Python's values, strings as bytes."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    found: list = []
    for chunk in chunks:
        if not len(chunk):
            continue  # the type of a file without rows is anything
        array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        found += (array.cast(pa.large_binary()) if is_text(array.type) else array).to_pylist()
    return found


_ROWS: dict[Any, int] = {}


def _row(value: Any) -> int | None:
    if value is None:
        return None
    if value not in _ROWS:
        number = int(value) if not isinstance(value, bytes) else 0xCBF29CE484222325
        for byte in value if isinstance(value, bytes) else b"":
            number = ((number ^ byte) * 0x100000001B3) % 2**64
        number = (number + 2**63) % 2**64 - 2**63
        _ROWS[value] = int(hash_rows(np.array([number], np.int64), TABLE_ROWS)[0])
    return _ROWS[value]


def check_in_process(config: Config) -> list[str]:
    """The problems that `raymtl check` reports, without Ray."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_run, "scan", scan_in_process)
        return validation_run.check_data(config, "train").problems


def try_data_set(made: RandomDataSet) -> str | None:
    """The general form of the sentence with which raymtl refuses the data set; None if it reads it.

    Raises AssertionError if values differ, if training and check disagree, or if the refusal is not one sentence per fault.
    """
    problems = check_in_process(made.config)
    refused, found = None, {}
    try:
        found = train_on(made)
    except DataError as error:
        refused = str(error)
    if refused is not None:
        assert problems, f"training refuses what check accepts: {refused}"
        return general(refused.splitlines()[0], made)
    assert not problems, f"check refuses what training accepts: {problems[0]}"
    right = expected(made)
    for name, column in right.items():
        assert found[name] == column, (
            name,
            [pair for pair in zip(found[name], column, strict=True) if pair[0] != pair[1]][:3],
        )
    return None


def general(sentence: str, made: RandomDataSet) -> str:
    """The sentence without paths, names, numbers and types."""
    for path in made.paths:
        sentence = sentence.replace(path, "FILE")
    sentence = sentence.replace(made.config.data.path, "ROOT")
    for name in sorted(made.columns.values(), key=len, reverse=True):
        sentence = sentence.replace(f"`{name}`", "`COLUMN`")
    sentence = re.sub(r"(features|tasks|data)\.\w+(\.\w+)*", "KEY", sentence)
    sentence = re.sub(r"has type .+?, expected", "has type TYPE, expected", sentence, flags=re.S)
    sentence = re.sub(r"is missing; set .*", "is missing; …", sentence, flags=re.S)
    return re.sub(r"-?\d+(\.\d+)?", "N", sentence)
