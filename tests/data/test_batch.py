"""Blocks to batches, compared with a row-by-row reference: any cuts, padding, nulls, and the sums that travel along."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymtl.data.batch import Batch, Collator, unpooled_tables
from tests.helpers.small_data import make_config

CONFIG = make_config(
    features={
        "user": {"kind": "id"},
        "item": {"kind": "id", "table": "items"},
        "tags": {"kind": "ids"},
        "history": {"kind": "sequence", "table": "items"},
        "price": {"kind": "dense"},
        "age": {"kind": "dense"},
    },
    tasks={"click": {"kind": "binary", "truth": "p"}, "watch": {"kind": "real"}},
    scenario={"column": "s", "values": ["feed", "search"]},
    weight="w",
    group="user",
)
PLAIN = make_config(features={"user": {"kind": "id"}, "price": {"kind": "dense"}})

ids = st.one_of(st.none(), st.integers(0, 99))
lists = st.lists(st.integers(0, 99), max_size=4)
label = st.one_of(st.none(), st.sampled_from([0.0, 1.0]))
row = st.fixed_dictionaries(
    {
        "id:user": ids,
        "id:item": ids,
        "ids:tags": lists,
        "ids:history": lists,
        "dense:price": st.floats(-5, 5, width=32),
        "dense:age": st.floats(-5, 5, width=32),
        "label:click": label,
        "label:watch": label,
        "truth:click": label,
        "weight": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "scenario": st.integers(0, 2),
        "group": st.integers(-9, 9),
    }
)
TYPES = {"id": pa.int64(), "ids": pa.list_(pa.int64()), "scenario": pa.int32(), "group": pa.int64()}


def block_of(rows, start=0, stop=None):
    """A slice of the block of all rows, as the feed cuts it."""
    columns = {}
    for name in rows[0]:
        values = [r[name] for r in rows]
        role = name.split(":")[0]
        if role in ("label", "truth"):
            values = [math.nan if v is None else v for v in values]
        columns[name] = pa.array(values, TYPES.get(role, pa.float32()))
    return pa.table(columns).slice(start, None if stop is None else stop - start)


def cut(rows, places):
    """The rows in slices of a block, cut at the given places."""
    edges = [0, *sorted(places), len(rows)]
    return [block_of(rows, a, b) for a, b in itertools.pairwise(edges) if b > a]


def jagged(rows, features, size):
    """Values feature by feature, then lengths, as a KeyedJaggedTensor has them."""
    values: list[int] = []
    lengths: list[int] = []
    for name in features:
        per_row = [
            r[f"ids:{name}"] if f"ids:{name}" in r else [i for i in [r[f"id:{name}"]] if i is not None] for r in rows
        ]
        values += [i for row_ids in per_row for i in row_ids]
        lengths += [len(row_ids) for row_ids in per_row] + [0] * (size - len(rows))
    return values, lengths


@settings(max_examples=60)
@given(st.lists(row, max_size=12), st.lists(st.integers(0, 12), max_size=3), st.integers(0, 3))
def test_batches_match_a_reference(rows, places, padding):
    size = max(1, len(rows) + padding)
    chunks = cut(rows, [p for p in places if p < len(rows)])
    batch = Collator(CONFIG, size, evaluation=True)(chunks)
    empty = size - len(rows)
    for kjt, features in ((batch.ids, ["user", "tags"]), (batch.sequences, ["item", "history"])):
        values, lengths = jagged(rows, features, size)
        assert kjt.keys() == features
        assert kjt.values().tolist() == values
        assert kjt.lengths().tolist() == lengths
        assert kjt.stride() == size
        assert (kjt.values().dtype, kjt.lengths().dtype) == (torch.int64, torch.int32)
    assert batch.dense.tolist() == [[r["dense:price"], r["dense:age"]] for r in rows] + [[0, 0]] * empty
    given_labels = [[r["label:click"], r["label:watch"]] for r in rows] + [[None, None]] * empty
    assert batch.labels.tolist() == [[v or 0 for v in pair] for pair in given_labels]
    assert batch.observed.tolist() == [[v is not None for v in pair] for pair in given_labels]
    assert batch.weight.tolist() == batch.row_weight.tolist() == [r["weight"] for r in rows] + [0] * empty
    assert batch.valid.tolist() == [True] * len(rows) + [False] * empty
    assert batch.scenario.tolist() == [r["scenario"] for r in rows] + [2] * empty
    assert batch.group.tolist() == [r["group"] for r in rows] + [0] * empty
    truths = [r["truth:click"] for r in rows] + [None] * empty
    assert [None if math.isnan(t) else t for t in batch.truth[:, 0].tolist()] == truths
    assert batch.truth[:, 1].isnan().all()
    totals = [sum(r["weight"] > 0 for r in rows if r[f"label:{t}"] is not None) for t in ("click", "watch")]
    assert batch.totals.tolist() == [*totals, len(rows)]


def test_a_batch_of_padding_only():
    batch = Collator(CONFIG, 3, evaluation=False)([])
    assert batch.totals.tolist() == [0, 0, 0]
    assert batch.ids.lengths().tolist() == [0] * 6
    assert batch.ids.values().tolist() == []
    assert not batch.valid.any()
    assert not batch.observed.any()
    assert batch.weight.sum() == 0


def test_training_carries_neither_group_nor_truth():
    batch = Collator(CONFIG, 3, evaluation=False)([])
    assert (len(batch.group), len(batch.truth)) == (0, 0)


def test_a_feature_that_is_null_in_every_row():
    block = pa.table(
        {
            "id:user": pa.nulls(3, pa.int64()),
            "dense:price": pa.array([1, 2, 3], pa.float32()),
            "label:click": pa.array([1, 0, 1], pa.float32()),
        }
    )
    batch = Collator(PLAIN, 4, evaluation=False)([block.slice(1), block.slice(0, 1)])
    assert batch.ids.values().tolist() == []
    assert batch.ids.lengths().tolist() == [0, 0, 0, 0]
    assert batch.dense[:, 0].tolist() == [2, 3, 1, 0]


def test_without_weights_every_row_weighs_one():
    block = pa.table(
        {
            "id:user": pa.array([1, 2]),
            "dense:price": pa.array([0, 0], pa.float32()),
            "label:click": pa.array([1, math.nan], pa.float32()),
        }
    )
    batch = Collator(PLAIN, 3, evaluation=False)([block])
    assert batch.weight.tolist() == [1, 1, 0]
    assert batch.totals.tolist() == [1, 2]
    assert batch.scenario.tolist() == [0, 0, 0]


def test_totals_count_labels_whatever_their_weight_above_0():
    """In float64: a sum of float32 counts over the workers would stand still at 2^24."""
    rows = 4
    heavy = make_config(features={"user": {"kind": "id"}}, weight="w")
    block = pa.table(
        {
            "id:user": pa.array([1] * rows),
            "label:click": pa.array([1] * rows, pa.float32()),
            "weight": pa.array([2.0**24, 1, 0, 0.5], pa.float32()),
        }
    )
    totals = Collator(heavy, rows, evaluation=False)([block]).totals
    assert totals.dtype == torch.float64
    assert totals.tolist() == [3, 4]


def test_chunked_blocks():
    one = pa.table(
        {
            "id:user": pa.array([1, None]),
            "dense:price": pa.array([1, 2], pa.float32()),
            "label:click": pa.array([0, 1], pa.float32()),
        }
    )
    batch = Collator(PLAIN, 4, evaluation=False)([pa.concat_tables([one, one])])
    assert batch.ids.values().tolist() == [1, 1]
    assert batch.ids.lengths().tolist() == [1, 0, 1, 0]
    assert batch.dense[:, 0].tolist() == [1, 2, 1, 2]


def test_features_of_a_table_with_a_sequence_are_looked_up_unpooled():
    assert unpooled_tables(CONFIG) == {"items"}
    collator = Collator(CONFIG, 2, evaluation=False)
    assert (collator.pooled, collator.unpooled, collator.dense) == (
        ["user", "tags"],
        ["item", "history"],
        ["price", "age"],
    )


def test_tensors_own_their_memory():
    """Torch may write into a batch; Arrow's memory is shared and read-only."""
    block = pa.table(
        {
            "id:user": pa.array([1, 2]),
            "dense:price": pa.array([1, 2], pa.float32()),
            "label:click": pa.array([0, 1], pa.float32()),
        }
    )
    batch = Collator(PLAIN, 2, evaluation=False)([block])
    for tensor in (batch.ids.values(), batch.dense, batch.labels, batch.weight):
        tensor.zero_()
    assert block.column("id:user").to_pylist() == [1, 2]
    assert block.column("dense:price").to_pylist() == [1, 2]


def test_moving_a_batch_keeps_every_field():
    batch = Collator(CONFIG, 2, evaluation=True)([])
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert all(
        torch.equal(getattr(moved, n), getattr(batch, n)) for n in ("dense", "labels", "totals", "group", "valid")
    )
    assert moved.ids.keys() == batch.ids.keys()


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_long_batch(rows):
    numbers = np.arange(rows)
    block = pa.table(
        {
            "id:user": pa.array(numbers),
            "dense:price": pa.array(numbers.astype(np.float32)),
            "label:click": pa.array(np.zeros(rows, np.float32)),
        }
    )
    batch = Collator(PLAIN, rows, evaluation=False)([block.slice(0, rows // 3), block.slice(rows // 3)])
    assert torch.equal(batch.ids.values(), torch.arange(rows))
    assert torch.equal(batch.dense[:, 0], torch.arange(rows, dtype=torch.float32))
