"""What the footers of the files alone say about their columns: types, nulls, least and greatest values."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raymtl.data.units import Footer
from raymtl.data.validation.moments import Moments
from raymtl.init.profile import ColumnProfile, Profile, is_read, kinds_of, sampled
from raymtl.storage.filesystem import open_to_read
from raymtl.storage.folder import Folder
from raymtl.storage.retry import retry

_FILES = 16
"""Footers that are looked at, evenly spread over the files."""
_TEXT_VALUES = 100_000
"""Different values that a column of strings is taken to have: no footer says it."""


def profile_of_footers(folder: Folder, footers: Sequence[Footer]) -> Profile:
    """A profile without a sample, whose counts of different values are guesses."""
    kinds, rows = kinds_of(footers), sum(f.rows for f in footers)
    found = {name: ColumnProfile(kind, rows, values=None) for name, kind in kinds.items()}
    chosen = [footers[n] for n in np.unique(np.linspace(0, len(footers) - 1, _FILES).astype(int))]
    for footer in chosen:
        for name, statistics in _statistics(folder, footer):
            if name in found and is_read(kinds[name]):
                _add(found[name], statistics)
    for column in found.values():
        _conclude(column, all_seen=len(chosen) == len(footers))
    nothing = chosen[0].schema.empty_table()
    nothing = nothing.select([name for name in nothing.column_names if is_read(kinds[name])])
    return Profile(found, rows, sampled(nothing, kinds, "", 0, 1))


def _statistics(folder: Folder, footer: Footer) -> Iterator[tuple[str, pq.Statistics]]:
    def read() -> pq.FileMetaData:
        with open_to_read(folder.filesystem, footer.file.path) as stream:
            return pq.read_metadata(stream)

    metadata = retry(read)
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            if column.is_stats_set and column.statistics is not None:
                path = column.path_in_schema
                nested = path.startswith(tuple(f"{name}." for name in footer.file.impressions))
                yield path.rpartition(".")[2] if nested else path, column.statistics


def _add(column: ColumnProfile, statistics: pq.Statistics) -> None:
    """Widen the range of a column by that of a row group."""
    if column.kind not in ("flag", "integer", "float") or not statistics.has_min_max:
        return
    low, high = _number(statistics.min), _number(statistics.max)
    if low is not None and high is not None:
        column.numbers.merge(Moments(1, (low + high) / 2, 0.0, low, high))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _conclude(column: ColumnProfile, all_seen: bool) -> None:
    """How many different values there are at most, and which, if it is one or 0 and 1."""
    low, high = column.numbers.low, column.numbers.high
    column.estimate = min(column.rows, _TEXT_VALUES)
    if column.kind in ("flag", "integer") and column.numbers.count:
        column.estimate = int(min(column.rows, high - low + 1))
        if (low, high) == (0, 1):
            column.values = Counter({0: 1, 1: 1})
        elif low == high and all_seen:
            column.values = Counter({int(low): 1})
