"""Vectors: a list of `width` numbers per row, from the files to the batch."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymtl.data.batch import Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.column_types import fits
from raymtl.data.contract import required_columns, schema_faults
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.serving.rows import new_users
from tests.helpers.small_data import make_config, write_file
from tests.helpers.validation_logs import DAYS, FEATURES, config_of, good_rows, table

CONFIG = make_config(
    {
        "item": {"kind": "id"},
        "text": {"kind": "vector", "width": 3},
        "image": {"kind": "vector", "column": "pixels", "width": 2},
    }
)
TEXT = [[1.0, -2.5, 0.25], None, [0.0, 3.0, 1e30], [4.0, 5.0, 6.0]]
PIXELS = [[1, 2], [3, 4], None, [5, 6]]
KINDS = [
    pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3), pa.list_(pa.float64(), 3),
]  # fmt: skip


def raw_rows(text: pa.Array) -> pa.Table:
    rows = len(text)
    columns = {"item": pa.array(range(rows)), "pixels": pa.array((PIXELS * rows)[:rows], pa.list_(pa.int16()))}
    return pa.table({**columns, "text": text, "click": pa.array([0] * rows, pa.int8())})


def block_of(raw: pa.Table) -> pa.Table:
    return BlockMaker(CONFIG, evaluation=False)(raw, Place("a.parquet", 10), 0)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_lists_of_any_type_reach_the_batch_and_null_is_zeros(kind):
    assert fits(kind, "vector")
    raw = raw_rows(pa.array([[9.0] * 3, *TEXT], kind)).slice(1)  # the slice begins in the middle of the lists
    block = block_of(raw)
    batch = Collator(CONFIG, 6, evaluation=False)([block.slice(0, 1), block.slice(1), block.slice(0, 0)])
    text = np.array([row or [0.0] * 3 for row in TEXT], np.float32)
    pixels = np.array([[3, 4], [0, 0], [5, 6], [1, 2]], np.float32)
    expected = np.concatenate([np.concatenate([text, pixels], 1), np.zeros((2, 5), np.float32)])
    torch.testing.assert_close(batch.vectors, torch.tensor(expected), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            [1.0, 2.0],
            "row 12: the length is 2, expected 3; write null for an unknown vector, or set features.text.width",
        ),
        ([], "row 12: the length is 0, expected 3"),
        (
            [1.0, None, 2.0],
            "row 12: the value is nan, expected a finite number; write null instead of the list",
        ),
        ([1.0, np.nan, 2.0], "row 12: the value is nan, expected a finite number"),
        ([1.0, 1e39, 2.0], "row 12: the value is inf, expected a finite number"),
    ],
)
def test_what_is_no_vector_is_an_error(row, words):
    with pytest.raises(DataError, match=rf"a.parquet: column `text` \(features.text\), .*{words}"):
        block_of(raw_rows(pa.array([[1.0] * 3, None, row, [1.0] * 3], pa.list_(pa.float64()))))


def test_a_fixed_size_that_is_not_the_width_is_found_before_anything_is_read():
    columns = required_columns(CONFIG)
    ((_, fault),) = schema_faults(raw_rows(pa.array([[1.0] * 4], pa.list_(pa.float32(), 4))).schema, CONFIG, columns)
    assert fault.startswith(
        "column `text` (features.text) holds vectors of 4 numbers, but its width is another; set features.text"
    )
    ((_, fault),) = schema_faults(raw_rows(pa.array([1.0])).schema, CONFIG, columns)
    assert (
        "has type double, expected a list of numbers; write one list of numbers per row, or set features.text.column"
        in fault
    )


def test_a_column_without_values_is_all_zeros():
    for nulls in (pa.nulls(4), pa.nulls(4, pa.list_(pa.null()))):
        assert block_of(raw_rows(nulls)).column("vector:text").to_pylist() == [[0.0] * 3] * 4


def test_scoring_finds_the_users_whose_vector_changes():
    raw = raw_rows(pa.array([[1.0] * 3, [1.0] * 3, [1.0, 1.0, 2.0], None, None, [2.0] * 3], pa.list_(pa.float32())))
    assert new_users(raw, CONFIG, ["text"]).tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize(("width", "problems"), [(2, 0), (3, 1)])
def test_check_measures_all_numbers_and_counts_what_breaks_the_rules(tmp_path, in_process, width, problems):
    random = np.random.default_rng(0)
    vectors = random.normal(2, 3, (6000, 2))
    for n, day in enumerate(DAYS):
        rows = good_rows(2000, seed=n, day=day)
        rows["text"] = [None, *vectors[2000 * n + 1 : 2000 * n + 2000].tolist()]
        write_file(tmp_path, table(rows, user=pa.string()), day)
    features = {**FEATURES, "text": {"kind": "vector", "width": width}}
    report = check_data(config_of(tmp_path, features=features))
    assert [p.split(";")[0] for p in report.problems] == [
        "train: column `text` (features.text): 5,997 lengths in 3 files are not 3",
    ][:problems]
    assert report.warnings == []
    if not problems:
        text = report.parts["train"].features["text"]
        kept = np.delete(vectors, [0, 2000, 4000], 0)
        assert (text.kind, text.nulls, text.not_finite) == ("vector", 3, 0)
        assert (text.mean, text.std, text.max) == pytest.approx((kept.mean(), kept.std(), kept.max()), rel=1e-5)
        assert report.parts["train"].types["text"] == "list of number"
