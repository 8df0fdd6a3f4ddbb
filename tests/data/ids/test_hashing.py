"""The two hashes: published vectors, slow references in plain Python, and every Arrow type that IDs come in."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.data.ids.hashing import hash_rows, hash_strings, mix64, to_int64

MASK = 2**64 - 1


def fnv1a(text: str | bytes) -> int:
    """FNV-1a, 64 bit, byte by byte, as a signed integer."""
    value = 0xCBF29CE484222325
    for byte in text.encode() if isinstance(text, str) else text:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value - 2**64 if value >= 2**63 else value


def splitmix(number: int) -> int:
    """SplitMix64's finaliser on unbounded integers."""
    z = number & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # from the authors' page, http://www.isthe.com/chongo/tech/comp/fnv/
        ("", 0xCBF29CE484222325),
        ("a", 0xAF63DC4C8601EC8C),
        ("b", 0xAF63DF4C8601F1A5),
        ("foobar", 0x85944171F73967E8),
    ],
)
def test_published_vectors(text, expected):
    assert int(hash_strings(pa.array([text])).view(np.uint64)[0]) == expected


def test_vectors_of_the_docs():
    """docs/data.md prints these numbers for other languages to compare with."""
    strings = ["", "u123", "Ünï"]
    assert hash_strings(pa.array(strings)).tolist() == [-3750763034362895579, -7748258556068214208, 274266127048629302]
    assert [fnv1a(s) for s in strings] == hash_strings(pa.array(strings)).tolist()
    assert mix64(np.array([0, 1, -1])).tolist() == [0, 6238072747940578789, 13029008266876403067]
    assert hash_rows(np.array([1, -7748258556068214208]), 1000).tolist() == [789, 323]


@given(st.lists(st.text(max_size=20), max_size=40))
def test_strings_match_the_reference(texts):
    assert hash_strings(pa.array(texts, pa.string())).tolist() == [fnv1a(t) for t in texts]


@given(st.lists(st.text(max_size=8), min_size=1, max_size=20), st.data())
def test_slices_match_the_reference(texts, data):
    start = data.draw(st.integers(0, len(texts)))
    count = data.draw(st.integers(0, len(texts) - start))
    for kind in (pa.string(), pa.large_string()):
        part = pa.array(texts, kind).slice(start, count)
        assert hash_strings(part).tolist() == [fnv1a(t) for t in texts[start : start + count]]


WORDS = ["u1", None, "", "Ünï", "u1", "日本語"]
HASHED = [None if w is None else fnv1a(w) for w in WORDS]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(WORDS),
        pa.array(WORDS, pa.large_string()),
        pa.array(WORDS).dictionary_encode(),
        pa.array(WORDS, pa.large_string()).dictionary_encode(),
        pa.array(WORDS).dictionary_encode("encode"),  # null as a word of the dictionary
        pa.array(["x", *WORDS, "y"]).slice(1, len(WORDS)),
        pa.array(["x", *WORDS, "y"]).dictionary_encode().slice(1, len(WORDS)),
    ],
    ids=["string", "large", "dictionary", "large dictionary", "null word", "slice", "slice of dictionary"],
)
def test_every_string_type_gives_the_same_ids(ids):
    assert to_int64(ids).to_pylist() == HASHED


def test_a_short_slice_of_a_long_dictionary():
    texts = [f"u{n}" for n in range(1000)]
    assert to_int64(pa.array(texts).dictionary_encode().slice(500, 3)).to_pylist() == [fnv1a(t) for t in texts[500:503]]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32(), pa.int64()], ids=str)
def test_integers_stay_what_they_are(kind):
    assert to_int64(pa.array([1, None, 100], kind)).equals(pa.array([1, None, 100], pa.int64()))
    assert to_int64(pa.array([1, None, 100], kind).dictionary_encode()).to_pylist() == [1, None, 100]


def test_large_unsigned_integers_wrap_round():
    assert to_int64(pa.array([2**64 - 1, 2**63], pa.uint64())).to_pylist() == [-1, -(2**63)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.int64(), pa.null()], ids=str)
def test_no_ids_and_only_nulls(kind):
    assert to_int64(pa.array([], kind)).to_pylist() == []
    assert to_int64(pa.array([None, None], kind)).to_pylist() == [None, None]
    assert to_int64(pa.array([None, None], kind)).type == pa.int64()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
def test_mix64_matches_the_reference(numbers):
    assert mix64(np.array(numbers, np.int64)).tolist() == [splitmix(n) for n in numbers]


def test_mix64_has_no_collision():
    ids = np.concatenate([np.arange(200_000), np.arange(1, 200_000) * 2**40, -np.arange(1, 1000)])
    assert len(np.unique(mix64(ids))) == len(ids)


def test_rows_of_strided_ids_are_spread_evenly():
    """Plain `id mod rows` would use one row of eight here."""
    rows = hash_rows(np.arange(80_000) * 8, 1000)
    assert rows.min() == 0
    assert rows.max() == 999
    per_row = np.bincount(rows, minlength=1000)
    assert 40 < per_row.min() < 80 < per_row.max() < 130


def test_input_is_left_alone():
    ids = np.arange(5)
    mix64(ids)
    assert ids.tolist() == [0, 1, 2, 3, 4]
