"""Bytes of a step, against sums done by hand."""

import numpy as np
import pytest

from raymtl.embeddings.traffic import TableTraffic, step_traffic

B, W, NODE = 10, 4, 2


def traffic(*tables: TableTraffic):
    return step_traffic(list(tables), workers=W, per_node=NODE, batch_rows=B)


def test_a_table_on_one_rank() -> None:
    """Rank 1 holds a pooled table of 8 columns, read by one bag of 3 IDs."""
    found = traffic(TableTraffic("table_wise", (1,), 8, (3,), pooled=True))
    ids = 10 * 3 * 8 + 10 * 4  # IDs as int64, a length of each row as int32
    vectors = 10 * 8 * 4
    assert found.ids.sent_inside.tolist() == [ids, 0, 0, 0]
    assert found.ids.sent_between.tolist() == [0, 0, ids, ids]
    assert found.ids.received_inside.tolist() == [0, ids, 0, 0]
    assert found.ids.received_between.tolist() == [0, 2 * ids, 0, 0]
    assert found.vectors.sent_inside.tolist() == [0, vectors, 0, 0]
    assert found.vectors.sent_between.tolist() == [0, 2 * vectors, 0, 0]
    assert found.vectors.received_between.tolist() == [0, 0, vectors, vectors]
    assert found.lookups.tolist() == [0, 4 * 10 * 3, 0, 0]
    assert found.lookup_bytes[1] == 120 * 8 * 4
    assert found.output_bytes[1] == 4 * vectors


def test_a_table_by_rows_pooled_and_not() -> None:
    """Two features of one and five IDs read it."""
    pooled = traffic(TableTraffic("row_wise", (0, 1, 2, 3), 8, (1, 5), pooled=True))
    to_each = 8 * 10 * 6 / 4 + 4 * 10 * 2
    assert np.all(pooled.ids.sent_inside == to_each)
    assert np.all(pooled.ids.sent_between == 2 * to_each)
    chunk = 2 * 10 * 8 * 4  # one vector per row and feature
    assert np.all(pooled.vectors.sent_inside == 3 * chunk)
    assert np.all(pooled.vectors.sent_between == 3 * chunk / 2)
    assert np.all(pooled.lookups == 60)
    unpooled = traffic(TableTraffic("row_wise", (0, 1, 2, 3), 8, (1, 5), pooled=False))
    assert np.all(unpooled.vectors.sent_inside == 10 * 6 / 4 * 8 * 4)
    assert np.all(unpooled.vectors.sent_between == 2 * 10 * 6 / 4 * 8 * 4)


def test_two_tables_add_up() -> None:
    one = TableTraffic("table_wise", (0,), 4, (1,), pooled=True)
    two = TableTraffic("row_wise", (0, 1, 2, 3), 8, (2,), pooled=False)
    both, apart = traffic(one, two), (traffic(one), traffic(two))
    for wire in ("ids", "vectors"):
        for name, value in vars(getattr(both, wire)).items():
            assert np.array_equal(value, sum(getattr(getattr(a, wire), name) for a in apart))
    assert both.lookups.sum() == W * B * 3


def test_by_rows_inside_one_machine() -> None:
    found = traffic(TableTraffic("table_row_wise", (2, 3), 8, (1,), pooled=True))
    chunk = 10 * 8 * 4
    assert found.vectors.sent_inside.tolist() == [0, 0, 2 * chunk, 2 * chunk]  # the rows of both machines
    assert found.vectors.sent_between.tolist() == [0, 0, chunk, chunk]
    assert found.vectors.received_between.tolist() == [chunk, chunk, 0, 0]


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise", "table_row_wise"])
@pytest.mark.parametrize("pooled", [True, False])
def test_what_is_sent_is_received(sharding: str, pooled: bool) -> None:
    ranks = {"table_wise": (3,), "column_wise": (0, 2), "table_row_wise": (0, 1)}.get(sharding, (0, 1, 2, 3))
    found = traffic(TableTraffic(sharding, ranks, 8, (1, 7), pooled=pooled))
    for wire in (found.ids, found.vectors):
        assert wire.sent_inside.sum() == pytest.approx(wire.received_inside.sum())
        assert wire.sent_between.sum() == pytest.approx(wire.received_between.sum())
    assert found.lookups.sum() == W * B * 8 * (2 if sharding == "column_wise" else 1)


def test_one_rank_sends_nothing() -> None:
    found = step_traffic([TableTraffic("table_wise", (0,), 8, (1,), pooled=True)], workers=1, per_node=8, batch_rows=5)
    assert found.ids.inside() == found.ids.between() == found.vectors.inside() == found.vectors.between() == 0
