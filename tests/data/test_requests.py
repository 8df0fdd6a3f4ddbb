"""Requests: flat rows that stand together, nested rows, and what is wrong with either."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.count_ids import _CountTask
from raymtl.data.dealing import owners
from raymtl.data.fragments import read_requests
from raymtl.data.requests import REQUEST, own_requests, request_column, shuffled, split_requests
from raymtl.data.slices import cut, unpacked
from raymtl.data.units import plan_input
from raymtl.data.user_slice import UserSlice
from raymtl.errors import ConfigError, DataError
from tests.helpers.nested_logs import nested

DAY = "2026-01-01"
IMPRESSIONS = ["item", "price", "click"]


def configured(path: Path, **data: Any) -> Config:
    return config_from_dict(
        {
            "data": {"path": str(path), "train": {"start": DAY, "end": DAY}, "block_rows": 7, "group": "user", **data},
            "features": {
                "user": {"kind": "id"},
                "city": {"kind": "id", "side": "user"},
                "age": {"kind": "dense", "side": "user"},
                "content": {"kind": "vector", "side": "user", "width": 2},
                "history": {"kind": "sequence", "table": "item", "max_length": 3},
                "item": {"kind": "id"},
                "price": {"kind": "dense"},
            },
            "tables": {"user": {"rows": 50}, "city": {"rows": 50}, "item": {"rows": 50}},
            "tasks": {"click": {}},
            "train": {"batch_size": 8},
            "model": {"preset": "shared_bottom", "sequence": {"type": "pooled"}},
        }
    )


def rows(sizes: list[int]) -> pa.Table:
    """Requests of these numbers of rows."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    histories = pa.array([[n, n + 1, n + 2, n + 3][: n % 5] for n in range(len(sizes))], pa.list_(pa.int64()))
    contents = pa.array([[n / 2, 1.0] if n % 3 else None for n in range(len(sizes))], pa.list_(pa.float32()))
    return pa.table(
        {
            "request": 100 + owner,
            "user": owner % 4,
            "city": pa.array([f"c{n % 3}" if n % 4 else None for n in range(len(sizes))]).take(pa.array(owner)),
            "age": (owner % 5).astype(np.float32),
            "content": contents.take(pa.array(owner)),
            "history": histories.take(pa.array(owner)),
            "item": np.arange(len(owner)),
            "price": np.arange(len(owner), dtype=np.float32),
            "click": (np.arange(len(owner)) % 3 == 0).astype(np.int8),
        }
    )


def write(folder: Path, *tables: pa.Table, row_group_size: int = 3) -> Path:
    place = folder / f"ds={DAY}"
    place.mkdir(parents=True)
    for n, table in enumerate(tables):
        pq.write_table(table, place / f"part-{n}.parquet", row_group_size=row_group_size)
    return folder


def blocks(config: Config, users: UserSlice | None = None) -> list[pa.Table]:
    plan = plan_input(config, "train")
    maker = BlockMaker(config, evaluation=False, users=users)
    return [
        maker(raw, Place(fragment.path, row), 0)
        for unit in plan.units
        for fragment in unit.fragments
        for raw, row in read_requests(plan.root, fragment, maker.raw_columns(), config.data.block_rows)
    ]


def as_rows(found: list[pa.Table]) -> list[dict[str, Any]]:
    """The rows of blocks with the user side of their request."""
    shown = []
    for block in found:
        for row in block.to_pylist():
            row |= row.pop(REQUEST, None) or {}
            shown.append(row)
    return shown


def of(config: Config) -> list[dict[str, Any]]:
    return as_rows(blocks(config))


SIZES = [3, 1, 12, 2, 5, 1, 1, 4]


