"""What the columns of some logs hold: one pass with Ray Data, whose statistics merge, and a sample of the rows."""

import datetime as dt
import math
import pickle
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.data import as_roots
from raymtl.data.column_types import fits, is_text, plain_type
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import mix64, to_int64
from raymtl.data.nest.equal import varies
from raymtl.data.requests import request_starts
from raymtl.data.roots import Roots
from raymtl.data.rules import list_parts, one_array
from raymtl.data.scan import scan
from raymtl.data.sketch import HyperLogLog
from raymtl.data.times import text_times
from raymtl.data.units import Footer, Fragment, make_units, read_footers, with_rows
from raymtl.data.validation.moments import Moments
from raymtl.errors import DataError
from raymtl.init.days import FoundDays
from raymtl.init.words import is_request, may_be_time
from raymtl.storage.folder import Folder

SAMPLE_ROWS = 50_000
_SAMPLE_VALUES = 4_000_000
"""With many columns the sample has fewer rows."""
_TASK_ROWS = 500_000
_TASK_BYTES = 1 << 20
_BLOCK_ROWS = 65_536
_MOST_WHOLE = 2.0**53
_MOST = float(np.finfo(np.float32).max)
_FEW_VALUES = 64
"""Values of a column are counted up to so many different ones."""


@dataclass
class ColumnProfile:
    """What one column holds; parts that its kind lacks stay empty."""

    kind: str
    """`integer`, `float`, `flag`, `text`, `time`, `list of integer`, `list of text`, `list of float`, `null`; `mixed: …` if the
    files differ in it; else Arrow's name of a type that no feature can have."""
    rows: int = 0
    nulls: int = 0
    not_finite: int = 0
    """NaN and infinite values."""
    fractions: int = 0
    """Finite values that are no integers, or larger than a double holds exactly."""
    numbers: Moments = field(default_factory=Moments)
    logs: Moments = field(default_factory=Moments)
    """Of sign(x)·log(1+|x|)."""
    ids: HyperLogLog | None = None
    """Different values, those inside lists too."""
    values: Counter[Any] | None = field(default_factory=Counter)
    """How often each value occurs; None: there are too many different ones."""
    estimate: int | None = None
    """Without `ids`: how many different values there may be."""
    text_bytes: int = 0
    no_times: int = 0
    """Of a text that by its name is a time, the values that are none."""
    elements: int = 0
    empty: int = 0
    longest: int = 0
    by_day: Counter[dt.date] = field(default_factory=Counter)
    """Rows of each day that are not null."""
    runs: int = 0
    """Of a column with the name of a request: how often neighbouring rows with one value begin."""
    varying: set[str] = field(default_factory=set)
    """The columns that differ within such a run."""

    @property
    def distinct(self) -> int:
        """Different values, without null; about, if there are many."""
        if self.values is not None:
            return len(self.values)
        if self.ids is None or (self.kind == "float" and self.fractions):  # of a float only whole values are counted
            return self.estimate or _FEW_VALUES + 1
        return self.ids.estimate()

    @property
    def is_read(self) -> bool:
        """Whether its values were read, and not only the footers."""
        return self.estimate is None

    @property
    def known(self) -> int:
        return self.rows - self.nulls

    def merge(self, other: "ColumnProfile") -> None:
        """Add all that `other` has seen."""
        for name in ("rows", "nulls", "not_finite", "fractions", "text_bytes", "no_times", "elements", "empty", "runs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.varying |= other.varying
        self.longest = max(self.longest, other.longest)
        self.by_day.update(other.by_day)
        self.numbers.merge(other.numbers)
        self.logs.merge(other.logs)
        if other.ids is not None:
            self.ids = self.ids or HyperLogLog()
            self.ids.merge(other.ids)
        if self.values is not None:
            self.values = None if other.values is None else self.values + other.values
        if self.values is not None and len(self.values) > _FEW_VALUES:
            self.values = None


Found = tuple[dict[str, ColumnProfile], pa.Table]
"""The statistics of some rows by column, and a sample of them."""


@dataclass
class Profile:
    """What some logs hold."""

    columns: dict[str, ColumnProfile]
    rows: int
    sample: pa.Table
    """Some rows, chosen by chance; strings are their hashes, as `sampled` says."""


def kinds_of(footers: Iterable[Footer]) -> dict[str, str]:
    """The kind of every column, from the footers of the files."""
    schemas = {id(f.schema): f.schema for f in footers}.values()
    found: dict[str, list[str]] = {}
    for schema in schemas:
        for name, kind in zip(schema.names, schema.types, strict=True):
            found.setdefault(name, []).append(_kind(kind))
    return {
        name: _joined(set(kinds) - {"null"} or {"null"}) if len(kinds) == len(schemas) else "mixed: not in all files"
        for name, kinds in found.items()
    }


def footers_of(days: FoundDays) -> list[Footer]:
    """The footers of all files with rows.

    Raises DataError if a file cannot be read, or there are no rows.
    """
    roots = Roots.open(as_roots(days.path))
    found = roots.find_files(None, days.layout)
    if found.faults:
        raise DataError(found.faults[0])
    footers = with_rows(read_footers(roots.filesystem, found.files))
    if not footers:
        raise DataError(f"{roots.words} {roots.have} no rows: the parquet files are empty; write the days again")
    return footers


def profile(
    folder: Folder, footers: Sequence[Footer], read_tasks: int, progress: Callable[[int, int], None] | None = None
) -> Profile:
    """Read all rows once, on `read_tasks` CPUs of the connected Ray."""
    kinds = kinds_of(footers)
    rows = sum(f.rows for f in footers)
    wanted = min(SAMPLE_ROWS, max(1000, _SAMPLE_VALUES // max(1, len(kinds))))
    task_rows = min(_TASK_ROWS, max(_BLOCK_ROWS, rows // (4 * read_tasks)))
    every = max(1, rows // wanted)
    bodies = [Task(folder.path, kinds, unit.fragments, every) for unit in make_units(footers, task_rows)]
    done = 0

    def results() -> Iterator[Found]:
        nonlocal done
        for table in scan("Profile", bodies, _TASK_BYTES, read_tasks, {}, in_order=True):
            for pickled in table.column("found"):
                found, sample = pickle.loads(pickled.as_buffer())
                done += max((c.rows for c in found.values()), default=0)
                if progress is not None:
                    progress(done, rows)
                yield found, sample

    return merged(kinds, rows, results())


def merged(kinds: Mapping[str, str], rows: int, results: Iterable[Found]) -> Profile:
    """The profile of all rows from those of the tasks."""
    columns = {name: ColumnProfile(kind, 0 if is_read(kind) else rows) for name, kind in kinds.items()}
    samples = []
    for found, sample in results:
        for name, column in found.items():
            columns[name].merge(column)
        samples.append(sample)
    sample = pa.concat_tables(samples)
    for name, column in columns.items():
        if column.kind == "text" and may_be_time(name) and not column.no_times:
            column.kind = "time"
        elif column.kind == "text" and may_be_time(name) and name in sample.column_names:
            place = sample.column_names.index(name)
            sample = sample.set_column(place, name, sample.column(name).cast(pa.int64()))  # in place of its hash
    return Profile(columns, rows, sample)


def _kind(kind: pa.DataType) -> str:
    kind = plain_type(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_floating(kind.value_type):
            return "list of float"
        return f"list of {'text' if is_text(kind) else 'integer'}" if fits(kind, "ids") else str(kind)
    for name, is_it in (
        ("null", pa.types.is_null),
        ("flag", pa.types.is_boolean),
        ("integer", pa.types.is_integer),
        ("float", pa.types.is_floating),
        ("float", pa.types.is_decimal),
        ("text", is_text),
        ("time", lambda k: pa.types.is_timestamp(k) or pa.types.is_date(k)),
    ):
        if is_it(kind):
            return name
    return str(kind)


def _joined(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    # pandas writes integers with nulls as doubles; a number is a number
    return "float" if kinds <= {"integer", "float", "flag"} else "mixed: " + " and ".join(sorted(kinds))


class Task:
    """The body of one reading task; it yields one row with its pickled statistics and sample."""

    def __init__(self, root: str, kinds: dict[str, str], fragments: Sequence[Fragment], every: int):
        self._root, self._kinds, self._fragments, self._every = root, kinds, fragments, every

    def __call__(self) -> Iterable[pa.Table]:
        found: dict[str, ColumnProfile] = {}
        samples: list[pa.Table] = []
        for fragment in self._fragments:
            names = [name for name, kind in self._kinds.items() if is_read(kind)]
            for raw, first_row in read_fragment(self._root, fragment, names, _BLOCK_ROWS):
                for name in raw.column_names:
                    found.setdefault(name, ColumnProfile(self._kinds[name])).merge(_count(raw, name, self._kinds[name]))
                    found[name].by_day[fragment.day] += len(raw) - raw.column(name).null_count
                for name in raw.column_names:
                    if self._kinds[name] in ("integer", "text") and is_request(name):
                        _count_runs(found[name], raw, name)
                samples.append(sampled(raw, self._kinds, fragment.path, first_row, self._every))
        sample = pa.concat_tables(samples)
        yield pa.table({"found": pa.array([pickle.dumps((found, sample))], pa.binary())})


def is_read(kind: str) -> bool:
    """Whether a column of a kind is looked at."""
    return kind in ("null", "flag", "integer", "float", "text", "time") or kind.startswith("list of ")


def sampled(raw: pa.Table, kinds: Mapping[str, str], path: str, first_row: int, every: int) -> pa.Table:
    """About one row of `every`, chosen by a hash of its place, each column as small as its kind allows: strings as the hash that
    stands for them, lists of numbers only as whether they are there."""
    chosen = np.flatnonzero(row_hash(path, first_row, len(raw)) % np.uint64(every) == 0)
    rows = raw.take(pa.array(chosen))
    return pa.table({name: _small(rows, name, kinds[name]) for name in raw.column_names})


def row_hash(path: str, first_row: int, rows: int) -> np.ndarray:
    """A number for each of some rows of a file, [N] uint64, the same in every run."""
    place = np.int64(zlib.crc32(path.rpartition("/")[2].encode())) << np.int64(31)
    return mix64(np.arange(first_row, first_row + rows) + place)


def _small(rows: pa.Table, name: str, kind: str) -> pa.Array:
    if kind == "null":
        return pa.nulls(len(rows), pa.int64())
    if kind in ("flag", "float"):
        column = one_array(rows, name, "number")
        return column.cast(pa.float64(), safe=False)
    if kind == "time":
        return one_array(rows, name, "time").cast(pa.timestamp("us"), safe=False)
    if kind == "text" and may_be_time(name):
        return text_times(one_array(rows, name, "category"))
    if not kind.startswith("list of "):
        return to_int64(one_array(rows, name, "id"))
    lists = one_array(rows, name, "ids")
    if kind == "list of float":
        return pa.array(np.ones(len(rows)), mask=lists.is_null().to_numpy(zero_copy_only=False))
    flat, lengths = list_parts(lists)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, to_int64(flat), mask=lists.is_null())


def _count(raw: pa.Table, name: str, kind: str) -> ColumnProfile:
    """The statistics of one column of a table."""
    found = ColumnProfile(kind, len(raw))
    if kind == "null" or pa.types.is_null(raw.column(name).type):
        found.nulls = len(raw)
        return found
    array = one_array(raw, name, "number" if kind == "float" else "id")  # a NaN among IDs would be null
    found.nulls = array.null_count
    if kind.startswith("list of "):
        array, lengths = list_parts(array)
        found.elements, found.empty = len(array), int((lengths == 0).sum())
        found.longest = int(lengths.max(initial=0))
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    array = array.drop_null()
    if kind in ("flag", "integer", "float"):
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        _count_numbers(found, array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    elif kind.endswith("text"):
        if kind == "text" and may_be_time(name):
            found.no_times = text_times(array).null_count
        found.text_bytes = pc.sum(pc.binary_length(array)).as_py() or 0
    if kind == "list of float":
        values = array.to_numpy(zero_copy_only=False)
        found.fractions = int((values != np.floor(values)).sum())
    if kind in ("integer", "text", "list of integer", "list of text"):
        found.ids = HyperLogLog()
        found.ids.add(to_int64(array).to_numpy(zero_copy_only=False))
    found.values = None if kind in ("time", "list of float") else _values(array)
    return found


def _count_runs(found: ColumnProfile, raw: pa.Table, request: str) -> None:
    """Add the requests of a table, whose rows stand next to each other, and what differs within them."""
    starts = request_starts(one_array(raw, request, "id"))
    found.runs += int(starts.sum())
    others = [name for name in raw.column_names if name not in found.varying]
    found.varying |= {name for name in others if varies(one_array(raw, name, "number"), starts)}


def log1p(values: np.ndarray) -> np.ndarray:
    """sign(x)·log(1+|x|), as `transform: log1p` of a dense feature."""
    return np.sign(values) * np.log1p(np.abs(values))


def _count_numbers(found: ColumnProfile, values: np.ndarray) -> None:
    finite = values[np.abs(values) <= _MOST]  # of float32, as the model reads them
    found.not_finite = len(values) - len(finite)
    found.fractions = int(((finite != np.floor(finite)) | (np.abs(finite) > _MOST_WHOLE)).sum())
    if not found.fractions:
        found.ids = HyperLogLog()
        found.ids.add(finite.astype(np.int64))
    found.numbers.add(finite)
    found.logs.add(log1p(finite))


def _values(array: pa.Array) -> Counter[Any] | None:
    counted = pc.value_counts(array)
    if len(counted) > _FEW_VALUES:
        return None
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return Counter({value: count for value, count in pairs if not (isinstance(value, float) and math.isnan(value))})
