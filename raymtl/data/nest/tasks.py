"""What Ray's tasks do: deal rows out by request, gather each request, deal requests out by user, write them.

Shapes: N rows, U requests.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import mix64, to_int64
from raymtl.data.nest.equal import varies
from raymtl.data.requests import request_starts
from raymtl.data.rules import one_array
from raymtl.data.times import microseconds
from raymtl.data.units import Fragment
from raymtl.data.writing import OutputFolder

IMPRESSIONS = "impressions"
"""The column of the nested files that holds the impressions, a list of structs."""
BUCKET, PLACE = "raymtl:bucket", "raymtl:place"
"""Columns on the way: the part of a day's requests that a row belongs to, and its number among the rows of the day."""
LENGTH, USER, TIME = "raymtl:length", "raymtl:user", "raymtl:time"
"""Columns of gathered requests: the number of their rows, and what they are ordered by."""
ORDER = (USER, TIME, PLACE)
"""No two requests are equal in all three."""
_BLOCK_ROWS = 65_536
_GROUP_ROWS = 100_000
"""Impressions of a row group, about."""
_SAMPLE_ROWS = 20_000
_DESCRIPTION = pa.schema(
    {
        "name": pa.string(),
        **dict.fromkeys(("rows", "requests", "bytes", "largest"), pa.int64()),
        "varying": pa.list_(pa.string()),
    }
)
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class Keys:
    """The columns that decide about the order."""

    request: str
    user: str | None = None
    """Requests of a user stand together within a day; None: in any order."""
    time: str | None = None
    """The order of a user's requests."""
    position: str | None = None
    """The order of the impressions of a request; None: as in the files."""


@dataclass(frozen=True)
class Gathered:
    """A file of gathered requests, in which the `varying` columns are lists."""

    name: str
    rows: int
    requests: int
    bytes: int
    """In memory."""
    largest: int
    """Rows of the largest request."""
    varying: tuple[str, ...]


@dataclass
class ReadRows:
    """The body of a reading task; it yields rows with `BUCKET` and `PLACE`."""

    root: str
    fragments: Sequence[tuple[Fragment, Sequence[str], int]]
    """Each with its columns, and the number of rows of the day before its file."""
    schema: pa.Schema
    request: str
    buckets: int
    most: int | None = None
    """Rows of each fragment; None: all."""

    def __call__(self) -> Iterable[pa.Table]:
        block_rows = min(_BLOCK_ROWS, self.most or _BLOCK_ROWS)
        for fragment, names, before in self.fragments:
            for raw, row in read_fragment(self.root, fragment, list(names), block_rows, slice(self.most)):
                place = np.arange(before + row, before + row + len(raw))
                rows = pa.table([_cast(raw, field) for field in self.schema], schema=self.schema)
                part = _mixed(one_array(rows, self.request, "id"), place) >> np.uint64(32)
                bucket = (part * np.uint64(self.buckets)) >> np.uint64(32)
                rows = rows.append_column(BUCKET, pa.array(bucket.astype(np.int64)))
                yield rows.append_column(PLACE, pa.array(place))


def gather(rows: pa.Table, target: OutputFolder, folder: str, keys: Keys, forced: frozenset[str]) -> pa.Table:
    """Write the requests of a bucket, all of whose rows these are, to a file; returns a row that describes it."""
    sort_keys = [name for name in (keys.request, keys.position, PLACE) if name is not None]
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in sort_keys]))
    starts = request_starts(one_array(rows, keys.request, "id"))
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=len(rows))
    columns = {LENGTH: pa.array(lengths), PLACE: _one(rows, PLACE).take(pa.array(first))}
    varying = []
    for name in rows.column_names:
        if name in (BUCKET, PLACE):
            continue
        column = _one(rows, name)
        if name in forced or varies(column, starts):
            varying.append(name)
            columns[name] = _lists(column, lengths)
        else:
            columns[name] = column.take(pa.array(first))
    nested = pa.table(columns)
    name = f"{folder}/{rows[BUCKET][0]}.parquet"
    file = target.open_parquet(name, nested.schema)
    file.write(nested)
    file.close()
    largest = int(lengths.max())
    return _row(Gathered(name, len(rows), len(first), nested.nbytes, largest, tuple(varying)))


