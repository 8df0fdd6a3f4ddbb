"""How the values of a column differ between two days, in a sentence: what to look for once a column is to blame."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.explaining.association import BINS, codes_of
from raymtl.reports.style import percent, significant

_NULLS, _KNOWN, _MOVED = 0.02, 0.1, 0.1
"""Differences of shares of rows that are told."""
_MOVED_MEDIAN, _TIMES = 0.25, 1.5
"""The same of the median, in widths of the middle half of the values, and of that width itself."""


def symptom(before: pa.ChunkedArray, after: pa.ChunkedArray, is_number: bool) -> str:
    """The most telling difference between a column's values on an earlier day and on this one."""
    nulls = [_null_share(column) for column in (before, after)]
    if abs(nulls[1] - nulls[0]) > _NULLS:
        return f"{percent(nulls[1])} of its rows are null or empty, {percent(nulls[0])} were"
    old, new = _plain(before), _plain(after)
    if len(np.unique(codes_of(old, is_number))) > len(np.unique(codes_of(new, is_number))) == 1:
        return f"every row has the value {new[0].as_py()!r}"
    if is_number and (moved := _moved_numbers(old, new)):
        return moved
    try:
        codes = codes_of(pa.chunked_array([*old.chunks, *new.cast(old.type).chunks]), is_number)
    except pa.ArrowException:
        return f"it holds {new.type}, it held {old.type}"
    was, now = codes[: len(old)], codes[len(old) :]
    if not is_number:
        half = len(was) // 2
        expected, known = np.isin(was[half:], was[:half]).mean(), np.isin(now, was).mean()
        if known < expected - _KNOWN:
            return f"only {percent(known)} of its rows have a value of the earlier day"
    size = int(codes.max()) + 1
    counts = [np.bincount(part % BINS, minlength=min(size, BINS)) for part in (was, now)]
    share = float(np.abs(counts[0] / len(was) - counts[1] / len(now)).sum() / 2)
    if share > _MOVED:
        return f"its values are distributed differently: {percent(share)} of the rows would have to change"
    return (
        "its values are distributed as before; look for values in the wrong rows, as after a shuffle, a shift or a join on a "
        "wrong key"
    )


def _moved_numbers(before: pa.ChunkedArray, after: pa.ChunkedArray) -> str:
    """Where the middle of the numbers, or their spread, has moved; empty if neither has."""
    was, now = (np.nanquantile(_floats(column), [0.25, 0.5, 0.75]) for column in (before, after))
    width, width_now = was[2] - was[0], now[2] - now[0]
    if abs(now[1] - was[1]) > _MOVED_MEDIAN * width:
        return f"its median is {significant(float(now[1]))}, it was {significant(float(was[1]))}"
    if width > 0 and not 1 / _TIMES < width_now / width < _TIMES:
        return f"the middle half of its values spans {significant(float(width_now))}, it spanned {significant(float(width))}"
    return ""


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _null_share(column: pa.ChunkedArray) -> float:
    empty = column.is_null()
    if _is_list(column.type):
        empty = pc.or_(empty, pc.equal(pc.list_value_length(column).fill_null(0), 0))
    return float(pc.mean(empty.cast(pa.int8())).as_py() or 0.0)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64(), safe=False).to_numpy()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary, so that two days can be compared."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
