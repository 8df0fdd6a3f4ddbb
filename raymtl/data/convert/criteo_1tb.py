"""Convert Criteo's 1 TB click logs: a file per day, four billion impressions, read in batches of bounded memory."""

import os
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.convert.partitions import DenseMoments, PartitionWriter, start_over
from raymtl.data.convert.text_table import Lines, TextTable
from raymtl.data.sketch import HyperLogLog
from raymtl.data.writing import OutputFolder, write_config
from raymtl.errors import DataError
from raymtl.storage.paths import join_path

INTEGERS = tuple(f"int_{n}" for n in range(1, 14))
CATEGORIES = tuple(f"cat_{n}" for n in range(1, 27))
COLUMNS = ("click", *INTEGERS, *CATEGORIES)
"""The 40 columns of the files, which have no header; the semantics of the features is undisclosed."""

FIRST_DAY = "2015-01-01"
"""Stands for day_0, since the data set hides its dates."""
MOST_ROWS = 40_000_000
"""Rows of a table, at most: as MLPerf's reference limits its indices."""

_SPLIT = "logs"
_SITE = "https://huggingface.co/datasets/criteo/CriteoClickLogs"
_DIGITS = np.full(256, 255, np.uint8)
for _n, _letter in enumerate(b"0123456789abcdef"):
    _DIGITS[_letter] = _n
_HEADER = """\
Criteo 1TB click logs (CC BY-NC-SA 4.0; {days} days), converted by `raymtl convert criteo_1tb`.
Task: click. The last day is evaluated. The days are counted from 2015-01-01: the data set hides its dates."""


def convert_criteo_1tb(source: str, out: str) -> str:
    """Convert `day_0`, `day_1`, … of folder `source` to `out/logs`, one partition each; returns the path of `out/config.yaml`.

    Columns written: `click` (int8), `INTEGERS` (int32) and `CATEGORIES` (int64, the number behind the hexadecimal digits), null
    where the field is empty. Raises DataError, with file, line and value, if a file is another one.
    """
    files = _files(source)
    folder = OutputFolder.open(out)
    start_over(folder, "criteo_1tb", [_SPLIT])
    writer = PartitionWriter(folder, _SPLIT)
    values = {name: HyperLogLog() for name in CATEGORIES}
    moments, first = DenseMoments(dict.fromkeys(INTEGERS, "log1p")), np.datetime64(FIRST_DAY)
    days = [str(first + n) for n in range(len(files))]
    for day, file in zip(days, files, strict=True):
        for lines in file.batches():
            table = _impressions(lines)
            writer.write(day, table)
            if day != days[-1]:
                moments.add(table)
                for name, sketch in values.items():
                    sketch.add(table[name].drop_null().to_numpy())
        if day not in writer.rows:
            raise file.error("has no rows")
    writer.close()
    return write_config(_config(values, moments, days, folder.path), folder, _HEADER.format(days=len(days)))


def _files(source: str) -> list[TextTable]:
    """The files of consecutive days."""
    if not os.path.isdir(source):
        raise DataError(
            f"criteo_1tb: the source folder `{source}` does not exist; pass the folder that holds day_0 to day_23"
        )
    found = {int(m[1]): m[0] for name in os.listdir(source) if (m := re.fullmatch(r"day_(\d{1,2})(\.gz)?", name))}
    if len(found) < 2:
        raise DataError(
            f"criteo_1tb: folder `{source}` has less than two of day_0 to day_23; download them from {_SITE}"
        )
    days = sorted(found)
    if missing := sorted(set(range(days[0], days[-1])) - set(days)):
        raise DataError(f"criteo_1tb: folder `{source}` has no day_{missing[0]}; download it from {_SITE}")
    paths = [os.path.join(source, found[day]) for day in days]
    return [TextTable("criteo_1tb", path, COLUMNS, _SITE, delimiter="\t") for path in paths]


def _impressions(lines: Lines) -> pa.Table:
    columns = {"click": lines.labels("click")}
    for name in INTEGERS:
        columns[name] = lines.integers(name, low=-(2**31), high=2**31 - 1, nullable=True).cast(pa.int32())
    return pa.table(columns | {name: _numbers(lines, name) for name in CATEGORIES})


def _numbers(lines: Lines, name: str) -> pa.Array:
    """The numbers behind up to eight hexadecimal digits."""
    text = lines.columns[name]
    empty = pc.equal(text, "")
    length = pc.binary_length(text)
    lines.require(name, pc.less_equal(length, 8), "up to 8 hexadecimal digits")
    padded = pc.if_else(empty, "0" * 8, text)
    if pc.any(pc.and_(pc.less(length, 8), pc.greater(length, 0))).as_py():
        padded = pc.utf8_lpad(padded, 8, "0")
    body = np.frombuffer(padded.buffers()[2], np.uint8)[: 8 * len(text)].reshape(len(text), 8)
    digits = _DIGITS[body]
    lines.require(name, pa.array((digits < 16).all(axis=1)), "up to 8 hexadecimal digits")
    numbers = digits.astype(np.int64) @ (16 ** np.arange(7, -1, -1))
    return pa.array(numbers, mask=empty.to_numpy(zero_copy_only=False))


def _table_rows(distinct: int) -> int:
    """Rows of a hash table: 8 to 16 per value, of many values 2 to 4, and no more than `MOST_ROWS`."""
    each = 8 if distinct <= 100_000 else 2
    return min(MOST_ROWS, max(64, 1 << (each * max(1, distinct)).bit_length()))


def _config(values: dict[str, HyperLogLog], moments: DenseMoments, days: list[str], root: str) -> dict[str, Any]:
    """The configuration for the converted files."""
    return {
        "name": "criteo_1tb",
        "data": {
            "path": join_path(root, _SPLIT),
            "train": {"start": days[0], "end": days[-2]},
            "eval": {"start": days[-1], "end": days[-1]},
        },
        "features": moments.features() | {name: {"kind": "id"} for name in CATEGORIES},
        "table_defaults": {"dim": 128},
        "tables": {name: {"rows": _table_rows(sketch.estimate())} for name, sketch in values.items()},
        "tasks": {"click": {"kind": "binary"}},
        "model": {
            "preset": "single_task",
            "trunk": {"hidden": [1024, 1024, 512]},
            "towers": {"hidden": [256]},
        },
        "train": {"epochs": 1},
    }
