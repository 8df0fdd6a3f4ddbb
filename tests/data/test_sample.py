"""Base rates from a small sample of the training days."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.errors import DataError
from tests.helpers.small_data import click_rows, make_config, write_file


def rates(root, **config):
    made = make_config(path=str(root), **config)
    return sample_base_rates(made, plan_input(made, "train"))


def write(root, **columns):
    table = click_rows(len(next(iter(columns.values()))))
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, values)
    write_file(root, table)


def test_the_mean_of_the_labels_half_a_label_towards_one_half(tmp_path):
    write_file(tmp_path, click_rows(1000))
    assert rates(tmp_path) == {"click": pytest.approx(250.5 / 1001)}


def test_one_class_alone_keeps_the_logarithm_finite(tmp_path):
    write(tmp_path, click=pa.array([0] * 100))
    assert rates(tmp_path) == {"click": pytest.approx(0.5 / 101)}


def test_only_observed_labels_count_and_by_their_weight(tmp_path):
    clicks = pa.array([1, 1, 0, None, 1], pa.int8())
    write(tmp_path, click=clicks, seen=pa.array([True, True, True, True, False]), w=pa.array([2.0, 1.0, 5.0, 9.0, 9.0]))
    found = rates(tmp_path, tasks={"click": {"observed": "seen"}}, weight="w")
    mean_weight = 8 / 3
    assert found["click"] == pytest.approx((3 + 0.5 * mean_weight) / (8 + mean_weight))


def test_real_labels_are_averaged_as_they_are(tmp_path):
    write(tmp_path, gain=pa.array([-1.0, 3.0, None, 4.0]))
    assert rates(tmp_path, tasks={"gain": {"kind": "real"}}) == {"gain": pytest.approx(2.0)}


def test_the_chunks_are_spread_over_all_files(tmp_path):
    for n in range(9):
        rows = click_rows(100).set_column(1, "click", pa.array(np.full(100, int(n in (0, 8)), np.int8)))
        write_file(tmp_path, rows, name=f"part-{n}.parquet")
    assert rates(tmp_path)["click"] == pytest.approx(0.5, abs=0.01)  # four files, the first and the last among them


def test_a_file_of_several_row_groups_is_read_from_its_start(tmp_path):
    for n, path in enumerate(("part-0.parquet", "part-1.parquet")):
        write_file(tmp_path, click_rows(700), name=path, group_rows=150 + 250 * n)
    assert rates(tmp_path)["click"] == pytest.approx(0.25, abs=0.02)


def test_a_configured_rate_is_taken_as_it_is(tmp_path):
    write(tmp_path, click=pa.array([None] * 4, pa.int8()))
    assert rates(tmp_path, tasks={"click": {"base_rate": 0.03}}) == {"click": 0.03}


def test_the_mean_weight_is_that_of_the_labels_that_count(tmp_path):
    """Also where the mean label is in the configuration, or known from before."""
    columns = {"click": [1, 0, None, 1], "w": [2.0, 5.0, 9.0, 0.0], "buy": [None, 0, 1, 1], "v": [1.0, 0.5, None, 3.0]}
    write(tmp_path, **{name: pa.array(values) for name, values in columns.items()})
    tasks: dict[str, Any] = {"click": {"base_rate": 0.03}, "buy": {"weight_column": "v"}}
    found = rates(tmp_path, tasks=tasks, weight="w")
    assert [found[name].weight for name in tasks] == pytest.approx([3.5, 2.5])
    assert [rate.weight for rate in rates(tmp_path, tasks=tasks).values()] == pytest.approx([1, 1.75])
    config = make_config(path=str(tmp_path), tasks=tasks, weight="w")
    found = sample_base_rates(config, plan_input(config, "train"), {"click": 0.2, "buy": 0.4})
    assert found == {"click": 0.2, "buy": 0.4}
    assert [found[name].weight for name in tasks] == pytest.approx([3.5, 2.5])


def test_the_mean_weight_of_a_known_task_is_searched_for(tmp_path):
    for n in range(13):
        clicks = pa.array([0, 1] if n == 5 else [None, None], pa.int8())
        write_file(tmp_path, pa.table({"item": [1, 2], "click": clicks, "w": [4.0, 8.0]}), name=f"part-{n:02}.parquet")
    assert rates(tmp_path, tasks={"click": {"base_rate": 0.1}}, weight="w")["click"].weight == 6.0


@pytest.mark.parametrize("column", ["click", "seen", "w"])
def test_a_task_without_any_label_that_counts_is_an_error(tmp_path, column):
    columns = {"click": pa.array([0, 1]), "seen": pa.array([True, True]), "w": pa.array([1, 1])}
    columns[column] = {
        "click": pa.array([None, None], pa.int8()),
        "seen": pa.array([False, None]),
        "w": pa.array([0, 0]),
    }[column]
    write(tmp_path, **columns)
    with pytest.raises(
        DataError, match=r"tasks\.click: no label is observed on the training days .*set tasks\.click\.base_rate"
    ):
        rates(tmp_path, tasks={"click": {"observed": "seen"}}, weight="w")


@pytest.mark.parametrize("labelled", [1, 5, 12])
@pytest.mark.parametrize("column", ["click", "w"])
def test_labels_between_the_chunks_of_the_sample_are_found(tmp_path, labelled, column):
    """`raymtl check`, which reads all rows, accepts them."""
    for n in range(13):
        there = n == labelled
        clicks = pa.array([0, 1] if there or column == "w" else [None, None], pa.int8())
        weights = pa.array([1, 3] if there or column == "click" else [0, 0])
        write_file(tmp_path, pa.table({"item": [1, 2], "click": clicks, "w": weights}), name=f"part-{n:02}.parquet")
    assert rates(tmp_path, weight="w") == {"click": pytest.approx((3 + 1) / (4 + 2))}


def test_a_broken_value_stops_the_job(tmp_path):
    write(tmp_path, click=pa.array([0, 7]))
    with pytest.raises(DataError, match="row 1: the label is 7"):
        rates(tmp_path)
