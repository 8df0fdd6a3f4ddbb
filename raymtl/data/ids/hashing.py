"""The stable 64-bit hashes of raymtl, vectorised; any language can reproduce them (`docs/data.md` has test values).

* A string ID becomes an integer by FNV-1a, 64 bit, over its UTF-8 bytes (Fowler, Noll, Vo), read as a signed int64.
* An integer ID becomes a row of a `hash` table as `mix64(id) mod rows`, where mix64 is the finaliser of SplitMix64
  (Steele, Lea, Flood 2014). Plain `id mod rows` would send IDs with a common stride to a few rows.
* Several IDs of a row become the ID of their cross: z starts as SplitMix64's increment, and each ID makes it mix64(z xor id).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_CROSS_START = np.uint64(0x9E3779B97F4A7C15)


def hash_strings(strings: pa.Array) -> np.ndarray:
    """FNV-1a of every string (or bytes) of an Arrow array without nulls, [N] int64.

    One numpy pass per byte position over the strings that are that long: nothing per row in Python.
    """
    strings = strings.cast(pa.large_binary())
    count = len(strings)
    offsets = np.frombuffer(strings.buffers()[1], dtype=np.int64)[strings.offset : strings.offset + count + 1]
    body = strings.buffers()[2]
    data = np.frombuffer(body, dtype=np.uint8) if body is not None else np.empty(0, np.uint8)
    lengths = np.diff(offsets)
    # Longest first: the strings still alive at a byte position are a prefix
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = offsets[:-1][order], lengths[order]
    hashed = np.full(count, _FNV_OFFSET, dtype=np.uint64)
    alive = count
    for position in range(int(lengths[0]) if count else 0):
        alive = int(np.searchsorted(-lengths[:alive], -position, side="left"))
        hashed[:alive] ^= data[starts[:alive] + position]
        hashed[:alive] *= _FNV_PRIME
    result = np.empty(count, dtype=np.uint64)
    result[order] = hashed
    return result.view(np.int64)


def mix64(ids: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser of every ID, [N] int64 in, [N] uint64 out; a bijection of the 64-bit integers."""
    z = ids.astype(np.int64, copy=False).view(np.uint64).copy()
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def cross(ids: Sequence[np.ndarray]) -> np.ndarray:
    """One ID for the combination of several, each [N] int64, in this order; [N] int64."""
    z = np.full(len(ids[0]), _CROSS_START)
    for part in ids:
        z = mix64((z ^ part.view(np.uint64)).view(np.int64))
    return z.view(np.int64)


def hash_rows(ids: np.ndarray, rows: int) -> np.ndarray:
    """Row of every ID in a `hash` table of `rows` rows, [N] int64."""
    return (mix64(ids) % np.uint64(rows)).view(np.int64)


def to_int64(ids: pa.Array) -> pa.Array:
    """Integer or string IDs as int64, nulls kept; strings (also dictionary-encoded ones) are hashed once per distinct value.

    Strings are their bytes, which need not be UTF-8. Integers beyond 64 bits (uint64, decimals) keep their low 64 bits. Floats
    must be whole (`rules.not_whole`).
    """
    if pa.types.is_dictionary(ids.type) and (ids.dictionary.null_count or len(ids.dictionary) > 2 * len(ids)):
        ids = ids.cast(
            ids.type.value_type
        )  # a null in the dictionary would be hashed; and a short chunk uses few words of its dictionary
    if _is_numeric(ids.type):
        return ids.cast(pa.int64(), safe=False)
    ids = ids if pa.types.is_dictionary(ids.type) else pc.dictionary_encode(ids)
    words = ids.dictionary
    hashed = words.cast(pa.int64(), safe=False) if _is_numeric(words.type) else pa.array(hash_strings(words))
    return hashed.take(ids.indices)


def id_of(value: int | str) -> int:
    """One ID as `to_int64` has it."""
    return int(to_int64(pa.array([value]))[0].as_py())


def _is_numeric(kind: pa.DataType) -> bool:
    return (
        pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
    )
