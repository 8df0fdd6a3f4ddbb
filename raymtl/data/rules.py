"""The contract's rules on values: what a value may be, and how null, NaN and wide types are converted.

The reading tasks stop at the first value that breaks a rule (`blocks.py`); `raymtl check` counts all of them (`validation/`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.base import quoted
from raymtl.config.features import IdsFeature, Scaled, SequenceFeature
from raymtl.config.tasks import Task
from raymtl.data.column_types import Kind, fits, is_string


@dataclass(frozen=True)
class Rule:
    """One rule: "the `noun` is 7, expected `expected`; `remedy`"."""

    noun: str
    expected: str
    remedy: str


_WHOLE_BITS = {pa.float32(): 24, pa.float64(): 53}
VECTOR = Rule("value", "a finite number", "write null instead of the list where the vector is unknown")
DENSE = Rule("value", "a finite number", "write null where the value is unknown")
TIME = Rule("value", "a time such as 2026-01-31T12:00:00Z", "write null where it is unknown")
STEP = Rule("value", "a finite number", "write null where the value of a step is unknown")
ID_WEIGHT = Rule("weight", "a finite number ≥ 0", "write 0 or null for an ID that must not count")
WEIGHT = Rule("weight", "a finite number ≥ 0", "write 0 or null for a row that must not count")
KEPT = Rule("probability", "a number above 0 and at most 1", "write 1 for a row that is always kept")


def shared_rule(feature: str) -> Rule:
    """The rule of a feature of the user, whose request has one value."""
    remedy = f"set features.{feature}.side to `item`, or write one value per request"
    return Rule("value", "the same as in the row before of the request", remedy)


# Types for columns without any value, to which parquet writers give the type `null`
_EMPTY: dict[Kind, pa.DataType] = {
    "id": pa.int64(),
    "ids": pa.list_(pa.int64()),
    "map": pa.list_(pa.int64()),
    "number": pa.float32(),
    "numbers": pa.list_(pa.float32()),
    "vector": pa.list_(pa.float32()),
    "flag": pa.bool_(),
    "category": pa.string(),
    "label": pa.string(),
    "time": pa.timestamp("us"),
}


def label_rule(name: str, task: Task) -> Rule:
    """The rule of a task's labels."""
    codes = task.label_codes
    if codes is None:
        remedy = f'fix the logs (use null for "not observed") or set tasks.{name}.kind'
        if task.is_event:
            remedy = f"{remedy}, or tasks.{name}.positive and negative to the values of the column"
        if task.classes is not None:
            remedy = f"{remedy}, or tasks.{name}.classes"
        return Rule("label", task.label_rule.expected, remedy)
    expected = " or ".join(
        f"{', '.join(f'`{value}`' for value, _ in same)} ({label:g})"
        for label, same in groupby(codes, lambda code: code[1])
    )
    where = f"tasks.{name}.classes" if task.classes is not None else f"tasks.{name}.positive or negative"
    remedy = f'list the value in {where}, or write null for "not observed"'
    return Rule("label", expected, remedy)


def where_observed(name: str, task: Task, products: bool, weight: str | None) -> str:
    """The source of a task's labels and which of them count, in words, for errors about missing labels."""
    words = [f"column `{task.label_column(name)}`"]
    words += [f"observed where `{task.observed}`"] if task.observed else []
    words += [f"given `{task.given}`: only rows where that is 1"] if task.given else []
    words += [f"only rows where the parent `{task.parent}` is observed"] if products and task.parent else []
    weights = [column for column in (weight, task.weight_column) if column]
    words += [f"weighted by {quoted(weights)}"] if weights else []
    return ", ".join(words)


def direct_rule(table: str, rows: int) -> Rule:
    """The rule of the IDs of a `direct` table."""
    return Rule(
        "ID",
        f"0 to {rows - 1}, the rows of the `direct` table `{table}`",
        f"raise tables.{table}.rows, or use id_space `hash`",
    )


def length_rule(feature: str, width: int) -> Rule:
    """The rule of a vector's length."""
    return Rule("length", str(width), f"write null for an unknown vector, or set features.{feature}.width")


