"""Labels as texts and numbers other than 0 and 1: `positive` and `negative`."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.slots.coupler import Product
from raymtl.config.wiring import bounds
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.contract import required_columns, schema_faults
from raymtl.data.partitions import Layout
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import ConfigError, DataError
from tests.helpers.small_data import DAY, make_config, write_file

PLACE = Place("part-0.parquet", 0)
N = None
YES = {"positive": "yes", "negative": ["no", "never"]}
SIGNS = {"positive": 1, "negative": -1}
FUNNEL = {
    "click": {"label": "status", "positive": ["clicked", "bought"], "negative": "shown"},
    "buy": {"label": "status", "positive": "bought", "negative": ["shown", "clicked"], "parent": "click"},
}


def labels(config: Config, columns: dict[str, Any]) -> dict[str, list[float | None]]:
    rows = len(next(iter(columns.values())))
    block = BlockMaker(config, evaluation=True)(pa.table({"item": pa.array([1] * rows), **columns}), PLACE, 0)
    return {n: [N if math.isnan(v) else v for v in block[f"label:{n}"].to_pylist()] for n in config.active_tasks()}


@pytest.mark.parametrize(
    ("task", "column", "found"),
    [
        (YES, pa.array(["yes", N, "no", "never", "yes"]), [1, N, 0, 0, 1]),
        (YES, pa.array(["yes", N, "no", "never", "yes"]).dictionary_encode(), [1, N, 0, 0, 1]),
        (YES, pa.array(["yes", N, "no", "never", "yes"], pa.string_view()).cast(pa.large_string()), [1, N, 0, 0, 1]),
        (YES, pa.array([b"yes", N, b"no"]), [1, N, 0]),
        (SIGNS, pa.array([1, -1, N, 1], pa.int8()), [1, 0, N, 1]),
        (SIGNS, pa.array([1.0, -1.0, math.nan, N]), [1, 0, N, N]),
        (SIGNS, pa.array([Decimal("1.00"), Decimal("-1.00"), N]), [1, 0, N]),
        (SIGNS, pa.array(["1", "-1", N]), [1, 0, N]),  # as the name of a folder gives them
        ({"positive": 0, "negative": 1}, pa.array([True, False, N]), [0, 1, N]),
        (YES, pa.nulls(3), [N, N, N]),
        (YES, pa.array([], pa.string()), []),
    ],
)
def test_what_counts_as_1_and_as_0(task: dict[str, Any], column: pa.Array, found: list[float | None]) -> None:
    assert labels(make_config(tasks={"click": task}), {"click": column}) == {"click": found}


@pytest.mark.parametrize(
    ("task", "column", "said"),
    [
        (
            YES,
            ["no", "Yes"],
            "row 1: the label is Yes, expected `yes` (1) or `no`, `never` (0); list the value in tasks.",
        ),
        (
            YES,
            pa.array([b"no", b"n\xff"]).view(pa.string()),
            "row 1: the label is n\N{REPLACEMENT CHARACTER}, expected",
        ),
        (YES, ["no", ""], "row 1: the label is , expected"),
        (SIGNS, [1, -1, 0], "row 2: the label is 0, expected `1` (1) or `-1` (0)"),
        (SIGNS, [1.0, 0.5], "row 1: the label is 0.5, expected"),
        (SIGNS, [1.0, math.inf], "row 1: the label is inf, expected"),
        (YES, [1], "row 0: the label is 1, expected `yes` (1)"),  # a number is no text
        ({}, [1, -1], "set tasks.click.kind, or tasks.click.positive and negative to the values of the column"),
    ],
)
def test_any_other_value_is_an_error(task: dict[str, Any], column: list[Any], said: str) -> None:
    with pytest.raises(DataError) as error:
        labels(
            make_config(tasks={"click": task}), {"click": column if isinstance(column, pa.Array) else pa.array(column)}
        )
    assert "part-0.parquet: column `click` (tasks.click.label), row " in str(error.value)
    assert said in str(error.value)


def test_a_value_that_is_not_observed_may_be_anything() -> None:
    config = make_config(tasks={"click": {**YES, "observed": "seen"}})
    columns = {"click": pa.array(["yes", "pending", "no"]), "seen": pa.array([True, False, N])}
    assert labels(config, columns) == {"click": [1, N, N]}


def test_one_column_of_states_is_a_funnel() -> None:
    config = make_config(tasks=FUNNEL)
    states = {"status": pa.array(["shown", "clicked", "bought", N, "shown"])}
    assert labels(config, states) == {"click": [0, 1, 1, N, 0], "buy": [0, 0, 1, N, 0]}


def test_products_of_labels_read_the_same_values() -> None:
    tasks = {"click": YES, "buy": {**SIGNS, "parent": "click", "observed": "seen"}}
    config = make_config(tasks=tasks)
    config = config.model_copy(update={"model": config.model.model_copy(update={"coupler": Product(type="product")})})
    columns = {
        "click": pa.array(["yes", "no", "no", "yes", "no"]),
        "buy": pa.array([1, -1, N, N, 1]),
        "seen": pa.array([True, True, True, True, False]),
    }
    assert labels(config, columns)["buy"] == [1, 0, 0, N, N]


def test_only_the_same_values_make_the_same_label() -> None:
    """The bound p(click)·p(conversion | click) = p(buy) holds only if conversion and buy are one event."""
    conversion = {"label": "buy", "given": "click", **YES}
    for buy, found in (({**YES}, [("click", "conversion", "buy")]), ({"positive": "never", "negative": "no"}, [])):
        assert bounds(make_config(tasks={"click": {}, "conversion": conversion, "buy": buy}).tasks) == found


def test_types_that_fit() -> None:
    def faults(task: dict[str, Any], kind: pa.DataType) -> list[str]:
        schema = pa.schema({"item": pa.int64(), "click": kind})
        config = make_config(tasks={"click": task})
        return [fault for _, fault in schema_faults(schema, config, required_columns(config))]

    for kind in (
        pa.string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.int8(),
        pa.bool_(),
        pa.null(),
    ):
        assert faults(YES, kind) == []
    assert faults({}, pa.string()) == [
        "column `click` (tasks.click.label) has type string, expected a number or a boolean; set tasks.click.positive and "
        "tasks.click.negative to the values that count as 1 and as 0, or set tasks.click.label to another column"
    ]
    assert "positive" not in faults({"kind": "count"}, pa.string())[0]
    assert "expected a string, a number or a boolean" in faults(YES, pa.list_(pa.string()))[0]


def test_a_label_in_the_name_of_a_folder_is_text() -> None:
    assert "click" in Layout.of(make_config()).numbers
    assert "click" not in Layout.of(make_config(tasks={"click": YES})).numbers


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            {"positive": "yes"},
            "tasks.click has `positive` but no `negative`; set tasks.click.negative to the values that count as 0",
        ),
        ({"negative": "no"}, "set tasks.click.positive to the values that count as 1"),
        (
            {"positive": "yes", "negative": ["no", "yes"]},
            "tasks.click.positive and negative have `yes` 2 times; list it once",
        ),
        ({"positive": 1, "negative": "1"}, "have `1` 2 times"),
        ({"positive": True, "negative": "no"}, "true is a boolean; write text in quotes"),
        ({"positive": [], "negative": "no"}, "tasks.click.positive"),
        ({"positive": 0.5, "negative": 0}, "tasks.click.positive"),
        (
            {**YES, "kind": "real"},
            "tasks.click is `real` but has `positive`; remove it, or set tasks.click.kind to `binary`",
        ),
    ],
)
def test_mistakes_in_the_configuration(task: dict[str, Any], said: str) -> None:
    plain = make_config().model_dump(mode="json", exclude_unset=True)
    with pytest.raises(ConfigError) as error:
        config_from_dict({**plain, "name": "first", "tasks": {"click": task}})
    assert said in str(error.value)


def test_check_counts_what_training_reads(tmp_path: Path, in_process: None) -> None:
    rows = 301
    chance = np.random.default_rng(3)
    states = chance.choice(["shown", "clicked", "bought"], rows, p=[0.6, 0.3, 0.1])
    table = pa.table({"item": chance.integers(0, 50, rows), "status": pa.array(states)})
    write_file(tmp_path, table)
    config = make_config(tasks=FUNNEL, path=str(tmp_path))
    report = check_data(config, "train")
    part = report.parts["train"]
    assert report.problems == []
    means = {"click": np.mean(states != "shown"), "buy": np.mean(states == "bought")}
    assert {name: task.all.mean for name, task in part.tasks.items()} == pytest.approx(means)
    rates = {name: (rows * mean + 0.5) / (rows + 1) for name, mean in means.items()}
    assert sample_base_rates(config, plan_input(config, "train")) == pytest.approx(rates)

    write_file(tmp_path, table.set_column(1, "status", pa.array(["refunded", *states[1:-1], "refunded"])))
    (first, second) = check_data(config, "train").problems
    assert "column `status` (tasks.click.label): 2 labels are not `clicked`, `bought` (1) or `shown` (0)" in first
    assert "the first is refunded in row 0" in first
    assert "tasks.buy.label" in second
    assert DAY in first
