"""Faults in one column of a day's logs, and days that are worse without one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Values = Any


def _other_rows(values: Values, random: np.random.Generator) -> Values:
    return values.take(pa.array(random.permutation(len(values))))


def _next_row(values: Values, random: np.random.Generator) -> Values:
    return values.take(pa.array(np.roll(np.arange(len(values)), 1)))


def _null(values: Values, random: np.random.Generator) -> Values:
    return pa.nulls(len(values), values.type)


def _mostly_null(values: Values, random: np.random.Generator) -> Values:
    return values.take(pa.array(np.arange(len(values)), mask=random.random(len(values)) < 0.7))


def _stuck(values: Values, random: np.random.Generator) -> Values:
    return values.take(pa.array(np.full(len(values), random.integers(len(values)))))


def _older_half(values: Values, random: np.random.Generator) -> Values:
    """Half of the rows have values of other rows, as after a join on a stale key."""
    rows = np.arange(len(values))
    moved = random.random(len(values)) < 0.6
    rows[moved] = random.permutation(rows[moved])
    return values.take(pa.array(rows))


def _rehashed(values: Values, random: np.random.Generator) -> Values:
    """IDs in another form."""
    if pa.types.is_list(values.type):
        return pa.ListArray.from_arrays(values.offsets, _rehashed(values.values, random))
    if pa.types.is_string(values.type):
        return pc.binary_join_element_wise(values, pa.scalar("x"), "")
    return pc.add(values, 1_000_003)


def _renumbered(values: Values, random: np.random.Generator) -> Values:
    """IDs of an encoder that was fitted again: every ID has another one's number, and all are known."""
    if pa.types.is_list(values.type):
        return pa.ListArray.from_arrays(values.offsets, _renumbered(values.values, random))
    coded = pc.dictionary_encode(values)
    return coded.dictionary.take(pa.array(random.permutation(len(coded.dictionary)))).take(coded.indices)


def _thousandfold(values: Values, random: np.random.Generator) -> Values:
    return pc.multiply(values, 1000.0)


def _negated(values: Values, random: np.random.Generator) -> Values:
    return pc.negate(values)


def _to_cents(values: Values, random: np.random.Generator) -> Values:
    return pc.multiply(values, 100.0)


_ANY = ("item", "city", "price", "rate", "tags")
_IDS, _NUMBERS = ("item", "city", "tags"), ("price", "rate")
FAULTS: dict[str, tuple[Callable[[Values, np.random.Generator], Values], tuple[str, ...]]] = {
    "all null": (_null, _ANY),
    "70 % null": (_mostly_null, _ANY),
    "shuffled": (_other_rows, _ANY),
    "shifted by one row": (_next_row, _ANY),
    "stuck at one value": (_stuck, _ANY),
    "60 % of other rows": (_older_half, _ANY),
    "IDs in another form": (_rehashed, _IDS),
    "IDs renumbered": (_renumbered, _IDS),
    "times 1000": (_thousandfold, _NUMBERS),
    "negated": (_negated, ("rate",)),
    "times 100": (_to_cents, _NUMBERS),
}
"""What is done to the values, and the columns that it may happen to."""


def with_fault(columns: dict[str, Any], fault: str, column: str, seed: int) -> dict[str, Any]:
    """A day with the fault in one column."""
    values = columns[column] if isinstance(columns[column], pa.Array) else pa.array(columns[column])
    return columns | {column: FAULTS[fault][0](values, np.random.default_rng([seed, 7]))}


def with_wrong_labels(columns: dict[str, Any], share: float, seed: int) -> dict[str, Any]:
    """A day on which a share of the rows has the labels of other rows."""
    random = np.random.default_rng([seed, 8])
    rows = np.arange(len(columns["click"]))
    moved = random.random(len(rows)) < share
    rows[moved] = random.permutation(rows[moved])
    return columns | {name: columns[name][rows] for name in ("click", "spend")}