def beside_rule(of: str) -> Rule:
    """The rule of the length of a list of numbers beside the IDs of the column `of`."""
    return Rule("length", f"that of the list in `{of}`", "write one number for each ID")


def steps_rule(of: str) -> Rule:
    """The rule of a history beside another one, `of`, of the same steps."""
    return Rule(
        "list",
        f"in step with features.{of} (of the same length, and null at the same steps)",
        "write one ID, and no null, for each step",
    )


def whole_rule(kind: pa.DataType) -> Rule:
    """The rule of IDs in a column of floats, beyond which one float stands for several integers."""
    return Rule(
        "value",
        f"a whole number up to 2^{_WHOLE_BITS[kind]}, as {kind}s hold IDs exactly",
        "write the IDs as integers (pandas: dtype Int64, which has nulls)",
    )


def one_array(raw: pa.Table, name: str, kind: Kind) -> pa.Array:
    """A column as one array; a column of type null gets a type for its kind, and a NaN among IDs is null. Maps become lists: of
    their values for the kind `numbers`, else of their keys."""
    array = _one_array(raw, name, kind)
    if pa.types.is_map(array.type):
        return _list_of(array, array.items) if kind == "numbers" else keys_of(array)
    return _without_nan(array) if kind in ("id", "category") else array


def _one_array(raw: pa.Table, name: str, kind: Kind) -> pa.Array:
    column = raw.column(name)
    return pa.nulls(len(column), _EMPTY[kind]) if pa.types.is_null(column.type) else whole(column)


def keys_of(maps: pa.Array) -> pa.Array:
    """The keys of maps as lists."""
    return _list_of(maps, maps.keys)


def _list_of(maps: pa.Array, elements: pa.Array) -> pa.Array:
    offsets = pa.array(maps.offsets.to_numpy())  # pyarrow takes no mask beside offsets that are a slice
    return pa.ListArray.from_arrays(offsets, elements, mask=maps.is_null() if maps.null_count else None)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """The chunks of a column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _without_nan(ids: pa.Array) -> pa.Array:
    """IDs with null instead of NaN, which pandas writes for it."""
    if pa.types.is_dictionary(ids.type) and pa.types.is_floating(ids.type.value_type):
        ids = ids.cast(ids.type.value_type)
    if not pa.types.is_floating(ids.type):
        return ids
    return pc.if_else(pc.is_nan(ids), pa.scalar(None, ids.type), ids)


def not_whole(ids: pa.Array) -> np.ndarray | None:
    """Where IDs that are floats break `whole_rule`, [N] bool; None if all are right. A null is."""
    if not pa.types.is_floating(ids.type):
        return None
    values = ids.to_numpy(zero_copy_only=False)  # a null is NaN
    wrong = (values != np.trunc(values)) | (np.abs(values) > 2.0 ** _WHOLE_BITS[ids.type])
    wrong &= ~np.isnan(values)
    return wrong if wrong.any() else None


def shown(column: pa.Array, row: int) -> Any:
    """One value as errors show it; � replaces bytes of text that are not UTF-8."""
    one = column.slice(row, 1)
    return (
        words(one.cast(pa.large_string()))[0].as_py().decode(errors="replace")
        if is_string(one.type)
        else one[0].as_py()
    )


def null_mask(column: pa.Array) -> np.ndarray | None:
    """True where the column is null, [N] bool; None without any null."""
    return column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None


def floats(column: pa.Array) -> np.ndarray:
    """A column of numbers or booleans as float32, null as NaN; may be a read-only view."""
    if pa.types.is_decimal(column.type):  # pyarrow scales them in the target's precision: 1.0000 would not be 1
        column = column.cast(pa.float64())
    return column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)


def not_finite(values: np.ndarray, nulls: np.ndarray | None) -> np.ndarray:
    """Where a dense value breaks `DENSE`: NaN or infinite (also beyond the range of float32), but not null."""
    broken = ~np.isfinite(values)
    return broken if nulls is None else broken & ~nulls


def clipped(values: np.ndarray, feature: Scaled) -> np.ndarray:
    """Dense values within the limits of `clip`; NaN stays."""
    if feature.clip is None:
        return values
    low, high = (None if limit is None else np.float32(limit) for limit in feature.clip)
    return np.clip(values, low, high)


def transformed(values: np.ndarray, feature: Scaled) -> np.ndarray:
    """Dense values after `clip` and `transform`, before `mean` and `std`."""
    values = clipped(values, feature)
    if feature.transform != "log1p":
        return values
    # In float64: the float32 logarithms of numpy and torch, as exported programs have it, differ in the last digits
    return np.sign(values) * np.log1p(np.abs(values), dtype=np.float64).astype(values.dtype)


def scaled(values: np.ndarray, feature: Scaled) -> np.ndarray:
    """Dense values after `mean` and `std` too, as the model reads them."""
    return (transformed(values, feature) - values.dtype.type(feature.mean)) / values.dtype.type(feature.std)


def vectors(lists: pa.Array, width: int) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Lists of numbers as [N, width] float32, zeros for null; where a list breaks `length_rule`, [N] bool; and all lengths.

    If one breaks it, the vectors are zeros."""
    lengths = pc.list_value_length(lists)
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    wrong = there & (lengths.fill_null(0).to_numpy(zero_copy_only=False) != width)
    found = np.zeros((len(lists), width), np.float32)
    if not wrong.any():
        found[there] = floats(lists.drop_null().flatten()).reshape(-1, width)
    return found, wrong, lengths


