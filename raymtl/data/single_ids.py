"""The 64-bit IDs of features that look up one row of their table for a row of the logs, before they become rows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from raymtl.config.features import BucketFeature, CrossFeature, Feature, columns_of
from raymtl.data import rules
from raymtl.data.ids.hashing import cross, id_of, to_int64
from raymtl.data.rules import Rule, one_array

Broken = Callable[[np.ndarray, pa.Array, Rule], None]
"""Called with where the values of a column break a rule, [N] bool, the column and the rule."""


def single_ids(raw: pa.Table, name: str, features: Mapping[str, Feature], broken: Broken) -> pa.Array:
    """The IDs of a feature in a raw table, [N] int64, null where it looks up nothing; arbitrary ones where `broken` returns."""
    feature = features[name]
    if isinstance(feature, CrossFeature):  # values that break a rule are found where their own feature is read
        return cross_ids([single_ids(raw, part, features, lambda *found: None) for part in feature.of])
    (source,) = columns_of(name, features)
    if isinstance(feature, BucketFeature):
        ids = bucket_ids(one_array(raw, source, "number"), feature, broken)
    else:
        ids = column_ids(raw, source, broken)
    null_id = getattr(feature, "null_id", None)
    return ids if null_id is None else ids.fill_null(id_of(null_id))


def column_ids(raw: pa.Table, column: str, broken: Broken) -> pa.Array:
    """The IDs of a column of them, as `single_ids` gives them."""
    ids = one_array(raw, column, "id")
    if (wrong := rules.not_whole(ids)) is not None:
        broken(wrong, ids, rules.whole_rule(ids.type))
    return to_int64(ids)


def cross_ids(parts: Sequence[pa.Array]) -> pa.Array:
    """The IDs of a cross from those of its parts, null where one is."""
    absent = [part.is_null().to_numpy(zero_copy_only=False) for part in parts if part.null_count]
    crossed = cross([rules.int64_values(part) for part in parts])
    return pa.array(crossed, mask=np.logical_or.reduce(absent) if absent else None)


def bucket_ids(column: pa.Array, feature: BucketFeature, broken: Broken) -> pa.Array:
    """The bucket of each number: how many edges are not above it, as `numpy.digitize` counts; null for null."""
    values, nulls = rules.floats(column), rules.null_mask(column)
    wrong = rules.not_finite(values, nulls)
    if wrong.any():
        broken(wrong, column, rules.DENSE)
    # The edges are float32 as the values are: else 0.7 would be below the edge 0.7
    return pa.array(np.digitize(values, np.array(feature.edges, np.float32)), mask=nulls)
