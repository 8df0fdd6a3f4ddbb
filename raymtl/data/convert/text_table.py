"""Read text files that do not fit in memory: batches of columns, and errors that name file, line, column and value."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from raymtl.errors import DataError
from raymtl.storage.retry import to_user_error
from raymtl.words import count_of

_NO_DELIMITER = "\x1f"  # in none of the files, so that a line is one field
_BLOCK_BYTES = 1 << 20  # pyarrow reads some 32 blocks ahead: larger ones cost memory
_BLOCKS = 8  # in a batch
_MOST = 2**63 - 1


@dataclass(frozen=True)
class TextTable:
    """A text file, perhaps compressed, with one row per line and the same number of fields in each.

    With `header` the first line has the names of the columns, of which only `columns` are read; otherwise `columns` are all.
    """

    converter: str
    path: str
    columns: Sequence[str]
    site: str
    """Where to download it."""
    delimiter: str = ","
    header: bool = False
    quotes: bool = False
    """Whether a field with the delimiter in it is in double quotes."""

    def batches(self) -> Iterator["Lines"]:
        """The rows in batches; every column is strings without nulls. Raises DataError."""
        invalid: list[pacsv.InvalidRow] = []

        def refuse(row: pacsv.InvalidRow) -> str:
            invalid.append(row)
            return "error"

        line, names = 1 + self.header, None if self.header else self.columns
        try:
            with self._open(self.delimiter, names, self.columns, self.quotes, refuse) as reader:
                while blocks := list(islice(reader, _BLOCKS)):
                    batch = pa.Table.from_batches(blocks).combine_chunks()
                    if batch.num_rows:
                        yield Lines(self, line, {name: batch[name].chunk(0) for name in self.columns})
                    line += batch.num_rows
        except PermissionError as error:
            raise to_user_error(f"read `{self.path}`", error) from error
        except KeyError as error:  # pyarrow names the column
            raise self.error(f"lacks a column of {list(self.columns)} ({error.args[0]})") from error
        except (pa.ArrowInvalid, OSError) as error:
            if invalid:
                row = invalid[0]
                fields = count_of(row.actual_columns, "field")
                raise DataError(
                    f"{self.converter}: `{self.path}`, line {self._line_of(row)}: {fields} instead of {row.expected_columns} in "
                    f"{row.text[:80]!r}; download the file again from {self.site}"
                ) from error
            raise self.error(f"is not readable as text ({str(error).splitlines()[0]})") from error

    def error(self, fault: str) -> DataError:
        """The error for a file that is wrong as a whole."""
        return DataError(f"{self.converter}: `{self.path}` {fault}; download it again from {self.site}")

    def _open(
        self, delimiter: str, names: Sequence[str] | None, columns: Sequence[str], quotes: bool, refuse=None
    ) -> pacsv.CSVStreamingReader:
        return pacsv.open_csv(
            self.path,
            read_options=pacsv.ReadOptions(column_names=names, block_size=_BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quotes else False,
                ignore_empty_lines=False,
                invalid_row_handler=refuse,
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )

    def _line_of(self, row: pacsv.InvalidRow) -> int:
        """Number of the first line with this text; the parser does not tell it, so the file is read again."""
        line = 1
        with self._open(_NO_DELIMITER, ["line"], ["line"], quotes=False) as reader:
            for batch in reader:
                place = pc.index(batch["line"], row.text).as_py()
                if place >= 0:
                    return line + place
                line += batch.num_rows
        return line


@dataclass(frozen=True)
class Lines:
    """One batch of a text file."""

    table: TextTable
    first: int
    """Number of its first line, from 1."""
    columns: dict[str, pa.Array] = field(repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def require(self, name: str, valid: pa.Array, expected: str) -> None:
        """Raise DataError with the first line where `valid` is not true."""
        bad = np.flatnonzero(~valid.fill_null(False).to_numpy(zero_copy_only=False))
        if len(bad):
            row = int(bad[0])
            value = self.columns[name][row].as_py()[:80]
            raise DataError(
                f"{self.table.converter}: `{self.table.path}`, line {self.first + row}: {name} is {value!r}, not {expected}; "
                f"fix the line, or download the file again from {self.table.site}"
            )

    def integers(self, name: str, low: int = 0, high: int = _MOST, nullable: bool = False) -> pa.Array:
        """A column as int64, each value from `low` to `high`; with `nullable` an empty field is null.

        Then `7.0` is 7, too: so pandas writes integers of a column with nulls.
        """
        text = self._fields(name, nullable)
        try:
            values = text.cast(pa.int64())
        except pa.ArrowInvalid:  # slower, and finds the line
            text = pc.replace_substring_regex(text, r"\.0$", "") if nullable else text
            digits = pc.match_substring_regex(text, r"^-?[0-9]{1,18}$")
            values = pc.if_else(digits, text, None).cast(pa.int64())
        good = pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))
        expected = f"an integer from {low} to {high}" if high < _MOST else f"an integer of at least {low}"
        self.require(name, pc.or_kleene(good, pc.is_null(text)) if nullable else good, expected)
        return values

    def numbers(self, name: str) -> pa.Array:
        """A column of finite numbers as float32; an empty field is null."""
        text = self._fields(name, nullable=True)
        try:
            values = text.cast(pa.float64())
        except pa.ArrowInvalid:  # slower, and finds the line
            digits = pc.match_substring_regex(text, r"^-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$")
            values = pc.if_else(digits, text, None).cast(pa.float64())
        self.require(name, pc.or_kleene(pc.is_finite(values), pc.is_null(text)), "a number")
        return values.cast(pa.float32())

    def _fields(self, name: str, nullable: bool) -> pa.Array:
        """A column, with null for empty fields if it may have them."""
        text = self.columns[name]
        return pc.if_else(pc.equal(text, ""), None, text) if nullable else text

    def words(self, name: str) -> pa.DictionaryArray:
        """A column of few different strings; an empty field is null."""
        return pc.dictionary_encode(self._fields(name, nullable=True))

    def labels(self, name: str) -> pa.Array:
        """A column of 0 and 1, as int8."""
        self.require(name, pc.is_in(self.columns[name], pa.array(["0", "1"])), "0 or 1")
        return pc.equal(self.columns[name], "1").cast(pa.int8())


def find_file(converter: str, source: str, names: Sequence[str], site: str) -> str:
    """Path of the first of the files `names` in the folder `source`. Raises DataError."""
    if not os.path.isdir(source):
        raise DataError(
            f"{converter}: the source folder `{source}` does not exist; pass the folder that holds {names[0]}"
        )
    for name in names:
        if os.path.isfile(os.path.join(source, name)):
            return os.path.join(source, name)
    raise DataError(f"{converter}: folder `{source}` has no {' or '.join(names)}; download it from {site}")
