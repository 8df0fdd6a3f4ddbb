"""Which of the two values of a label column says that the event happened."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.ids.hashing import id_of
from raymtl.init.profile import ColumnProfile, Profile

_PAIRS = {("1", "-1"), ("1", "0"), ("yes", "no"), ("y", "n"), ("true", "false"), ("t", "f")}
Values = tuple[str | int, str | int]
"""The value that counts as 1, and that which counts as 0."""


def is_binary(column: ColumnProfile) -> bool:
    """Whether all values are 0 and 1, or true and false, and both occur."""
    return column.values is not None and set(column.values) == {0, 1}


def named_values(column: ColumnProfile) -> Values | None:
    """The two values of a column that tell by themselves which one says yes: 1 and 0, 1 and -1, `yes` and `no` in any case."""
    two = _two(column)
    return two if two is not None and tuple(str(value).lower() for value in two) in _PAIRS else None


def event_values(column: ColumnProfile) -> Values | None:
    """The two values of a column that somebody calls a label: those of `named_values`, else two texts, of which the rarer counts
    as 1."""
    two = _two(column)
    return two if two is None or column.kind == "text" else named_values(column)


def written_values(column: ColumnProfile) -> dict[str, str | int]:
    """The keys of a task that say what its labels are; nothing for 0 and 1."""
    two = None if is_binary(column) else event_values(column)
    return {} if two is None else {"positive": two[0], "negative": two[1]}


def event_labels(profile: Profile, name: str) -> np.ndarray:
    """The labels of the sample, float64: 1, 0, and NaN for null."""
    values = event_values(profile.columns[name])
    assert values is not None
    column = profile.sample.column(name)  # of text it holds the hashes
    found: np.ndarray = pc.equal(column, pa.scalar(id_of(values[0])).cast(column.type)).cast(pa.float64()).to_numpy()
    return found


def _two(column: ColumnProfile) -> Values | None:
    """The two values of a column, that which counts as 1 first."""
    counts = column.values
    if counts is None or len(counts) != 2 or column.kind not in ("flag", "integer", "float", "text"):
        return None
    if column.kind != "text":
        low, high = sorted(counts)
        return (int(high), int(low)) if all(math.isfinite(v) and v == int(v) for v in counts) else None
    if not all(isinstance(value, str) and value for value in counts):
        return None
    rare, often = sorted(counts, key=lambda value: (counts[value], value))
    return (often, rare) if (often.lower(), rare.lower()) in _PAIRS else (rare, often)
