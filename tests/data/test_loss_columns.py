"""What losses need of the logs: weights of one task, and the lists whose rows are compared."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.batch import Collator, comparable_rows
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.contract import required_columns
from raymtl.data.requests import shuffled
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.errors import DataError

DAY = "2026-01-01"
RANKED = {"losses": {"ranknet": {"within": "request"}}}


def configured(path: Path | str, tasks: dict[str, Any], features: dict[str, Any] | None = None, **data: Any) -> Config:
    return config_from_dict(
        {
            "data": {"path": str(path), "train": {"start": DAY, "end": DAY}, **data},
            "features": features or {"item": {"kind": "id"}},
            "tables": {"item": {"rows": 100}},
            "tasks": tasks,
            "model": {"preset": "shared_bottom"},
        }
    )


def logs(folder: Path, **columns: Any) -> Path:
    place = folder / f"ds={DAY}"
    place.mkdir(parents=True)
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"item": np.arange(rows) % 100, **columns}), place / "part.parquet")
    return folder


def block(config: Config, raw: pa.Table) -> pa.Table:
    return BlockMaker(config, evaluation=False)(raw, Place("part.parquet", 0), 0)


def test_the_weight_of_a_task_is_a_factor_beside_that_of_the_row() -> None:
    config = configured("/logs", {"click": {}, "buy": {"weight_column": "v"}}, weight="w")
    raw = pa.table(
        {"item": [1, 2, 3], "click": [1, 0, 1], "buy": [0, 1, None], "w": [1.0, 2.0, 0.5], "v": [3.0, None, 4.0]}
    )
    batch = Collator(config, 4, evaluation=False)([block(config, raw)])
    assert batch.weight.tolist() == [[1, 3], [2, 0], [0.5, 2], [0, 0]]
    assert batch.totals.tolist() == [3, 1, 3]
    assert len(batch.row_weight) == 0
    evaluated = Collator(config, 4, evaluation=True)([block(config, raw)])
    assert evaluated.row_weight.tolist() == [1, 2, 0.5, 0]


def test_a_weight_below_zero_names_its_key() -> None:
    config = configured("/logs", {"click": {"weight_column": "v"}})
    with pytest.raises(DataError, match=r"column `v` \(tasks.click.weight_column\), row 1: the weight is -1.0"):
        block(config, pa.table({"item": [1, 2], "click": [1, 0], "v": [1.0, -1.0]}))


def test_the_base_rate_of_a_task_is_weighted_by_its_own_column(tmp_path: Path) -> None:
    path = logs(tmp_path, click=[1, 0, 0, 1], buy=[1, 0, 0, 1], v=[3.0, 1.0, 1.0, 0.0])
    config = configured(path, {"click": {}, "buy": {"weight_column": "v"}})
    rates = sample_base_rates(config, plan_input(config, "train"))
    assert float(rates["click"]) == pytest.approx(2.5 / 5)
    assert float(rates["buy"]) == pytest.approx((3 + 0.5 * 5 / 3) / (5 + 5 / 3))


def by_request(rows: int) -> pa.Table:
    requests = np.arange(rows) // 4
    return pa.table(
        {
            "item": np.arange(rows) % 100,
            "request": pa.array([None if n == 2 else f"r{n}" for n in requests]),
            "user": requests // 2,
            "click": np.arange(rows) % 3 == 0,
        }
    )


@pytest.mark.parametrize(
    ("within", "size"), [("request", 4), ("group", 8)], ids=["the rows of a request", "those of a user"]
)
def test_rows_of_a_list_stay_together_in_any_order(within: str, size: int) -> None:
    tasks = {"click": {"losses": {"ranknet": {"within": within}}}}
    config = configured("/logs", tasks, request="request", group="user")
    raw = by_request(32)
    found = block(config, raw)
    lists = found.column(f"list:{within}").to_numpy()
    own = [len({*lists[start : start + size]}) for start in range(0, 32, size)]
    assert own == ([1, 1, 4, 1, 1, 1, 1, 1] if within == "request" else [1] * 4), "a null is a request of its own"
    assert len({*lists}) == sum(own)
    order = shuffled(found, np.random.default_rng(0))
    assert sorted(order) == list(range(32))
    assert order.tolist() != list(range(32))
    runs = 1 + np.count_nonzero(np.diff(lists[order]))
    assert runs == sum(own)
    assert "list:request" not in block(configured("/logs", {"click": {}}, request="request"), raw).column_names


def test_one_request_id_of_two_users_is_two_lists() -> None:
    raw = pa.table({"item": [1, 2, 3, 4], "request": [7, 7, 7, 7], "user": [1, 1, 2, 2], "click": [1, 0, 1, 0]})
    lists = [
        block(configured("/logs", {"click": RANKED}, request="request", **data), raw).column("list:request").to_pylist()
        for data in ({}, {"group": "user"})
    ]
    assert [len({*ids}) for ids in lists] == [1, 2]


def test_training_reads_the_columns_of_lists() -> None:
    for tasks, trains in (({"click": {}}, False), ({"click": RANKED}, True)):
        columns = required_columns(configured("/logs", tasks, request="request", group="user"))
        assert {c.used_by: c.training for c in columns if c.name in ("request", "user")} == {
            "data.request": trains,
            "data.group": trains,
        }


def test_the_normaliser_is_the_number_of_rows_in_lists_of_two_labels() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        lists, labels = random.integers(-3, 9, 40), random.integers(0, 3, 40).astype(np.float32)
        counted = random.random(40) < 0.7
        expected = 0
        for key in {*lists.tolist()}:
            own = (lists == key) & counted
            expected += own.sum() if len({*labels[own].tolist()}) > 1 else 0
        assert comparable_rows(lists, labels, counted) == expected
    assert comparable_rows(lists, labels, np.zeros(40, bool)) == 0


def test_totals_of_a_batch_have_one_more_number_for_each_comparing_task_and_list() -> None:
    tasks = {"click": {}, "buy": {"given": "click", "losses": {"ranknet": {}, "listwise": {}}}}
    config = configured("/logs", tasks, request="request")
    raw = pa.table(
        {
            "item": range(7),
            "request": [1, 1, 1, 2, 2, 3, 3],
            "click": [1, 1, 0, 1, 1, 1, 0],
            "buy": [1, 0, 0, 1, 1, 0, 0],
        }
    )
    found = block(config, raw)
    whole = Collator(config, 9, evaluation=False)([found])
    assert whole.totals.tolist() == [7, 5, 2, 7], "the two clicks of the first request; the third row is not observed"
    assert whole.lists.shape == (9, 1)
    parts = [Collator(config, 4, evaluation=False)([found.slice(start, 4)]) for start in (0, 4)]
    assert sum(part.totals for part in parts).tolist() == [7, 5, 2, 7]
    assert not any(math.isnan(x) for x in whole.totals.tolist())