def broken_elements(values: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    """Which vectors [N, width] break `VECTOR`, [N] bool, and a value of each that does."""
    broken = ~np.isfinite(values)
    return broken.any(1), pa.array(values[np.arange(len(values)), broken.argmax(1)])


def label_values(column: pa.Array, task: Task) -> np.ndarray:
    """Labels as float32, NaN for null; a value that `Task.label_codes` leaves out is infinite, which breaks the rule."""
    pairs = task.label_codes
    if pairs is None:
        return floats(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    labels = np.full(len(column), np.inf, np.float32)
    if fits(column.type, "number"):
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        for value, label in pairs:
            if isinstance(value, int):
                labels[numbers == value] = label
        labels[np.isnan(numbers)] = np.nan
        return labels
    texts = words(column)
    place = pc.index_in(texts, value_set=pa.array([str(v).encode() for v, _ in pairs], pa.large_binary()))
    found = place.is_valid().to_numpy(zero_copy_only=False)
    labels[found] = np.array([label for _, label in pairs], np.float32)[place.drop_null().to_numpy()]
    labels[texts.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return labels


def observed_labels(values: np.ndarray, flags: pa.Array | None) -> np.ndarray:
    """Labels, NaN where not observed: NaN already, or a flag that is false, 0 or null."""
    return values if flags is None else kept(values, _is_set(flags))


def kept(labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Labels where the mask is true, not observed elsewhere."""
    return np.where(where, labels, np.float32(np.nan))


def product_labels(labels: np.ndarray, parents: np.ndarray, values: np.ndarray, flags: pa.Array | None) -> np.ndarray:
    """Labels of "the parent and this": `labels` times those of the parent, both as observed; `values` are those of the column.

    If the parent is 0 and a flag marks the label as observed, a null of its column is a 0: without the click nothing can follow.
    Without flags a null stays not observed, because the label may still arrive; counting it as 0 where the parent is 0 would
    leave the newest rows with only negatives.
    """
    products = labels * parents
    if flags is not None:
        products[(parents == 0) & _is_set(flags) & np.isnan(values)] = 0
    return products


def _is_set(flags: pa.Array) -> np.ndarray:
    return flags.cast(pa.bool_()).fill_null(False).to_numpy(zero_copy_only=False)


def broken_labels(values: np.ndarray, task: Task) -> np.ndarray:
    """Where an observed label breaks its task's rule, [N] bool."""
    rule = task.label_rule
    if rule.only:
        wrong = np.logical_and.reduce([values != allowed for allowed in rule.only])
    else:
        wrong = np.isinf(values)
        wrong |= (values != np.rint(values)) if rule.whole else False
        wrong |= False if rule.low is None else values < rule.low
        wrong |= False if rule.high is None else values > rule.high
    return wrong & ~np.isnan(values)


def weights(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Weights as float32, null as 0, and where they break `WEIGHT`."""
    nulls = null_mask(column)
    values = floats(column)
    if nulls is not None:
        values = np.where(nulls, np.float32(0), values)
    return values, ~((values >= 0) & np.isfinite(values))


def product_of_weights(raw: pa.Table, columns: Iterable[str | None]) -> np.ndarray:
    """The product of the weights in some columns, [N] float32; None counts as 1."""
    product = np.ones(len(raw), np.float32)
    for column in columns:
        if column is not None:
            product *= weights(one_array(raw, column, "number"))[0]
    return product


def kept_rates(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as float32, and where they break `KEPT`, a null included."""
    values = floats(column)
    wrong = ~((values > 0) & (values <= 1))
    nulls = null_mask(column)
    return values, wrong if nulls is None else wrong | nulls


def words(values: pa.Array) -> pa.Array:
    """The values of a category as the bytes of their text, which need not be UTF-8."""
    if pa.types.is_floating(values.type):
        values = values.cast(pa.int64(), safe=False)
    if pa.types.is_integer(values.type) or pa.types.is_decimal(values.type):
        values = values.cast(pa.string())
    return values.cast(pa.large_binary())


def scenario_index(column: pa.Array, values: list[str | int]) -> np.ndarray:
    """Index of each row's scenario in `values`, [N] int32; null and unknown values get the index after the last."""
    known = pa.array([str(v).encode() for v in values], pa.large_binary())
    if pa.types.is_dictionary(column.type):
        found = pc.index_in(words(column.dictionary), value_set=known).take(column.indices)
    else:
        found = pc.index_in(words(column), value_set=known)
    return found.fill_null(len(values)).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)


def list_parts(lists: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The IDs of a list column without nulls, and the number of them in each row, [N] int64; a null list has none."""
    flat, lengths = elements(lists)
    if flat.null_count:
        owner = np.repeat(np.arange(len(lengths)), lengths)
        lengths = np.bincount(owner[flat.is_valid().to_numpy(zero_copy_only=False)], minlength=len(lengths))
        flat = flat.drop_null()
    return flat, lengths


def elements(lists: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The same with the nulls inside lists; a NaN is one."""
    flat = _without_nan(lists.flatten())  # skips values below null lists
    return flat, pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def cut_lists(
    flat: pa.Array, lengths: np.ndarray, feature: IdsFeature | SequenceFeature
) -> tuple[pa.Array, np.ndarray]:
    """`list_parts` with at most `max_length` elements of each row: the first ones of `ids`, the last ones of a `sequence`."""
    keep = within_length(lengths, feature)
    if keep is None or feature.max_length is None:
        return flat, lengths
    return flat.filter(pa.array(keep)), np.minimum(lengths, feature.max_length)


def within_length(lengths: np.ndarray, feature: IdsFeature | SequenceFeature) -> np.ndarray | None:
    """Which elements `cut_lists` keeps; None if all."""
    longest = feature.max_length
    if longest is None or not len(lengths) or lengths.max() <= longest:
        return None
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if isinstance(feature, IdsFeature):
        return position < longest
    return position >= np.repeat(lengths, lengths) - longest


def outside(ids: pa.Array, values: np.ndarray, rows: int) -> np.ndarray:
    """Where an int64 ID (`values` are those of `ids`, with anything below its nulls) is no row of a `direct` table."""
    wrong = (values < 0) | (values >= rows)
    nulls = null_mask(ids)
    return wrong if nulls is None else wrong & ~nulls


def int64_values(array: pa.Array) -> np.ndarray:
    """The values of an int64 array without a copy, with arbitrary values at its nulls."""
    if not len(array):
        return np.empty(0, np.int64)
    return np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array)]
