"""What stands beside the IDs of lists: the weights of a bag, the numbers of the steps of a history, and other histories.

Shapes: N rows, V elements that are kept of all lists.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.features import Feature, IdsFeature, SequenceDenseFeature, SequenceFeature, columns_of
from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.data.rules import Rule, one_array
from raymtl.data.single_ids import Broken


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


def number_lists(raw: pa.Table, name: str, features: Mapping[str, Feature], broken: Broken) -> pa.Array:
    """The numbers of a feature of kind `sequence_dense` as the model reads them, lists [N]: scaled, with `fill` for null."""
    feature, found = features[name], step_numbers(raw, name, features)
    assert isinstance(feature, SequenceDenseFeature)
    _check(found, feature, columns_of(feature.of, features)[0], broken)
    values = rules.scaled(found.values, feature)
    values[found.nulls] = feature.fill
    return _lists(values, found.lengths)


def weight_lists(raw: pa.Table, name: str, feature: IdsFeature, broken: Broken) -> pa.Array:
    """The weights of the IDs of a feature, lists [N], with 0 for null."""
    found = id_weights(raw, name, feature)
    _check(found, feature, feature.column or name, broken)
    return _lists(np.where(found.nulls, np.float32(0), found.values), found.lengths)


def _check(found: ListNumbers, feature: IdsFeature | SequenceDenseFeature, of: str, broken: Broken) -> None:
    """Report the lists with another length than those of the IDs in the column `of`, or else the rows with broken values."""
    if found.misfit.any():
        broken(found.misfit, found.shown(), rules.beside_rule(of))
    wrong, rule = broken_numbers(found, feature)
    if wrong.any():
        owners = np.repeat(np.arange(len(found.lengths)), found.lengths)[wrong]
        rows, firsts = np.unique(owners, return_index=True)
        shown = np.full(len(found.lengths), "", object)
        shown[rows] = [f"{value}" for value in found.values[wrong][firsts]]
        broken(np.isin(np.arange(len(shown)), rows), pa.array(shown), rule)


def _lists(values: np.ndarray, lengths: np.ndarray) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


@dataclass(frozen=True)
class OutOfStep:
    """Rows in which a history differs from another one of the same steps."""

    name: str
    """The feature."""
    rule: Rule
    wrong: np.ndarray
    """[N] bool."""
    shown: pa.Array
    """What is wrong, in words, [N]."""


def out_of_step(raw: pa.Table, config: Config, names: Container[str]) -> Iterator[OutOfStep]:
    """The histories among `names` that are not in step with the first one of their group.

    The lists of the files are compared, before nulls are dropped and `max_length` cuts: two lists may well have one length
    after that, and pair their IDs wrongly.
    """
    for group in config.same_steps():
        columns = {name: columns_of(name, config.features)[0] for name in group if name in names}
        parts = {name: rules.elements(one_array(raw, column, "ids")) for name, column in columns.items()}
        first = next(iter(parts), "")
        for name in parts:
            if name != first and (found := _differs(*parts[name], *parts[first])) is not None:
                yield OutOfStep(name, rules.steps_rule(first), *found)


def _differs(
    flat: pa.Array, lengths: np.ndarray, other_flat: pa.Array, others: np.ndarray
) -> tuple[np.ndarray, pa.Array] | None:
    """Which rows of two columns of lists differ in their lengths or, if none does, in where they are null; None if none."""
    if (wrong := lengths != others).any():
        pair = (pa.array(each).cast(pa.string()) for each in (lengths, others))
        return wrong, pc.binary_join_element_wise(*pair, " long beside ")
    if not flat.null_count and not other_flat.null_count:
        return None
    valid, other_valid = (each.is_valid().to_numpy(zero_copy_only=False) for each in (flat, other_flat))
    wrong = np.zeros(len(lengths), bool)
    wrong[np.repeat(np.arange(len(lengths)), lengths)[valid != other_valid]] = True
    return (wrong, pa.repeat("null at other steps", len(lengths))) if wrong.any() else None


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
