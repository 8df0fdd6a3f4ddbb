"""Every encoding, type and container that pyarrow reads: read with pyarrow's own values, or refused in one sentence."""

import datetime as dt
import itertools
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.column_types import fits, is_text, plain_type
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.units import Fragment, plan_input
from raymtl.errors import DataError
from tests.data.ids.test_hashing import fnv1a
from tests.helpers.small_data import make_config, write_file

ROWS = 1 << 40
WORDS = ["i1", None, "", "Ünï", "i1", "a word of more than twelve bytes", "i2"]
BYTES = [b"\xff\xfe", None, b"", b"caf\xe9", b"i1", b"i1", b"\x00" * 20]
FIXED = [b"abcd", None, b"\xff\xff\xff\xff", b"abcd", b"0000", b"1234", b"i123"]
UUIDS = [bytes([n]) * 16 for n in range(6)] + [None]
SMALL = [1, None, 0, 7, 127, 1, 100]
INTS: dict[str, pa.Array] = {
    str(kind): pa.array(SMALL, kind)
    for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
} | {
    "uint64 beyond int64": pa.array([2**64 - 1, None, 2**63, 1, 2, 3, 4], pa.uint64()),
    "negative": pa.array([-1, None, -(2**63), 1, 2, 3, 4], pa.int64()),
    **{
        str(kind): pa.array([None if v is None else Decimal(v) for v in SMALL], kind)
        for kind in (pa.decimal32(9, 0), pa.decimal64(18, 0), pa.decimal128(38, 0), pa.decimal256(76, 0))
    },
    "whole float": pa.array(SMALL, pa.float32()),
    "whole double": pa.array([-(2.0**53), None, 0.0, 7.0, -0.0, 1.0, 2.0**53]),
    "dictionary<whole double>": pa.array([1.0, None, 0.0, 7.0, 1.0, 1.0, 100.0]).dictionary_encode(),
}
TEXTS: dict[str, pa.Array] = {
    **{str(kind): pa.array(WORDS, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
    **{str(kind): pa.array(BYTES, kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
    "fixed": pa.array(FIXED, pa.binary(4)),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array(UUIDS, pa.binary(16))),
    "dictionary<string>": pa.array(WORDS).dictionary_encode(),
    "dictionary<large_string>": pa.array(WORDS, pa.large_string()).dictionary_encode(),
    "dictionary<binary>": pa.array(BYTES).dictionary_encode(),
    "dictionary<int>": pa.array(SMALL).dictionary_encode(),
}
IDS = INTS | TEXTS | {"null": pa.nulls(7)}
FRACTIONS = [1.5, None, 0.0, -2.25, 100.0, 0.5, 3.0]
NUMBERS: dict[str, pa.Array] = {
    **INTS,
    **{str(kind): pa.array(FRACTIONS, kind) for kind in (pa.float32(), pa.float64())},
    "half": pa.array([None if v is None else np.float16(v) for v in FRACTIONS], pa.float16()),
    **{
        str(kind): pa.array([None if v is None else Decimal(v) for v in FRACTIONS], kind)
        for kind in (pa.decimal32(9, 2), pa.decimal64(18, 4), pa.decimal128(38, 10), pa.decimal256(76, 20))
    },
    "bool": pa.array([True, None, False, True, True, False, False]),
    "dictionary<double>": pa.array(FRACTIONS).dictionary_encode(),
    "null": pa.nulls(7),
}
ENCODINGS = (
    None,
    "PLAIN",
    "RLE",
    "DELTA_BINARY_PACKED",
    "DELTA_BYTE_ARRAY",
    "DELTA_LENGTH_BYTE_ARRAY",
    "BYTE_STREAM_SPLIT",
)
"""None: a dictionary, where the type has one."""
LISTS = {
    "list": pa.list_,
    "large_list": pa.large_list,
    "list_view": pa.list_view,
    "large_list_view": pa.large_list_view,
}


def lists_of(values: pa.Array, container: str) -> pa.Array:
    """Lists of 2, 0 (null), 0, 1 and 4 of the seven values."""
    if container == "fixed_size_list":
        return pa.FixedSizeListArray.from_arrays(values, 1, mask=pa.array([False, False, True, *[False] * 4]))
    lists = pa.LargeListArray.from_arrays(pa.array([0, None, 2, 2, 3, 7], pa.int64()), values)
    flat = {"list": pa.ListArray.from_arrays(pa.array([0, None, 2, 2, 3, 7], pa.int32()), values), "large_list": lists}
    views = {"list_view": pa.int32(), "large_list_view": pa.int64()}
    if container in flat:
        return flat[container]
    maker = pa.ListViewArray if container == "list_view" else pa.LargeListViewArray
    kind, mask = views[container], pa.array([False, True, False, False, False])
    return maker.from_arrays(pa.array([0, 2, 2, 2, 3], kind), pa.array([2, 0, 0, 1, 4], kind), values, mask=mask)


def written(root, column: pa.Array, **options) -> str | None:
    """A file of the day whose column `x` is written so; None if pyarrow cannot write it."""
    rows = len(column)
    table = pa.table({"x": column, "click": pa.array([n % 2 for n in range(rows)], pa.int8())})
    path = root / "ds=2026-01-01" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding, leaf = options.pop("encoding", None), "x" if not pa.types.is_nested(column.type) else "x.list.element"
    if encoding is not None:
        options |= {"use_dictionary": False, "column_encoding": {leaf: encoding}}
    try:
        pq.write_table(table, path, row_group_size=4, **options)
    except (OSError, pa.ArrowException):
        return None
    return str(path)


def read_by_pyarrow(path: str) -> list | None:
    """The values of `x`, strings as bytes; None if pyarrow does not read them."""
    try:
        column = pq.read_table(path, columns=["x"]).column("x")
    except (OSError, pa.ArrowException):
        return None
    if pa.types.is_nested(column.type):
        return [_bytes(row.values) if row.is_valid else None for row in column]
    return [value for chunk in column.chunks for value in _bytes(chunk)]


def _bytes(values: pa.Array) -> list:
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    return values.cast(pa.large_binary()).to_pylist() if is_text(plain_type(values.type)) else values.to_pylist()


def block_of(root, path: str, kind: str) -> pa.Table:
    """The block that a reading task makes of the file; DataError if it refuses."""
    config = make_config(
        {"x": {"kind": kind}}, tables={"x": {"rows": ROWS}} if kind != "dense" else None, path=str(root)
    )
    assert plan_input(config, "train").rows
    maker = BlockMaker(config, evaluation=False)
    rows = pq.read_metadata(path).num_rows
    groups = tuple(range(pq.read_metadata(path).num_row_groups))
    raws = list(read_fragment(str(root), Fragment(path, groups, 0, rows), maker.raw_columns(), 5))
    return pa.concat_tables(maker(raw, Place(path, row), 0) for raw, row in raws)


def row_of(value) -> int | None:
    """The row of an ID, by the words of docs/data.md."""
    if value is None:
        return None
    if isinstance(value, str | bytes):
        number = fnv1a(value)
    else:
        number = (int(value) + 2**63) % 2**64 - 2**63
    return int(hash_rows(np.array([number], np.int64), ROWS)[0])


def cases(types: dict[str, pa.Array]) -> list[tuple[str, str]]:
    return [(name, version) for name, version in itertools.product(types, ("1.0", "2.0"))]


@pytest.mark.parametrize(("name", "page"), cases(IDS))
def test_ids_of_every_type_and_encoding(tmp_path, name, page):
    for encoding, stored in itertools.product(ENCODINGS, (True, False)):
        path = written(tmp_path, IDS[name], encoding=encoding, data_page_version=page, store_schema=stored)
        if path is None:
            continue
        values = read_by_pyarrow(path)
        if values is None:
            with pytest.raises(DataError, match="write the file again, in another encoding"):
                block_of(tmp_path, path, "id")
            continue
        assert block_of(tmp_path, path, "id").column("id:x").to_pylist() == [row_of(v) for v in values], encoding


@pytest.mark.parametrize("container", [*LISTS, "fixed_size_list"])
@pytest.mark.parametrize("name", IDS)
def test_lists_of_every_type_and_container(tmp_path, name, container):
    column = lists_of(IDS[name], container)
    for encoding, page in itertools.product(ENCODINGS[:1] + ENCODINGS[3:6], ("1.0", "2.0")):
        path = written(tmp_path, column, encoding=encoding, data_page_version=page)
        if path is None:
            continue
        values = read_by_pyarrow(path)
        if values is None:
            with pytest.raises(DataError, match="write the file again, in another encoding"):
                block_of(tmp_path, path, "ids")
            continue
        expected = [[row_of(v) for v in row or [] if v is not None] for row in values]
        assert block_of(tmp_path, path, "ids").column("ids:x").to_pylist() == expected, encoding


@pytest.mark.parametrize(("name", "page"), cases(NUMBERS))
def test_numbers_of_every_type_and_encoding(tmp_path, name, page):
    for encoding in ENCODINGS:
        path = written(tmp_path, NUMBERS[name], encoding=encoding, data_page_version=page)
        if path is None:
            continue
        expected = [0.0 if v is None else np.float32(v) for v in read_by_pyarrow(path)]
        assert block_of(tmp_path, path, "dense").column("dense:x").to_pylist() == expected, encoding


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_every_compression(tmp_path, codec):
    path = written(tmp_path, IDS["string_view"], compression=codec)
    assert block_of(tmp_path, path, "id").column("id:x").to_pylist() == [row_of(v) for v in WORDS]


REFUSED: dict[str, tuple[str, pa.Array, str]] = {
    "a vector": (
        "dense",
        pa.array([[0.1, 0.2]]),
        "use the kind `vector`, or write each element as a column of its own",
    ),
    "a map": (
        "ids",
        pa.array([[("a", 0.5)]], pa.map_(pa.string(), pa.float32())),
        "set features.x.weights to `x` for a map from IDs to weights",
    ),
    "structs": ("ids", pa.array([[{"id": "a", "t": 1}]]), "write the field to use as a column of its own"),
    "lists of lists": ("ids", pa.array([[["a"], ["b"]]]), "write one flat list per row"),
    "IDs as halves": (
        "id",
        pa.array([np.float16(1)]),
        "write the IDs as integers (pandas: dtype Int64, which has nulls)",
    ),
    "IDs with digits": ("id", pa.array([Decimal("1.50")]), "write the IDs as integers"),
    "a time of day": ("id", pa.array([dt.time(1)]), "write the column with that type"),
    "a text": ("dense", pa.array(["1.5"]), "write the column with that type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_types_are_refused_with_what_to_do(tmp_path, case):
    kind, column, remedy = REFUSED[case]
    path = written(tmp_path, column)
    with pytest.raises(DataError) as error:
        block_of(tmp_path, path, kind)
    message = str(error.value)
    assert message.startswith(
        f"{path}: column `x` (features.x) has type {pq.read_schema(path).field('x').type}, expected "
    )
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_a_dictionary_that_falls_back_to_another_encoding_is_not_read_as_one(tmp_path, encoding):
    """As Spark writes it: row groups with a dictionary, and some without."""
    path = tmp_path / "ds=2026-01-01" / "part-0.parquet"
    path.parent.mkdir()
    words = [f"i{n % 50}" for n in range(1000)]
    table = pa.table({"x": words, "click": pa.array([n % 2 for n in range(1000)])})
    with pq.ParquetWriter(path, table.schema, use_dictionary=False, column_encoding={"x": encoding}) as writer:
        writer.write_table(table)
        writer.write_table(table)
    found = block_of(tmp_path, str(path), "id").column("id:x").to_pylist()
    assert found == [row_of(w) for w in words * 2]


class _ShortBatches(pq.ParquetFile):
    """Fails as pyarrow does for lists of strings above 2 GiB, but above 4 rows."""

    def iter_batches(self, batch_size, **options):
        for batch in super().iter_batches(batch_size, **options):
            if len(batch) > 4:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            yield batch


def test_lists_of_strings_above_2_gib_are_read_in_smaller_batches(tmp_path, monkeypatch):
    table = pa.table({"x": [[f"i{n}"] for n in range(30)], "click": [0, 1] * 15})
    path = write_file(tmp_path, table, group_rows=7)
    monkeypatch.setattr(pq, "ParquetFile", _ShortBatches)
    read = list(read_fragment(str(tmp_path), Fragment(path, tuple(range(5)), 0, 30), ["x"], 25, slice(2, 28)))
    assert pa.concat_tables(t for t, _ in read).column("x").to_pylist() == [[f"i{n}"] for n in range(2, 28)]
    assert [row for _, row in read] == [2 + sum(len(t) for t, _ in read[:n]) for n in range(len(read))]


@pytest.mark.parametrize("kind", ["id", "ids", "number", "flag", "category", "time"])
def test_a_plain_type_fits_where_its_view_does(kind):
    for values in (*IDS.values(), *NUMBERS.values()):
        assert fits(values.type, kind) == fits(plain_type(values.type), kind)
