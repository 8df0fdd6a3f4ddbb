"""Names of partitions: the day in the name of a folder, and the columns that the folders below it stand for."""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.features import Tableless
from raymtl.config.root import Config
from raymtl.data.contract import Column, required_columns
from raymtl.errors import DataError

Value = str | int | float | None
Values = tuple[tuple[str, Value], ...]
"""The columns that a file has from the folders above it."""

SCORED = "(`raymtl score`: name the folders as in training)"
"""What to do about the names of partitions if there is no `data.partition` to change."""

_NULL = "__HIVE_DEFAULT_PARTITION__"
_FORMATS = ("%Y-%m-%d", "%Y%m%d", "%Y_%m_%d", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y")
"""Formats of days that errors suggest."""
_IN_WORDS = (("%Y", "YYYY"), ("%m", "MM"), ("%d", "DD"))


@dataclass(frozen=True)
class Layout:
    """How a data set names its partitions."""

    key: str = "ds"
    format: str = "%Y-%m-%d"
    marker: str | None = None
    """The file that says that a day is complete."""
    numbers: frozenset[str] = frozenset()
    """Columns whose values are numbers if a folder holds them; all others are text."""
    snapshot: int | None = None
    """The snapshot of a table to read; None: the latest."""
    impressions: tuple[str, ...] = ()
    """The columns that hold the impressions of nested logs."""
    since: tuple[tuple[str, dt.date], ...] = ()
    """Columns that files of earlier days may lack, with their first day."""

    @classmethod
    def of(cls, config: Config, part: str = "train") -> Self:
        """The layout of a configuration's data, for `train` or `eval`.

        How it uses a column decides the column's type, not the values: with the days that are read the type could change, and
        the ID "7" is another one than 7.
        """
        partition, daily = config.data.partition, config.daily
        columns = required_columns(config)
        direct = {name for name in config.features if _is_direct(config, name)}
        texts = {
            c.name
            for c in columns
            if c.kind in ("id", "category", "label") and c.used_by.removeprefix("features.") not in direct
        }
        return cls(
            partition.key,
            partition.format,
            daily.ready.marker if daily else None,
            frozenset({c.name for c in columns} - texts),
            config.data.snapshot_of(part),
            config.data.impression_columns,
            _since(config, columns),
        )

    def optional(self, day: dt.date) -> tuple[str, ...]:
        """The columns that files of a day may lack."""
        return tuple(name for name, first in self.since if day < first)

    @property
    def pattern(self) -> str:
        """The name of a day's folder, such as `ds=YYYY-MM-DD`."""
        words = self.format
        for directive, word in _IN_WORDS:
            words = words.replace(directive, word)
        return f"{self.key}={words}"

    def name(self, day: dt.date) -> str:
        """The name of a day's folder."""
        return f"{self.key}={quote(day.strftime(self.format), safe=' -_.')}"

    def day(self, text: str) -> dt.date | None:
        """The day that the value of a partition stands for."""
        return parse_day(text, self.format)

    def values(self, below: str) -> Values:
        """The columns of a file from its path below the folder of its day."""
        return self.typed(pair for name in below.split("/")[:-1] if (pair := split_name(name)) is not None)

    def of_root(self, root: str) -> Values:
        """The column of all files below a root whose name is `key=value`."""
        pair = split_name(root.rstrip("/").rpartition("/")[2])
        return () if pair is None or pair[0] == self.key else self.typed([pair])

    def typed(self, texts: Iterable[tuple[str, str | None]]) -> Values:
        """Columns with their values, from the texts in which partitions hold them."""
        return tuple((key, _number(text) if text and key in self.numbers else text) for key, text in texts)


def split_name(name: str) -> tuple[str, str | None] | None:
    """Key and value of a folder `key=value`, decoded as Hive writes them, None for a null; None for any other folder."""
    key, equals, value = name.partition("=")
    if not key or not equals:
        return None
    return unquote(key), None if value == _NULL else unquote(value)


def parse_day(text: str, form: str) -> dt.date | None:
    """The day of a text in exactly this format."""
    try:
        day = dt.datetime.strptime(text, form)
    except ValueError:
        return None
    # strptime also reads 2026-1-5 as %Y-%m-%d
    return day.date() if day.strftime(form) == text else None


def format_of(texts: Iterable[str]) -> str | None:
    """A format of days that all these texts have."""
    texts = list(texts)
    return next((f for f in _FORMATS if texts and all(parse_day(text, f) for text in texts)), None)


def with_columns(schema: pa.Schema, values: Values) -> pa.Schema:
    """The schema of a file together with the columns of its folders that the file itself does not hold."""
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), type(None): pa.null()}
    for name, value in dict(values).items():
        if name not in schema.names:
            schema = schema.append(pa.field(name, types[type(value)]))
    return schema


def with_values(table: pa.Table, values: Values, columns: Sequence[str], path: str) -> pa.Table:
    """The rows of a file together with the columns of its folders.

    Raises DataError if the file holds such a column with another value: one of the two is wrong.
    """
    for name, value in dict(values).items():
        if name not in columns:
            continue
        if name in table.column_names:
            _compare(table.column(name), name, value, path)
        else:
            table = table.append_column(name, _constant(value, len(table)))
    return table


def _constant(value: Value, rows: int) -> pa.Array:
    if isinstance(value, str):  # one hash for all rows
        return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array([value]))
    return pa.repeat(pa.scalar(value), rows) if value is not None else pa.nulls(rows)


def _compare(column: pa.ChunkedArray, name: str, value: Value, path: str) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    try:
        same = (
            column.is_null()
            if value is None
            else pc.equal(column.cast(kind), pa.scalar(value).cast(kind)).fill_null(False)
        )
    except pa.ArrowException:  # no value of the column's type
        same = pa.chunked_array([pa.repeat(False, len(column))])
    if not pc.all(same).as_py():
        other = column[pc.index(same, False).as_py()].as_py()
        raise DataError(
            f"{path}: column `{name}` holds {other!r}, but the folder of the file says {name}="
            f"{_NULL if value is None else value}; write the same value in both, or leave the column out of the file"
        )


def _since(config: Config, columns: Iterable[Column]) -> tuple[tuple[str, dt.date], ...]:
    """The columns with a first day: the earliest, if several features read one; none where anything else reads it."""
    first: dict[str, list[dt.date | None]] = {}
    for column in columns:
        feature = config.features.get(column.feature)
        first.setdefault(column.name, []).append(getattr(feature, "since", None))
    return tuple(
        (name, min(days)) for name, found in first.items() if len(days := [d for d in found if d]) == len(found)
    )


def _is_direct(config: Config, feature: str) -> bool:
    lookup = not isinstance(config.features[feature], Tableless)
    return lookup and config.tables[config.table_of(feature)].id_space == "direct"


def _number(text: str) -> str | int | float:
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
