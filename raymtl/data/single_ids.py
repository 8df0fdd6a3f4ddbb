"""The 64-bit IDs of features that look up one row of their table for a row of the logs, before they become rows."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raymtl.config.features import BiasFeature, BucketFeature, IdFeature
from raymtl.data import rules
from raymtl.data.ids.hashing import to_int64
from raymtl.data.rules import Rule, one_array

Broken = Callable[[np.ndarray, pa.Array, Rule], None]
"""Called with where the values of a column break a rule, [N] bool, the column and the rule."""


def single_ids(raw: pa.Table, name: str, feature: IdFeature | BucketFeature | BiasFeature, broken: Broken) -> pa.Array:
    """The IDs of a feature in a raw table, [N] int64, null where it looks up nothing; arbitrary ones where `broken` returns."""
    source = feature.column or name
    if isinstance(feature, BucketFeature):
        return bucket_ids(one_array(raw, source, "number"), feature, broken)
    ids = one_array(raw, source, "id")
    if (wrong := rules.not_whole(ids)) is not None:
        broken(wrong, ids, rules.whole_rule(ids.type))
    return to_int64(ids)


def bucket_ids(column: pa.Array, feature: BucketFeature, broken: Broken) -> pa.Array:
    """The bucket of each number: how many edges are not above it, as `numpy.digitize` counts; null for null."""
    values, nulls = rules.floats(column), rules.null_mask(column)
    wrong = rules.not_finite(values, nulls)
    if wrong.any():
        broken(wrong, column, rules.DENSE)
    # The edges are float32 as the values are: else 0.7 would be below the edge 0.7
    return pa.array(np.digitize(values, np.array(feature.edges, np.float32)), mask=nulls)