def test_all_layouts_hold_the_same_rows(tmp_path: Path) -> None:
    table = rows(SIZES)
    flat = write(tmp_path / "flat", table.slice(0, 14), table.slice(14))  # cuts the request of 12 rows
    structs = write(
        tmp_path / "structs", *(nested(t, "request", IMPRESSIONS) for t in (table.slice(0, 14), table.slice(14)))
    )
    lists = write(tmp_path / "lists", nested(table, "request", IMPRESSIONS, lists=True))
    expected = of(configured(flat))
    assert len(expected) == sum(SIZES)
    assert of(configured(flat, request="request")) == expected
    assert of(configured(structs, impressions="impressions")) == expected
    assert of(configured(lists, impressions=IMPRESSIONS)) == expected
    assert plan_input(configured(structs, impressions="impressions"), "train").rows == sum(SIZES)


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_a_slice_of_the_users_keeps_their_requests(layout: str, tmp_path: Path) -> None:
    table = rows(SIZES)
    logs = write(tmp_path / "logs", table if layout == "flat" else nested(table, "request", IMPRESSIONS))
    data = {"request": "request"} if layout == "flat" else {"impressions": "impressions"}
    halves = [UserSlice("user", 3, 0.5, selected) for selected in (True, False)]
    parts = [as_rows(blocks(configured(logs, **data), users)) for users in halves]
    assert all(parts)
    assert sorted(r["id:item"] for part in parts for r in part) == sorted(
        r["id:item"] for r in of(configured(logs, **data))
    )
    for users, part in zip(halves, parts, strict=True):
        alone = as_rows(blocks(configured(logs, **({} if layout == "flat" else data)), users))
        assert part == alone


def test_requests_without_impressions_are_left_out(tmp_path: Path) -> None:
    table = nested(rows(SIZES), "request", IMPRESSIONS)
    kind = table.schema.field("impressions").type
    some = pa.array(
        [None if n == 1 else [] if n in (0, 4) else row for n, row in enumerate(table["impressions"].to_pylist())], kind
    )
    logs = write(tmp_path / "logs", table.set_column(table.schema.get_field_index("impressions"), "impressions", some))
    config = configured(logs, impressions="impressions")
    whole = of(configured(write(tmp_path / "flat", rows(SIZES))))
    assert [r["id:item"] for r in of(config)] == [r["id:item"] for r in whole[4:18] + whole[23:]]
    assert plan_input(config, "train").rows == sum(SIZES) - 9 + 3  # each counts as one in the footers


def test_a_null_request_is_one_of_its_own(tmp_path: Path) -> None:
    table = rows([2, 3])
    logs = write(
        tmp_path / "logs", table.set_column(0, "request", pa.array([None, None, 7, 7, 7], pa.int64())), row_group_size=9
    )
    [block] = blocks(configured(logs, request="request"))
    owner, users = split_requests(block)
    assert (owner.tolist(), len(users)) == ([0, 1, 2, 2, 2], 3)


