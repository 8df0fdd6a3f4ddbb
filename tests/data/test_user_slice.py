"""Who is held out: about the share, the same everywhere, others every day, and never a row without a user."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.data.ids.hashing import to_int64
from raymtl.data.user_slice import UserSlice

MANY = pa.array(range(100_000))
int64s = st.integers(-(2**63), 2**63 - 1)


def drawn(users: pa.Array, salt: int = 3, share: float = 0.02) -> np.ndarray:
    """Who is drawn, where the others are all others."""
    held, others = (UserSlice("user", salt, share, chosen).contains(users) for chosen in (True, False))
    assert held.dtype == others.dtype == bool
    assert len(held) == len(users)
    assert (held ^ others).all()
    return held


@given(st.lists(st.none() | int64s, max_size=50), int64s, st.floats(1e-6, 0.999999), st.data())
def test_the_draw_and_the_others_are_everything_for_any_slice(users, salt, share, data):
    start = data.draw(st.integers(0, len(users)))
    whole = pa.array(users, pa.int64())
    held = drawn(whole, salt, share)
    assert not held[[user is None for user in users]].any()
    assert (drawn(whole.slice(start), salt, share) == held[start:]).all()
    by_user = {user: bool(chosen) for user, chosen in zip(users, held, strict=True)}
    assert all(by_user[user] == chosen for user, chosen in zip(users, held, strict=True))


@pytest.mark.parametrize("share", [0.002, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("step", [1, 1024])
def test_about_the_share_is_drawn(share, step):
    users = pa.array(np.arange(len(MANY)) * step)
    spread = (share * (1 - share) / len(MANY)) ** 0.5
    for salt in (0, 739_000, 739_001):
        assert abs(drawn(users, salt, share).mean() - share) < 5 * spread


def test_a_larger_share_draws_the_same_users_and_more():
    assert (drawn(MANY, share=0.02) <= drawn(MANY, share=0.03)).all()
    assert drawn(MANY, share=1 - 1e-16).all()


def test_every_day_draws_users_of_its_own():
    days = [drawn(MANY, salt) for salt in range(739_000, 739_008)]
    for first, second in pairwise(days):
        assert (first & second).mean() < 0.02**2 * 2
    assert np.any(days, axis=0).mean() > 0.13  # of 0.149


def test_strings_are_drawn_like_integers():
    words = pa.array([f"u{n}" for n in range(20_000)] + [None, ""])
    held = drawn(to_int64(words))
    assert abs(held.mean() - 0.02) < 0.005
    assert (drawn(to_int64(words.dictionary_encode())) == held).all()
    assert not held[-2]


def test_what_stands_below_a_null_does_not_matter():
    (chosen, *_) = drawn(MANY, share=0.5).nonzero()[0].tolist()
    values = pa.py_buffer(np.array([chosen, chosen]).tobytes())
    users = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), values])
    assert drawn(users, share=0.5).tolist() == [True, False]


def mixed(number: int) -> int:
    """SplitMix64's finaliser in plain integers."""
    number %= 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = (number ^ number >> shift) * factor % 2**64
    return number ^ number >> 31


def test_the_draw_by_hand():
    """The same on any machine, today and later: a day that is redone must hold out the same users."""
    expected = [mixed(user ^ mixed(739_617)) < 0.01 * 2**64 for user in range(1000)]
    assert drawn(pa.array(range(1000)), salt=739_617, share=0.01).tolist() == expected
    assert 0 < sum(expected) < 30