@dataclass
class ReadGathered:
    """The body of a reading task; it yields nested rows with the columns of `ORDER`."""

    target: OutputFolder
    files: Sequence[Gathered]
    schema: pa.Schema
    """Of the flat rows."""
    varying: frozenset[str]
    """The columns of impressions in all files."""
    keys: Keys

    def __call__(self) -> Iterable[pa.Table]:
        for file in self.files:
            with self.target.errors("read", file.name), self.target.open_input(file.name) as stream:
                yield self._nested(pq.read_table(stream), frozenset(file.varying))

    def _nested(self, found: pa.Table, lists: frozenset[str]) -> pa.Table:
        lengths = _one(found, LENGTH).to_numpy()
        owner = pa.array(np.repeat(np.arange(len(found)), lengths))
        fields = [field for field in self.schema if field.name in self.varying]
        flat = [_one(found, f.name).flatten() if f.name in lists else _one(found, f.name).take(owner) for f in fields]
        columns = {field.name: _one(found, field.name) for field in self.schema if field.name not in self.varying}
        columns[IMPRESSIONS] = _lists(pa.StructArray.from_arrays(flat, fields=fields), lengths)
        place = _one(found, PLACE)
        user, time = self.keys.user, self.keys.time
        mixed = _mixed(one_array(found, self.keys.request, "id"), place.to_numpy())
        if user is not None:  # a request without a user is one of its own
            ids = to_int64(one_array(found, user, "id"))
            mixed = np.where(ids.is_null().to_numpy(zero_copy_only=False), mixed, mix64(ids.fill_null(0).to_numpy()))
        columns[USER] = pa.array((mixed ^ _SIGN).view(np.int64))  # in the order of the unsigned numbers
        columns[TIME] = pa.array(np.zeros(len(found), np.int64))
        if time is not None:
            values = one_array(found, time, "time")
            if time in lists:
                values = values.flatten().take(pa.array(np.cumsum(lengths) - lengths))
            columns[TIME] = pa.array(_known_microseconds(values))
        columns[PLACE] = place
        return pa.table(columns)


def write(rows: pa.Table, target: OutputFolder, folder: str) -> pa.Table:
    """Write requests in their order to a file of the folder; returns a row that describes it."""
    first = np.uint64(rows[USER][0].as_py() % 2**64) ^ _SIGN
    name = f"{folder}/part-{int(first):016x}-{rows[PLACE][0]}.parquet"
    lengths = pc.list_value_length(_one(rows, IMPRESSIONS)).to_numpy()
    rows = rows.drop_columns(list(ORDER))
    file = target.open_parquet(name, rows.schema, _mostly_distinct(rows))
    group = (np.cumsum(lengths) - lengths) // _GROUP_ROWS
    for start, stop in zip(*_runs(group), strict=True):
        file.write(rows.slice(start, stop - start))
    size = file.close()
    return _row(Gathered(name, int(lengths.sum()), len(rows), size, int(lengths.max()), ()))


def _mostly_distinct(rows: pa.Table) -> list[str]:
    """The columns for which a parquet dictionary does not pay off."""
    impressions = _one(rows, IMPRESSIONS).flatten()
    columns = {name: _one(rows, name) for name in rows.column_names if name != IMPRESSIONS}
    columns |= dict(zip(impressions.type.names, impressions.flatten(), strict=True))
    samples = {name: values[:_SAMPLE_ROWS] for name, values in columns.items() if not pa.types.is_nested(values.type)}
    return [name for name, values in samples.items() if 2 * pc.count_distinct(values).as_py() > len(values)]


def _row(found: Gathered) -> pa.Table:
    return pa.Table.from_pylist([vars(found)], schema=_DESCRIPTION)


def _runs(numbers: np.ndarray) -> tuple[list[int], list[int]]:
    """Where runs of equal numbers begin and end."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    return starts.tolist(), [*starts[1:].tolist(), len(numbers)]


def _mixed(requests: pa.Array, place: np.ndarray) -> np.ndarray:
    """A hash of each request, [N] uint64; a null is hashed by its place."""
    ids = to_int64(requests)
    nulls = ids.is_null().to_numpy(zero_copy_only=False)
    return mix64(np.where(nulls, place, ids.fill_null(0).to_numpy()))


def _cast(raw: pa.Table, field: pa.Field) -> pa.Array:
    """A column in the type that it has in all files; nulls, if this file lacks it."""
    if field.name not in raw.column_names:
        return pa.nulls(len(raw), field.type)
    column = _one(raw, field.name)
    return column if column.type == field.type else column.cast(field.type)


def _known_microseconds(times: pa.Array) -> np.ndarray:
    """Times in microseconds, [N]; 0 where it is not known."""
    known = times.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(times.type):
        known &= np.isfinite(times.to_numpy(zero_copy_only=False))
    found = np.zeros(len(times), np.int64)
    found[known] = microseconds(times.filter(pa.array(known)))
    return found


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32)), values)


def _one(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    combined = column.unify_dictionaries().combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
