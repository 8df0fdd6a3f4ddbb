"""Whether the values of any Arrow type are equal, exactly."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def varies(values: pa.Array, starts: np.ndarray) -> bool:
    """Whether a column has two values within a group; `starts`, [N] bool, is true where a group begins.

    Two nulls are equal, and so are two floats of the same bits. Maps and unions count as different.
    """
    later = np.flatnonzero(~starts)
    return len(later) > 0 and bool(_differ(values, later - 1, later).any())


def _differ(values: pa.Array, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether the values at two places differ, for n pairs of places, [n] bool."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    nulls = values.is_null().to_numpy(zero_copy_only=False)
    differs = nulls[first] != nulls[second]
    known = np.flatnonzero(~(nulls[first] | nulls[second]))
    if len(known):
        differs[known] = _known_differ(values, first[known], second[known])
    return differs


def _known_differ(values: pa.Array, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    kind = values.type
    if pa.types.is_struct(kind):
        none = np.zeros(len(first), bool)
        return np.logical_or.reduce([none, *(_differ(field, first, second) for field in values.flatten())])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists_differ(values, first, second)
    if pa.types.is_nested(kind):
        return np.ones(len(first), bool)
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False)
        codes = numbers.view(f"i{numbers.itemsize}")
    elif pa.types.is_integer(kind):
        codes = values.fill_null(0).to_numpy(zero_copy_only=False)
    else:
        codes = pc.dictionary_encode(values).indices.fill_null(0).to_numpy(zero_copy_only=False)
    return codes[first] != codes[second]


def _lists_differ(values: pa.Array, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    differs = lengths[first] != lengths[second]
    same = np.flatnonzero(~differs)
    count = lengths[first[same]]
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    elements = (np.repeat(starts[place[same]], count) + within for place in (first, second))
    differs[np.repeat(same, count)[_differ(values.flatten(), *elements)]] = True
    return differs
