"""The requests and groups of evaluation rows: the same for flat and nested logs, however these are cut into blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymtl.data.batch import Batch, Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_requests
from raymtl.data.units import plan_input
from raymtl.data.user_slice import UserSlice
from raymtl.errors import DataError
from raymtl.objectives.metrics.evaluate import EvalMetrics
from tests.helpers.small_data import make_config, write_file

FEATURES = {"user": {"kind": "id", "side": "user"}, "item": {"kind": "id"}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "flat": {"request": "request"},
    "nested": {"impressions": "shown"},
    "both": {"impressions": "shown", "request": "request"},
}


def requests(count: int, seed: int) -> list[dict[str, Any]]:
    """Nested rows: requests of 0 to 40 rows, some of users without an ID."""
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 41, count) ** 2 // 40
    return [
        {
            "request": f"{seed}-{n}",
            "user": None if n % 7 == 0 else int(n % 11),
            "shown": [{"item": int(i), "click": int(i % 5 == 0)} for i in random.integers(0, 99, size)],
        }
        for n, size in enumerate(sizes)
    ]


def write(root: Path, nested: bool, *files: list[dict[str, Any]]) -> None:
    for n, rows in enumerate(files):
        if not nested:
            rows = [{**row, **shown} for row in rows for shown in row["shown"]]
            rows = [{name: value for name, value in row.items() if name != "shown"} for row in rows]
        write_file(root, pa.Table.from_pylist(rows), name=f"part-{n}.parquet", group_rows=200 if not nested else 13)


def batches(root: Path, layout: str, rows: int, **more: Any) -> list[Batch]:
    """The evaluation batches of 37 rows of all files, read in blocks of `rows` rows."""
    users = more.pop("users", None)
    config = make_config(FEATURES, path=str(root), group="user", **LAYOUTS[layout], **more)
    maker, collate = BlockMaker(config, True, users=users), Collator(config, 37, True)
    found = []
    for unit in plan_input(config, "train").units:
        for fragment in unit.fragments:
            for raw, row in read_requests(str(root), fragment, maker.raw_columns(), rows):
                block = maker(raw, Place(fragment.path, row), 0)
                found += [collate([block.slice(start, 37)]) for start in range(0, len(block), 37)]
    return found


def items(batch: Batch) -> torch.Tensor:
    """The items of the valid rows."""
    return batch.ids["item"].values()


def metrics_of(found: list[Batch]) -> dict[str, Any]:
    metrics = EvalMetrics(make_config(FEATURES).active_tasks(), [], with_requests=True)
    for batch in found:
        logits = torch.zeros(len(batch.valid), 1)
        logits[batch.valid, 0] = items(batch) % 13.0
        metrics.update(
            logits, batch.labels, batch.observed, batch.weight, batch.valid, None, batch.group, batch.truth,
            batch.request_id,
        )  # fmt: skip
    return metrics.compute()["tasks"]["click"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_request_is_the_same_in_every_layout_and_cut(layout: str, tmp_path: Path) -> None:
    files = requests(90, seed=1), requests(61, seed=2)
    write(tmp_path / "flat", False, *files)
    write(tmp_path / "nested", True, *files)
    expected = metrics_of(batches(tmp_path / "flat", "flat", 10_000))
    found = metrics_of(batches(tmp_path / ("flat" if layout == "flat" else "nested"), layout, 11))
    distinct = [{s["click"] for s in row["shown"]} for rows in files for row in rows if row["shown"]]
    assert expected["requests_ranked"] == sum(len(labels) == 2 for labels in distinct) > 60
    assert expected["requests_left_out"] == sum(len(labels) == 1 for labels in distinct) > 10
    keys = ["ndcg", "ndcg_10", "mrr", "gauc", "gauc_groups", "requests_ranked", "requests_left_out", "count"]
    assert [found[key] for key in keys] == pytest.approx([expected[key] for key in keys], rel=1e-12)


def test_a_held_out_slice_of_users_keeps_the_requests(tmp_path: Path) -> None:
    write(tmp_path, True, requests(90, seed=1))
    users = UserSlice("user", 3, 0.5, True)
    whole, part = (
        {
            (int(g), int(r), int(i))
            for batch in batches(tmp_path, "nested", 50, users=some)
            for g, r, i in zip(*(v[batch.valid] for v in (batch.group, batch.request_id)), items(batch), strict=True)
        }
        for some in (None, users)
    )
    assert part < whole


def ids(rows: list[Any], users: list[Any], path: str = "part", first_row: int = 0) -> tuple[list[int], list[int]]:
    """`group` and `request_id` of flat rows with these request IDs and users."""
    config = make_config(FEATURES, group="user", request="request")
    count = pa.array([0] * len(rows))
    raw = pa.table({"item": count, "click": count, "user": pa.array(users, pa.int64()), "request": rows})
    block = BlockMaker(config, evaluation=True)(raw, Place(path, first_row), 0)
    return block.column("group").to_pylist(), block.column("request_id").to_pylist()


def test_a_null_request_is_one_of_its_own() -> None:
    rows = pa.array([5, 5, None, None], pa.int64())
    group, request = ids(rows, [1, 1, 1, 1])
    assert group == [1] * 4
    assert request[:2] == [5, 5]
    assert len({*request}) == 3
    assert ids(rows, [1, 1, 1, 1]) == (group, request)
    elsewhere = ids(rows, [1] * 4, path="another")[1] + ids(rows, [1] * 4, first_row=4)[1]
    assert not {*request[2:]} & {*elsewhere}


def test_a_request_of_a_null_user_is_one_group_even_over_two_files() -> None:
    rows = pa.array([5, 5, 6, None, None], pa.int64())
    group, _ = ids(rows, [None] * 5)
    assert group[0] == group[1] != group[2]
    assert len({*group}) == 4
    assert ids(rows, [None] * 5, path="another")[0][:3] == group[:3]


def test_training_reads_no_request_ids() -> None:
    config = make_config({"item": {"kind": "id"}}, request="request")
    assert "request" not in BlockMaker(config, evaluation=False).raw_columns()
    assert "request" in BlockMaker(config, evaluation=True).raw_columns()
    assert len(Collator(config, 3, evaluation=False)([]).request_id) == 0


@pytest.mark.parametrize("layout", ["flat", "both"])
def test_a_missing_request_column_is_said_before_anything_starts(layout: str, tmp_path: Path) -> None:
    write(tmp_path, layout != "flat", [{"reqest": 1, "user": 1, "shown": [{"item": 1, "click": 0}]}])
    config = make_config(FEATURES, path=str(tmp_path), **LAYOUTS[layout])
    with pytest.raises(DataError, match=r"column `request` \(data.request\) is missing; set data.request to `reqest`"):
        plan_input(config, "train")