def test_a_request_of_many_rows_is_cut(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", nested(rows([1, 100_000, 2]), "request", IMPRESSIONS))
    config = configured(logs, impressions="impressions", block_rows=4096)
    found = blocks(config)
    assert max(map(len, found)) <= 4096
    assert sum(map(len, found)) == 100_003
    collator = Collator(config, 64, False)
    batch = collator([found[1].slice(5, 64)])
    assert (len(batch.user_dense), len(batch.request)) == (1, 64)


@pytest.mark.parametrize("feature", ["city", "age", "content", "history"])
def test_a_feature_of_the_user_that_differs_is_named(feature: str, tmp_path: Path) -> None:
    table = rows([3, 4])
    values = table.column(feature).to_pylist()
    values[5] = {"city": "x", "age": 9.0, "content": [7.0, 7.0], "history": [9, 9]}[feature]
    place = table.schema.get_field_index(feature)
    changed = table.set_column(place, feature, pa.array(values, table.schema.field(feature).type))
    logs = write(tmp_path / "logs", changed, row_group_size=100)
    with pytest.raises(DataError) as caught:
        blocks(configured(logs, request="request"))
    text = str(caught.value)
    assert f"part-0.parquet: column `{feature}` (features.{feature}), row 5: " in text
    assert "request 101" in text
    assert f"set features.{feature}.side to `item`" in text


def test_lists_of_unequal_length_are_named(tmp_path: Path) -> None:
    table = nested(rows([3, 4, 2]), "request", IMPRESSIONS, lists=True)
    prices = table.column("price").to_pylist()
    prices[1] = prices[1][:3]
    place = table.schema.get_field_index("price")
    logs = write(tmp_path / "logs", table.set_column(place, "price", pa.array(prices, pa.list_(pa.float32()))))
    with pytest.raises(
        DataError, match=r"column `price` \(data.impressions\), row 1: the list has 3 elements, that of `item` has 4"
    ):
        blocks(configured(logs, impressions=IMPRESSIONS))


def test_a_feature_of_the_user_inside_the_impressions_is_named(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", nested(rows([3, 4]), "request", [*IMPRESSIONS, "city"]))
    with pytest.raises(DataError, match=r"column `city` \(features.city\) is a value of each impression"):
        plan_input(configured(logs, impressions="impressions"), "train")


@pytest.mark.parametrize(
    ("impressions", "said"), [("nothing", "is missing"), ("city", "expected a list of structs"), ("history", "nothing")]
)
def test_a_wrong_column_of_impressions_is_found_before_rows_are_read(
    impressions: str, said: str, tmp_path: Path
) -> None:
    logs = write(tmp_path / "logs", nested(rows([3, 4]), "request", IMPRESSIONS))
    with pytest.raises(DataError) as caught:
        plan_input(configured(logs, impressions=impressions), "train")
    if impressions != "history":  # a list like any other: what is missing are the features
        assert said in str(caught.value)
    assert "part-0.parquet" in str(caught.value)


def batches(config: Config, found: list[pa.Table], size: int) -> list[Batch]:
    collator = Collator(config, size, False)
    return [collator([block.slice(start, size)]) for block in found for start in range(0, len(block), size)]


def test_a_batch_has_the_user_side_once(tmp_path: Path) -> None:
    config = configured(write(tmp_path / "logs", rows([3, 1, 3]), row_group_size=100), request="request")
    [batch] = batches(config, blocks(config), 9)
    assert batch.request.tolist() == [0, 0, 0, 1, 2, 2, 2, 0, 0]
    assert batch.user_dense.tolist() == [[0], [1], [2]]
    assert batch.dense[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0]
    assert batch.sequences["history"].lengths().tolist() == [0, 1, 2, 0, 0, 0, 0, 0, 0]
    assert batch.sequences["item"].lengths().tolist() == [1] * 7 + [0] * 2
    assert batch.sequences["city"].lengths().tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0]


def test_a_batch_of_requests_of_one_row_is_a_plain_one(tmp_path: Path) -> None:
    config = configured(write(tmp_path / "logs", rows([1] * 5), row_group_size=100), request="request")
    [batch] = batches(config, blocks(config), 6)
    assert len(batch.request) == 0
    assert len(batch.user_dense) == 6


def test_slices_hold_the_requests_of_their_rows_alone(tmp_path: Path) -> None:
    config = configured(write(tmp_path / "logs", rows(SIZES), row_group_size=100), request="request", block_rows=100)
    [block] = blocks(config)
    order = shuffled(block, np.random.default_rng(2))
    owner = np.diff(split_requests(block.take(pa.array(order)))[0], prepend=0)
    assert sorted(order.tolist()) == list(range(len(block)))
    assert owner.max() == 1  # requests stay whole
    assert len(split_requests(block.take(pa.array(order)))[1]) == len(SIZES)
    members = 3
    whole = as_rows([block.take(pa.array(order))])
    found = []
    for number, packed in enumerate(cut(block, order, owners(0, len(block), 30, members, True), members)):
        [part] = unpacked([packed], number)
        found += as_rows([part])
        owner, users = split_requests(part)
        assert len(part.column(REQUEST).chunk(0).dictionary) == len(users) < len(SIZES)
    assert found == whole  # neighbours stay neighbours


def test_shares_of_a_step_stand_together() -> None:
    assert owners(0, 10, 7, 3, True).tolist() == [0, 0, 0, 1, 1, 2, 2, 0, 0, 0]
    assert np.bincount(owners(0, 7, 7, 3, True)).tolist() == np.bincount(owners(0, 7, 7, 3)).tolist()


def test_requests_in_any_order_are_renumbered() -> None:
    sides = {"dense:x": pa.array([5.0, 6.0, 7.0], pa.float32())}
    block = pa.table({REQUEST: request_column(np.array([2, 2, 0, 1, 1]), sides), "n": range(5)})
    owner, users = split_requests(block)
    assert (owner.tolist(), users["dense:x"].to_pylist()) == ([0, 0, 1, 2, 2], [7.0, 5.0, 6.0])
    assert own_requests(block.slice(0, 3)).column(REQUEST).chunk(0).dictionary.field(0).to_pylist() == [7.0, 5.0]


@pytest.mark.parametrize("layout", ["request", "nested"])
def test_ids_of_the_user_count_once_per_request(layout: str, tmp_path: Path) -> None:
    table = rows(SIZES)
    logs = write(
        tmp_path / "logs", table if layout == "request" else nested(table, "request", IMPRESSIONS), row_group_size=100
    )
    data: dict[str, Any] = {"request": "request"} if layout == "request" else {"impressions": "impressions"}
    raw = configured(logs, block_rows=100, **data).model_dump(exclude_unset=True)
    for entry in raw["tables"].values():
        entry["id_space"] = "map"
    config = config_from_dict(raw)
    plan = plan_input(config, "train")
    task = _CountTask(config, plan.root, [f for unit in plan.units for f in unit.fragments])
    [found] = task()
    counts = {name: sum(found.column(f"counts:{name}")[0].as_py()) for name in ("user", "city", "item")}
    histories = sum(min(n % 5, 3) for n in range(len(SIZES)))
    assert counts == {"user": len(SIZES), "city": 6, "item": sum(SIZES) + histories}


def test_null_ids_of_requests_are_not_one_request(tmp_path: Path) -> None:
    table = rows([2, 2])
    logs = write(
        tmp_path / "logs", table.set_column(0, "request", pa.array([np.nan, np.nan, 7.0, 7.0])), row_group_size=9
    )
    [block] = blocks(configured(logs, request="request"))
    assert split_requests(block)[0].tolist() == [0, 1, 2, 2]


def test_a_feature_of_the_user_may_be_a_folder_alone(tmp_path: Path) -> None:
    table = nested(rows([2, 0, 3]).drop_columns(["city", "age", "content", "history"]), "request", IMPRESSIONS)
    place = tmp_path / f"ds={DAY}" / "city=de"
    place.mkdir(parents=True)
    pq.write_table(table.select(["impressions"]), place / "part-0.parquet")
    raw = configured(tmp_path, impressions="impressions", group=None).model_dump(exclude_unset=True)
    raw["features"] = {name: raw["features"][name] for name in ("city", "item", "price")}
    raw["tables"] = {name: {"rows": 50} for name in ("city", "item")}
    raw["model"] = {"preset": "shared_bottom"}
    found = of(config_from_dict(raw))
    assert len({row["id:city"] for row in found}) == 1
    assert len(found) == 5


def test_errors_name_the_row_of_the_file(tmp_path: Path) -> None:
    """An empty request in front, and the broken value in the second impression of row 2."""
    table = nested(rows([1, 2, 3]), "request", IMPRESSIONS)
    shown = table.column("impressions").to_pylist()
    shown[0], shown[2][1]["price"] = [], float("inf")
    kind = table.schema.field("impressions").type
    changed = table.set_column(table.schema.get_field_index("impressions"), "impressions", pa.array(shown, kind))
    logs = write(tmp_path / "logs", changed, row_group_size=9)
    with pytest.raises(DataError, match=r"column `price` \(features.price\), row 2: the value is inf"):
        blocks(configured(logs, impressions="impressions", block_rows=100))


def test_a_field_of_a_list_is_found_without_the_setting(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", nested(rows([3, 4]), "request", IMPRESSIONS))
    with pytest.raises(DataError, match=r"a field of the list `impressions`: set data\.impressions to `impressions`"):
        plan_input(configured(logs), "train")


@pytest.mark.parametrize("impressions", [[], "", ["item", "item"]])
def test_impressions_name_columns(impressions: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.impressions"):
        configured(tmp_path, impressions=impressions)
