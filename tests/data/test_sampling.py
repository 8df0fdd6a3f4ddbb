"""Down-sampled negatives: the weight of every row, what is refused, and the base rates of the complete logs."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import Counted, plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.small_data import make_config, write_file

FUNNEL = {"click": {}, "buy": {"parent": "click"}, "views": {"kind": "count"}}


def config_of(sampling: dict[str, Any], tasks: dict[str, Any] | None = None, **data: Any) -> Config:
    return make_config(tasks=tasks or FUNNEL, sampling=sampling, **data)


def rows(**more: list[Any]) -> pa.Table:
    columns = {
        "item": [1, 2, 3, 4],
        "click": [1, 0, 0, None],
        "buy": [0, 0, 0, 0],
        "views": [2, 0, 1, 0],
        "kept": [1.0, 0.5, 0.25, None],
        "w": [2.0, 3.0, 1.0, 1.0],
    }
    return pa.table(columns | more)


def weights(config: Config, raw: pa.Table, counted: Counted = Counted()) -> list[float]:
    block = BlockMaker(config, evaluation=False, maps={})(raw, Place("part-0.parquet", 0), 0, counted)
    return block.column("weight").to_pylist()


def test_only_negatives_of_the_task_weigh_one_over_their_rate() -> None:
    """A null label is no negative, and was kept."""
    assert weights(config_of({"task": "click", "rate": 0.1}), rows()) == pytest.approx([1, 10, 10, 1])


def test_the_weight_column_is_a_factor() -> None:
    assert weights(config_of({"task": "click", "rate": 0.5}, weight="w"), rows()) == pytest.approx([2, 6, 2, 1])


def test_a_column_has_the_rate_of_each_negative() -> None:
    assert weights(config_of({"task": "click", "column": "kept"}), rows()) == pytest.approx([1, 2, 4, 1])


def test_without_a_task_the_column_has_that_of_every_row() -> None:
    assert weights(config_of({"column": "kept"}), rows(kept=[1.0, 0.5, 0.25, 0.1])) == pytest.approx([1, 2, 4, 10])


def test_named_values_of_labels_count() -> None:
    tasks = {"click": {"positive": "yes", "negative": "no"}}
    raw = rows(click=["yes", "no", "no", None])
    assert weights(config_of({"task": "click", "rate": 0.2}, tasks), raw) == pytest.approx([1, 5, 5, 1])


def test_weights_do_not_depend_on_which_tasks_are_trained() -> None:
    """The daily job reads a day again for delayed labels alone, and `tasks_subset` may leave the sampled task out."""
    config = config_of({"task": "click", "rate": 0.1})
    assert weights(config, rows(), Counted(("buy",))) == pytest.approx([1, 10, 10, 1])
    alone = config.model_copy(update={"tasks_subset": ["views"]})
    assert "click" in BlockMaker(alone, evaluation=False, maps={}).raw_columns()
    assert weights(alone, rows()) == pytest.approx([1, 10, 10, 1])


@pytest.mark.parametrize("value", [0.0, 1.5, -1.0, float("nan"), None])
def test_a_probability_outside_0_to_1_is_an_error(value: float | None) -> None:
    with pytest.raises(
        DataError, match=r"column `kept` \(data.sampling.column\), row 1: the probability is .*above 0 and at most 1"
    ):
        weights(config_of({"column": "kept"}), rows(kept=[1.0, value, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"task": "click"}, "neither or both of `rate` and `column`"),
        ({"task": "click", "rate": 0.1, "column": "kept"}, "neither or both of `rate` and `column`"),
        ({"rate": 0.1}, "has a `rate` but no `task`"),
        ({"task": "clik", "rate": 0.1}, "did you mean `click`"),
        ({"task": "views", "rate": 0.1}, "a `count` task; only a `binary` one has negatives"),
        ({"task": "click", "rate": 0}, "greater than 0"),
        ({"task": "click", "rat": 0.1}, "rat"),
    ],
)
def test_a_wrong_section_is_refused(sampling: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config_of(sampling)


@pytest.mark.parametrize(
    "feature",
    [
        {"kept": {"kind": "dense"}},
        {"n": {"kind": "dense", "column": "kept"}},
        {"kept": {"kind": "bucket", "edges": [0.5]}},
    ],
)
def test_the_probability_is_no_feature(feature: dict[str, Any]) -> None:
    """With `task`, a probability below 1 is that of a negative: a leak."""
    features = {"item": {"kind": "id"}} | feature
    with pytest.raises(ValidationError, match=r"data\.sampling\.column is `kept`, a column of a feature"):
        make_config(features=features, tasks=FUNNEL, sampling={"task": "click", "column": "kept"})
    make_config(features=features, tasks=FUNNEL, sampling={"task": "click", "column": "other"})


def logs(folder: Path, rate: float) -> None:
    """Complete logs and, in another folder, those of which a negative of `click` is kept with `rate`."""
    random = np.random.default_rng(3)
    count = 40_000
    click = random.random(count) < 0.05
    buy = click & (random.random(count) < 0.2)
    views = random.poisson(0.5 + 2 * click)
    kept = click | (random.random(count) < rate)
    table = pa.table(
        {
            "item": random.integers(0, 50, count),
            "click": click.astype(np.int8),
            "buy": buy.astype(np.int8),
            "views": views,
        }
    )
    write_file(folder / "complete", table)
    write_file(
        folder / "sampled", table.filter(pa.array(kept)).append_column("kept", pa.array(np.where(click, 1, rate)[kept]))
    )


@pytest.mark.parametrize("sampling", [{"task": "click", "rate": 0.1}, {"column": "kept"}])
def test_base_rates_are_those_of_the_complete_logs(tmp_path: Path, sampling: dict[str, Any]) -> None:
    logs(tmp_path, 0.1)
    complete = make_config(tasks=FUNNEL, path=str(tmp_path / "complete"))
    sampled = config_of(sampling, path=str(tmp_path / "sampled"))
    expected, found = (sample_base_rates(config, plan_input(config, "train")) for config in (complete, sampled))
    assert found["click"] == pytest.approx(expected["click"], rel=0.02)  # 3,800 sampled negatives: 1.6 %
    assert found["buy"] == pytest.approx(expected["buy"], rel=0.02)
    assert found["views"] == pytest.approx(expected["views"], rel=0.05)


def test_the_check_reports_a_wrong_probability(tmp_path: Path, in_process: None) -> None:
    write_file(tmp_path, rows(kept=[1.0, 2.0, 0.5, None]))
    problems = check_data(config_of({"column": "kept"}, path=str(tmp_path)), "train").problems
    assert any("data.sampling.column" in problem and "probability" in problem for problem in problems), problems
