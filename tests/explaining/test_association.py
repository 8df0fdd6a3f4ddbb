"""How much one column tells of another, and which columns say the same."""

import numpy as np
import pyarrow as pa
import pytest

from raymtl.explaining.association import alike, associations, twins

ROWS = 5003
RANDOM = np.random.default_rng(0)
USER = RANDOM.integers(0, 300, ROWS)
RATE = RANDOM.normal(size=ROWS)
AGE = (np.arange(300) * 7 % 60)[USER]
RAW = pa.table(
    {
        "user": pa.array([f"u{n}" for n in USER]),
        "age": AGE,
        "rate": RATE,
        "near": RATE + RANDOM.normal(0, 0.01, ROWS),
        "far": 0.8 * RATE + 0.6 * RANDOM.normal(size=ROWS),
        "unique": np.arange(ROWS),
        "stuck": np.zeros(ROWS),
        "sizes": pa.array([[int(n), int(n) + 1] if n else None for n in AGE % 9], pa.list_(pa.int64())),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(USER % 50, 2).astype(np.float32)), 2),
        "noise": RANDOM.normal(size=ROWS),
    }
)
NAMES = RAW.column_names
FOUND = associations(RAW, {"rate", "near", "far", "noise", "stuck"}, seed=0)


def of(a: str, b: str) -> float:
    """How much `a` tells of `b`."""
    return float(FOUND[NAMES.index(a), NAMES.index(b)])


def test_a_column_tells_what_it_determines() -> None:
    assert of("user", "age") > 0.999
    assert of("age", "user") < 0.8  # five users have one age
    assert of("user", "vector") > 0.999
    assert of("age", "sizes") > 0.999
    assert of("sizes", "age") < 0.8
    assert of("rate", "near") > 0.8


def test_two_normal_variables_tell_what_their_correlation_does() -> None:
    """Their mutual information is −½·log(1 − ρ²), of which 16 equal bins lose little."""
    expected = -0.5 * np.log(1 - 0.8**2) / np.log(16)
    assert of("rate", "far") == pytest.approx(expected, rel=0.15)


def test_chance_tells_nothing() -> None:
    others = [n for n in NAMES if n != "unique"]
    assert max(of("unique", name) for name in others) < 0.02  # every value once: it tells all columns, by chance alone
    for name in NAMES:
        assert name == "noise" or max(of("noise", name), of(name, "noise")) < 0.03
        assert name == "stuck" or max(of("stuck", name), of(name, "stuck")) == 0


def test_groups_have_only_columns_that_are_all_alike() -> None:
    groups = alike(NAMES, FOUND)
    assert ("rate", "near", "far") in groups
    assert not any({"noise", "unique", "stuck"} & set(group) for group in groups)
    # the user tells the age and the vector, which tell less of each other: each of them has a group with another one
    assert {"user", "age", "sizes", "vector"} <= {name for group in groups for name in group}
    assert twins(NAMES, FOUND)["near"][0] == "rate"
    assert twins(NAMES, FOUND)["age"][0] == "user"
    assert alike(["one"], np.eye(1)) == []
    assert twins(["one"], np.eye(1)) == {}
