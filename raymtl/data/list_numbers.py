"""Numbers beside the IDs of lists: the weights of a bag, and the numbers of the steps of a history.

Shapes: N rows, V elements that are kept of all lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.features import Feature, IdsFeature, SequenceDenseFeature, SequenceFeature
from raymtl.data import rules
from raymtl.data.rules import Rule, one_array


@dataclass(frozen=True)
class ListNumbers:
    """One number for each ID that a feature looks up: those of null IDs, and those beyond `max_length`, are gone with them."""

    values: np.ndarray
    """[V] float32, NaN for null. Empty if a list is `misfit`."""
    nulls: np.ndarray
    """[V] bool."""
    lengths: np.ndarray
    """Elements of each row, [N] int64."""
    misfit: np.ndarray
    """Rows with lists of different lengths, [N] bool."""
    found: pa.Array
    """Length of each list of numbers as it is in the files, [N]; null for a null list."""
    expected: np.ndarray
    """That of the IDs, [N] int64."""

    def owner(self, element: int) -> int:
        """The row of an element."""
        return int(np.searchsorted(np.cumsum(self.lengths), element, side="right"))

    def shown(self) -> pa.Array:
        """The two lengths of each row in words, [N]."""
        found = self.found.cast(pa.string()).fill_null("null")
        return pc.binary_join_element_wise(found, "beside", pa.array(self.expected).cast(pa.string()), "IDs", " ")


def step_numbers(raw: pa.Table, name: str, features: Mapping[str, Feature]) -> ListNumbers:
    """The numbers of a feature of kind `sequence_dense`, before they are scaled; a null list is null at every step."""
    feature = features[name]
    assert isinstance(feature, SequenceDenseFeature)
    of = features[feature.of]
    assert isinstance(of, SequenceFeature)
    return _beside(raw, of.column or feature.of, feature.column or name, of)


def id_weights(raw: pa.Table, name: str, feature: IdsFeature) -> ListNumbers:
    """The weights of the IDs of a feature, null ones as null."""
    assert feature.weights is not None
    return _beside(raw, feature.column or name, feature.weights, feature)


def broken_numbers(found: ListNumbers, feature: Feature) -> tuple[np.ndarray, Rule]:
    """Which values break the rule of the feature, [V] bool, and the rule. A null never does."""
    if isinstance(feature, IdsFeature):
        return ~((found.values >= 0) & np.isfinite(found.values)) & ~found.nulls, rules.ID_WEIGHT
    return rules.not_finite(found.values, found.nulls), rules.STEP


def _beside(raw: pa.Table, ids: str, numbers: str, feature: IdsFeature | SequenceFeature) -> ListNumbers:
    flat, expected = rules.elements(one_array(raw, ids, "ids"))
    lists = one_array(raw, numbers, "numbers")
    found = pc.list_value_length(lists)
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    misfit = there & (found.fill_null(0).to_numpy(zero_copy_only=False) != expected)
    if isinstance(feature, IdsFeature):  # without its weights a bag is another one
        misfit |= ~there & (expected > 0)
    if misfit.any():
        nothing = np.zeros(len(expected), np.int64)
        return ListNumbers(np.empty(0, np.float32), np.empty(0, bool), nothing, misfit, found, expected)
    inside = lists.flatten()
    values, nulls = rules.floats(inside), rules.null_mask(inside)
    nulls = np.zeros(len(values), bool) if nulls is None else nulls
    if not there.all():
        known = np.repeat(there, expected)
        values, nulls = _spread(values, known, np.nan), _spread(nulls, known, True)
    lengths = expected
    if flat.null_count:
        kept = flat.is_valid().to_numpy(zero_copy_only=False)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        values, nulls, lengths = values[kept], nulls[kept], np.bincount(owner[kept], minlength=len(lengths))
    within = rules.within_length(lengths, feature)
    if within is not None and feature.max_length is not None:
        values, nulls, lengths = values[within], nulls[within], np.minimum(lengths, feature.max_length)
    return ListNumbers(values, nulls, lengths, misfit, found, expected)


def _spread(values: np.ndarray, places: np.ndarray, rest: float) -> np.ndarray:
    """The values at their places, `rest` elsewhere."""
    spread = np.full(len(places), rest, values.dtype)
    spread[places] = values
    return spread
