"""Convert logged rows to inputs of a served model: consecutive rows with equal user-side features are one user.

Shapes: N rows, U users among them, V values of a list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from raymtl.config.features import DenseFeature, Feature, IdsFeature, SequenceDenseFeature, SingleId, VectorFeature
from raymtl.config.root import Config
from raymtl.data.requests import feature_changes, value_changes
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
        elif isinstance(feature, SequenceDenseFeature):
            raw[name] = torch.from_numpy(columns[f"numbers:{name}"].flatten().to_numpy())
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
            if isinstance(feature, IdsFeature) and feature.weights is not None:
                raw[f"{name}.weights"] = torch.from_numpy(columns[f"weights:{name}"].flatten().to_numpy())
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
    for name in names:
        new |= feature_changes(raw, name, config.features)
    if config.data.scenario:
        new |= value_changes(one_array(raw, config.data.scenario.column, "category"))
    return new
