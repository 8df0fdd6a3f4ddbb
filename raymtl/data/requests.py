"""The requests of a raw table, and the user side of a block: stored once per request, and pointed at by its rows.

Shapes: N rows, U requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.features import (
    BucketFeature,
    CrossFeature,
    DenseFeature,
    Feature,
    IdsFeature,
    SequenceDenseFeature,
    SequenceFeature,
    VectorFeature,
    columns_of,
)
from raymtl.data import rules
from raymtl.data.list_numbers import ListNumbers, id_weights, step_numbers
from raymtl.data.rules import one_array, whole

REQUEST = "request"
"""Column of a block: for each row its request, a dictionary<int32, struct> of the user side."""
_SCATTERED = 1.2


@dataclass(frozen=True)
class Requests:
    """Raw rows of the logs by their requests."""

    rows: pa.Table
    """Columns with a value per row, [N]."""
    users: pa.Table
    """Columns with a value per request, [U]; each request has a row."""
    owner: np.ndarray
    """The request of each row, [N] int64, ascending."""
    file_rows: np.ndarray | None = None
    """For nested rows, the row of the file that each request is, [U] int64."""

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def first_rows(self) -> np.ndarray:
        """The first row of each request, [U]."""
        return first_of_runs(self.owner)

    def file_row_of_each(self) -> np.ndarray:
        """The row of the file that holds each nested row, [N]."""
        assert self.file_rows is not None
        return self.file_rows[self.owner]

    def per_row(self, names: Sequence[str]) -> pa.Table:
        """Some columns as a value per row."""
        shared = [name for name in names if name not in self.rows.column_names]
        found = dict(zip(shared, self.users.select(shared).take(pa.array(self.owner)).columns, strict=True))
        return pa.table({name: found[name] if name in found else self.rows.column(name) for name in names})

    def slice(self, start: int, stop: int) -> "Requests":
        """The rows from `start` to before `stop`, and their requests."""
        owner = self.owner[start:stop]
        first, count = (int(owner[0]), int(owner[-1] - owner[0]) + 1) if len(owner) else (0, 0)
        file_rows = None if self.file_rows is None else self.file_rows[first : first + count]
        return Requests(self.rows.slice(start, stop - start), self.users.slice(first, count), owner - first, file_rows)

    def take(self, rows: np.ndarray) -> "Requests":
        """Only some rows, [n] ascending, and their requests."""
        owner = self.owner[rows]
        used = owner[first_of_runs(owner)]
        file_rows = None if self.file_rows is None else self.file_rows[used]
        return Requests(self.rows.take(pa.array(rows)), self.users.take(pa.array(used)), _renumbered(owner), file_rows)


def by_request(raw: pa.Table, column: str, shared: Sequence[str]) -> Requests:
    """The requests of a flat table: neighbouring rows with the same value of `column`; a null is a request of its own. `shared`
    are the columns of the user side, of which the first row of each request counts."""
    starts = request_starts(one_array(raw, column, "id"))
    users = raw.select(list(shared))
    if not starts.all():
        users = users.take(pa.array(np.flatnonzero(starts)))
    return Requests(raw, users, np.cumsum(starts) - 1)


def request_starts(requests: pa.Array) -> np.ndarray:
    """Where a request begins, [N] bool, from the request of each row."""
    starts = value_changes(requests)
    if requests.null_count:
        starts |= requests.is_null().to_numpy(zero_copy_only=False)
    starts[:1] = True
    return starts


def are_scattered(requests: int, distinct: int) -> bool:
    """Whether the rows of many requests do not stand together; `distinct` is the number of different IDs of requests."""
    return requests > _SCATTERED * distinct + 1


def feature_changes(raw: pa.Table, name: str, features: Mapping[str, Feature]) -> np.ndarray:
    """Where a feature of a flat table differs from that of the row before, [N] bool; false for the first row."""
    feature = features[name]
    if isinstance(feature, CrossFeature):
        return np.logical_or.reduce([feature_changes(raw, part, features) for part in feature.of])
    column = columns_of(name, features)[0]
    if isinstance(feature, VectorFeature):
        values = one_array(raw, column, "vector")
        lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return _list_changes(values.flatten(), lengths)
    if isinstance(feature, SequenceDenseFeature):
        return _number_changes(step_numbers(raw, name, features))
    if isinstance(feature, IdsFeature | SequenceFeature):
        changed = _list_changes(*rules.cut_lists(*rules.list_parts(one_array(raw, column, "ids")), feature))
        if isinstance(feature, IdsFeature) and feature.weights is not None:
            changed |= _number_changes(id_weights(raw, name, feature))
        return changed
    changed = np.zeros(len(raw), bool)
    if isinstance(feature, DenseFeature | BucketFeature):
        values = rules.floats(one_array(raw, column, "number"))  # a null is NaN here, and equal to itself
        changed[1:] = (values[1:] != values[:-1]) & ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
        return changed
    return value_changes(one_array(raw, column, "id"))


def value_changes(values: pa.Array) -> np.ndarray:
    """Where a value differs from the one before, [N] bool; false for the first. Two nulls are equal."""
    changed = np.zeros(len(values), bool)
    codes = _codes(values)
    changed[1:] = codes[1:] != codes[:-1]
    if values.null_count:
        nulls = values.is_null().to_numpy(zero_copy_only=False)
        changed[1:] = (changed[1:] & ~(nulls[1:] & nulls[:-1])) | (nulls[1:] != nulls[:-1])
    return changed


def _list_changes(flat: pa.Array, lengths: np.ndarray) -> np.ndarray:
    """Where a list, given by its values and length, differs from the previous one, [N] bool; false for the first."""
    values = _codes(flat)
    changed = np.zeros(len(lengths), bool)
    changed[1:] = lengths[1:] != lengths[:-1]
    # In a list as long as the one before, the counterpart of each value is `length` positions before it
    short = np.int32 if len(values) < 2**31 else np.int64
    before = np.arange(len(values), dtype=short) - np.repeat(lengths.astype(short), lengths)
    differs = np.flatnonzero(values != values[before])  # of the first lists it may be any value, counted from the end
    changed[np.searchsorted(np.cumsum(lengths), differs, side="right")] = True
    changed[:1] = False
    return changed


def _number_changes(found: ListNumbers) -> np.ndarray:
    """The same of the numbers beside lists; none where a list does not fit, which is an error where it is read."""
    return _list_changes(pa.array(found.values), found.lengths)


def _codes(values: pa.Array) -> np.ndarray:
    """Integers that are equal if the values are; a null gets an arbitrary one."""
    if not pa.types.is_integer(values.type):
        values = (values if pa.types.is_dictionary(values.type) else pc.dictionary_encode(values)).indices
    return values.fill_null(0).to_numpy(zero_copy_only=False)


# Blocks


def request_column(owner: np.ndarray, user_side: dict[str, pa.Array]) -> pa.Array:
    """The column `request` of a block, [N]: `owner` is the request of each row, `user_side` are columns of [U]."""
    sides = pa.StructArray.from_arrays(list(user_side.values()), names=list(user_side))
    return pa.DictionaryArray.from_arrays(pa.array(owner.astype(np.int32)), sides)


def split_requests(chunk: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """For the rows of a block, whose requests stand together: the request of each, [N] from 0 on, and the user side, [U]."""
    column = whole(chunk.column(REQUEST))
    owner = column.indices.to_numpy()
    used = owner[first_of_runs(owner)]
    sides = column.dictionary
    if len(used) and used[-1] - used[0] + 1 == len(used):
        sides = sides.slice(used[0], len(used))  # without a copy
    else:
        sides = sides.take(pa.array(used))
    table = pa.table(sides.flatten(), names=[field.name for field in sides.type])
    return _renumbered(owner), table


def own_requests(block: pa.Table) -> pa.Table:
    """The block with the requests of its own rows alone, in their order."""
    if REQUEST not in block.column_names:
        return block
    column = whole(block.column(REQUEST))
    owner = column.indices.to_numpy()
    used = owner[first_of_runs(owner)]
    if len(used) == len(column.dictionary) and (np.diff(used) == 1).all():
        return block
    own = pa.DictionaryArray.from_arrays(
        pa.array(_renumbered(owner).astype(np.int32)), column.dictionary.take(pa.array(used))
    )
    return block.set_column(block.column_names.index(REQUEST), REQUEST, own)


def shuffled(block: pa.Table, random: np.random.Generator) -> np.ndarray:
    """A random order of the rows of a block; those of a request stay together, as they are."""
    if REQUEST not in block.column_names:
        return random.permutation(len(block))
    first = first_of_runs(whole(block.column(REQUEST)).indices.to_numpy())
    order = random.permutation(len(first))
    lengths = np.diff(first, append=len(block))[order]
    starts = np.cumsum(lengths) - lengths
    return np.arange(len(block)) + np.repeat(first[order] - starts, lengths)


def first_of_runs(owner: np.ndarray) -> np.ndarray:
    """Where a run of equal numbers begins."""
    return np.flatnonzero(np.diff(owner, prepend=-1)) if len(owner) else np.empty(0, np.int64)


def _renumbered(owner: np.ndarray) -> np.ndarray:
    """The runs of equal numbers, counted from 0."""
    return np.cumsum(np.diff(owner, prepend=owner[:1]) != 0)
