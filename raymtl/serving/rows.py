"""Convert logged rows to inputs of a served model: consecutive rows with equal user-side features are one user.

Shapes: N rows, U users among them, V values of a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raymtl.config.features import (
    BucketFeature,
    CrossFeature,
    DenseFeature,
    Feature,
    IdFeature,
    SingleId,
    VectorFeature,
    columns_of,
)
from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.data.contract import Kind
from raymtl.data.rules import one_array
from raymtl.serving.model import SCENARIO, Raw

Columns = dict[str, pa.Array]
"""The result of `BlockMaker.features`."""


@dataclass(frozen=True)
class Rows:
    """N rows of the logs, ready for the model."""

    keys: pa.Table
    """The key columns of the output, [N]."""
    users: Columns
    """The user's side and the scenario, [U]."""
    index: np.ndarray
    """Each row's user, [N] int64, ascending."""
    items: Columns
    """The item's side, [N]."""


def tensors(columns: Columns, features: Mapping[str, Feature]) -> Raw:
    """The inputs of some features, with table rows for IDs, and the scenario if the columns have it."""
    raw: Raw = {}
    for name, feature in features.items():
        if isinstance(feature, DenseFeature):
            raw[name] = torch.from_numpy(columns[f"dense:{name}"].to_numpy())
        elif isinstance(feature, VectorFeature):
            values = columns[f"vector:{name}"].flatten().to_numpy()
            raw[name] = torch.from_numpy(values).unflatten(0, (-1, feature.width))
        elif isinstance(feature, SingleId):
            column = columns[f"id:{name}"]
            if column.null_count:  # the value below a null may not be a row of the table
                raw[f"{name}.present"] = torch.from_numpy(column.is_valid().to_numpy(zero_copy_only=False))
                column = column.fill_null(0)
            raw[name] = torch.from_numpy(column.to_numpy())
        else:
            column = columns[f"ids:{name}"]
            raw[name] = torch.from_numpy(column.flatten().to_numpy())
            raw[f"{name}.lengths"] = torch.from_numpy(column.value_lengths().to_numpy().astype(np.int64))
    if "scenario" in columns:
        raw[SCENARIO] = torch.from_numpy(columns["scenario"].to_numpy().astype(np.int64))
    return raw


def new_users(raw: pa.Table, config: Config, names: Sequence[str]) -> np.ndarray:
    """Where a row differs from the previous one in a user-side feature (`names`) or the scenario, [N] bool.

    The first row always does. The rows until the next difference have the same user state, so the user part is computed once for
    them.
    """
    new = np.zeros(len(raw), bool)
    new[:1] = True
    for column, kind in _columns(config, names):
        values = one_array(raw, column, kind)
        if kind == "vector":
            lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            new |= _list_changes(values.flatten(), lengths)
        elif kind == "ids":
            new |= _list_changes(*rules.list_parts(values))
        elif kind == "number":
            bits = rules.floats(values).view(np.int32)  # a null is NaN here, and equal to itself
            new[1:] |= bits[1:] != bits[:-1]
        else:
            codes, nulls = _codes(values), rules.null_mask(values)
            new[1:] |= codes[1:] != codes[:-1]
            if nulls is not None:
                new[1:] |= nulls[1:] != nulls[:-1]
    return new


def _columns(config: Config, names: Sequence[str]) -> Iterator[tuple[str, Kind]]:
    for name in names:
        feature = config.features[name]
        if isinstance(feature, CrossFeature):  # it changes with its parts
            continue
        kind: Kind = "ids"
        if isinstance(feature, DenseFeature | BucketFeature):
            kind = "number"
        elif isinstance(feature, IdFeature):
            kind = "id"
        elif isinstance(feature, VectorFeature):
            kind = "vector"
        yield columns_of(name, config.features)[0], kind
    if config.data.scenario:
        yield config.data.scenario.column, "category"


def _codes(values: pa.Array) -> np.ndarray:
    """Integers that are equal if the values are; a null gets an arbitrary one."""
    if not pa.types.is_integer(values.type):
        values = (values if pa.types.is_dictionary(values.type) else pc.dictionary_encode(values)).indices
    return values.fill_null(0).to_numpy(zero_copy_only=False)


def _list_changes(flat: pa.Array, lengths: np.ndarray) -> np.ndarray:
    """Where a list differs from the previous one, [N] bool; false for the first."""
    values = _codes(flat)
    changed = np.zeros(len(lengths), bool)
    changed[1:] = lengths[1:] != lengths[:-1]
    # For equal lengths, the counterpart of each value is `length` positions before it
    comparable = ~changed
    comparable[:1] = False
    place = np.flatnonzero(np.repeat(comparable, lengths))
    differs = place[values[place] != values[place - np.repeat(lengths, lengths)[place]]]
    changed[np.searchsorted(np.cumsum(lengths), differs, side="right")] = True
    return changed
