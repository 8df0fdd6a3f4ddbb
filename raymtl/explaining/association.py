"""Which columns of the logs say the same: how much of one column another one tells.

    U(B | A) = (I(A; B) − I₀) / (H(B) − I₀)

is the share of the entropy of B that A removes. I₀ is the mutual information that is left when the rows of B are shuffled: with
many values in few rows it is large by chance alone (Vinh, Epps & Bailey, JMLR 11, 2010, on adjusted mutual information). B is cut
to `BINS` values (quantiles of a number, a hash of an ID), which keeps the counts dense. A has all its values, so that the ID of
a user tells the user's age. Two columns are as alike as the larger of the two shares.

Shapes: N rows, K columns.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from raymtl.data import rules
from raymtl.data.ids.hashing import mix64, to_int64

BINS = 16
"""Values that a column is cut to."""
_ROWS = 20_000
ALIKE = 0.15
"""Columns that tell so much of each other are permuted together. Two normal variables with a correlation of .75 reach it."""


def associations(raw: pa.Table, numbers: Collection[str], seed: int) -> np.ndarray:
    """How much column a tells of column b, [K, K], 1 on the diagonal; `numbers` are those that are read as numbers."""
    rows = np.random.default_rng([seed, 2]).permutation(len(raw))[:_ROWS]
    some = raw.take(pa.array(np.sort(rows)))
    full = [codes_of(some.column(name), name in numbers) for name in some.column_names]
    cut = [_cut(codes) for codes in full]
    shuffled = np.random.default_rng([seed, 3]).permutation(len(some))
    found = np.eye(len(full))
    for a, codes in enumerate(full):
        for b, bins in enumerate(cut):
            if a != b:
                left = _information(codes, bins[shuffled])
                room = _entropy(np.bincount(bins)) - left
                share = (_information(codes, bins) - left) / room if room > 1e-9 else 0.0
                found[a, b] = min(max(share, 0.0), 1.0)
    return found


def alike(names: Sequence[str], found: np.ndarray) -> list[tuple[str, ...]]:
    """Groups of two or more columns that say the same, by complete linkage: within a group all pairs are alike.

    A column that is left alone although it is like another one forms a pair with that one.
    """
    if len(names) < 2:
        return []
    found = np.maximum(found, found.T)
    labels = fcluster(linkage(squareform(1 - found, checks=False), "complete"), 1 - ALIKE, "distance")
    clusters: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        clusters.setdefault(int(label), []).append(name)
    groups = [tuple(members) for members in clusters.values() if len(members) > 1]
    for members in clusters.values():
        if len(members) == 1:
            place = names.index(members[0])
            others = np.where(np.arange(len(names)) == place, 0.0, found[place])
            if others.max() >= ALIKE:
                groups.append(tuple(sorted((members[0], names[int(others.argmax())]), key=names.index)))
    return list(dict.fromkeys(groups))


def twins(names: Sequence[str], found: np.ndarray) -> Mapping[str, tuple[str, float]]:
    """The column that tells most of each, and how much."""
    if len(names) < 2:
        return {}
    others = found.T - 2 * np.eye(len(names))
    return {name: (names[int(row.argmax())], float(row.max())) for name, row in zip(names, others, strict=True)}


def codes_of(column: pa.ChunkedArray, is_number: bool) -> np.ndarray:
    """A column as integers from 0 that are equal where its values are; null is a value of its own, [N]."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    kind = array.type
    if pa.types.is_map(kind):
        values = _of_lists(rules.keys_of(array))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        values = _of_lists(array)
    elif is_number:
        numbers = rules.floats(array)
        ends = np.nanquantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1]) if np.isfinite(numbers).any() else [0.0]
        distinct = np.unique(numbers)
        # Few distinct numbers are categories
        values = np.searchsorted(distinct if len(distinct) <= BINS else ends, numbers, side="right")
    else:
        coded = array if pa.types.is_dictionary(kind) else pc.dictionary_encode(array)
        values = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _of_lists(array: pa.Array) -> np.ndarray:
    """A hash of each list; an empty one is like null."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = array.flatten()
    if pa.types.is_floating(flat.type):
        values = rules.floats(flat).astype(np.float64).view(np.int64)
    else:
        values = rules.int64_values(to_int64(flat).fill_null(0))
    place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    hashes = mix64(np.ascontiguousarray(values ^ (place * np.int64(0x9E3779B97F4A7C1))))
    sums = np.concatenate(([np.uint64(0)], np.cumsum(hashes, dtype=np.uint64)))
    ends = np.cumsum(lengths)
    return (sums[ends] - sums[ends - lengths]).view(np.int64)


def _cut(codes: np.ndarray) -> np.ndarray:
    """Codes in at most `BINS` values."""
    return codes if codes.max() < BINS else (mix64(codes) % np.uint64(BINS)).astype(np.int64)


def _information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information of two columns of codes, in nats; `b` < `BINS`."""
    joint = np.bincount(a * BINS + b, minlength=(int(a.max()) + 1) * BINS).reshape(-1, BINS)
    return _entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint.ravel())


def _entropy(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
