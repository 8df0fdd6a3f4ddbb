"""HyperLogLog against exact counts."""

import numpy as np
import pytest

from raymtl.data.sketch import HyperLogLog


def sketch_of(ids: np.ndarray, parts: int = 1) -> HyperLogLog:
    sketch = HyperLogLog()
    for part in np.array_split(ids, parts):
        sketch.add(part)
    return sketch


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_few_ids_are_counted_exactly(count):
    assert sketch_of(np.arange(count)).estimate() == count


@pytest.mark.parametrize("count", [1_000, 16_384, 40_000, 60_000, 300_000])
def test_error_is_below_three_percent(count):
    for ids in (
        np.arange(count),
        np.arange(count) * 4096 - 7,
        np.random.default_rng(count).integers(-(2**62), 2**62, count),
    ):
        assert sketch_of(ids, 5).estimate() == pytest.approx(len(np.unique(ids)), rel=0.03)


def test_repeated_ids_count_once():
    ids = np.random.default_rng(0).integers(0, 5000, 100_000)
    assert sketch_of(ids).estimate() == sketch_of(np.unique(ids)).estimate()


def test_merging_equals_adding_all():
    left, right = sketch_of(np.arange(30_000)), sketch_of(np.arange(20_000, 70_000))
    left.merge(right)
    assert left.estimate() == sketch_of(np.arange(70_000)).estimate()


def test_many_small_additions_equal_a_large_one():
    """Small and large additions take two ways through the code."""
    assert sketch_of(np.arange(50_000), 100).estimate() == sketch_of(np.arange(50_000)).estimate()


def test_ids_that_hash_to_zero_are_counted():
    """mix64(0) = 0: all bits of the rank are zero."""
    assert sketch_of(np.zeros(3, np.int64)).estimate() == 1
