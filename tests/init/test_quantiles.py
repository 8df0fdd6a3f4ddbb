"""Edges that split a column into ranges of about equal size."""

import numpy as np
import pytest

from raymtl.init.quantiles import quantile_edges


def test_edges_split_the_values_evenly() -> None:
    values = np.random.default_rng(0).lognormal(3, 2, 40_000)
    edges = np.array(quantile_edges(values, 16))
    assert len(edges) == 17
    assert (edges[0], edges[-1]) == pytest.approx((values.min(), values.max()), rel=1e-3)
    shares = np.histogram(values, edges)[0] / len(values)
    assert shares[1:-1] == pytest.approx(1 / 16, abs=0.002)


def test_a_value_that_most_rows_have_is_one_edge_and_the_others_share_the_rest() -> None:
    random = np.random.default_rng(1)
    values = np.where(random.random(10_001) < 0.9, 0.0, random.uniform(5, 10, 10_001))
    edges = quantile_edges(values, 8)
    assert edges[0] == 0
    assert len(edges) == 9
    assert edges[1:] == pytest.approx(np.linspace(5, 10, 8), abs=0.15)


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([3.0, 1.0, 2.0, 3.0], [1, 2, 3]),
        ([7.0] * 5, [7]),
        ([], []),
        ([1e9, 1e9 + 64, 1e9 + 128], [1e9, 1e9 + 64, 1e9 + 128]),  # alike to six digits
    ],
)
def test_few_values_are_the_edges(values: list[float], edges: list[float]) -> None:
    assert quantile_edges(np.array(values), 16) == edges


def test_edges_are_distinct_as_float32() -> None:
    values = 1e7 + np.random.default_rng(2).integers(0, 100, 5000)
    edges = np.array(quantile_edges(values, 16), np.float32)
    assert (np.diff(edges) > 0).all()
