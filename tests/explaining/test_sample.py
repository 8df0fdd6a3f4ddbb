"""Samples of logs, and columns of them that are exchanged."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raymtl.config.data import DayRange
from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.slots.sequence import PooledSequence
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.explaining import sample as module
from raymtl.explaining.association import associations
from raymtl.explaining.cost import bytes_per_row, memory_of, tables_of
from raymtl.explaining.proposal import without
from raymtl.explaining.sample import Sample, SampleReader, columns_beside, source_columns
from tests.helpers.run_logs import DAYS
from tests.helpers.served_version import served_config, user_map, write_logs

DAY = DayRange(start=dt.date.fromisoformat(DAYS[1]), end=dt.date.fromisoformat(DAYS[1]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_logs(folder)
    return folder


def reader(root: Path) -> SampleReader:
    id_map = user_map()
    return SampleReader(served_config(root), {"user": IdLookup.build(id_map.ids, id_map.rows)})


def same(a: pa.Array, b: pa.Array) -> bool:
    """Whether two columns are equal, NaN like NaN."""
    return a.equals(b) or (pa.types.is_floating(a.type) and np.array_equal(a.to_numpy(), b.to_numpy(), equal_nan=True))


def read(root: Path, rows: int, seed: int = 0) -> Sample:
    made = reader(root)
    return made.read(made.plan(str(root / "logs"), DAY), rows, seed)


def test_every_feature_is_read_from_its_columns(root: Path) -> None:
    found = source_columns(served_config(root))
    assert found["user"] == ["user", "pair", "visit"]
    assert found["price"] == ["price", "level", "cost", "pair"]
    assert found["history"] == ["history", "again", "gap"]
    assert found["tags"] == ["tags", "topics"]
    assert found["likes"] == ["likes"]
    assert not {"gap", "tag_weights"} & found.keys()  # they change with the lists that they stand beside
    assert found["place"] == ["place", "visit"]
    assert "rank" not in found  # a position is read by no prediction


def test_a_sample_has_complete_users_and_is_the_same_again(root: Path) -> None:
    whole, some = read(root, 10_000), read(root, 100)
    assert whole.rows == whole.of_rows == 300
    assert 50 < some.rows < 200
    users = set(some.raw.column("user").to_pylist())
    expected = sum(user in users for user in whole.raw.column("user").to_pylist())
    assert expected == some.rows
    assert read(root, 100).raw.equals(some.raw)
    assert set(read(root, 100, seed=1).raw.column("user").to_pylist()) != users


def test_requests_make_no_difference(root: Path) -> None:
    config = served_config(root)
    data = config.data.model_copy(update={"request": "user"})
    made = SampleReader(config.model_copy(update={"data": data}), {})
    found, expected = made.read(made.plan(str(root / "logs"), DAY), 100, 0), read(root, 100)
    assert found.raw.equals(expected.raw)
    assert found.columns.keys() == expected.columns.keys()


def test_many_row_groups_are_not_all_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPREAD", 1)
    sizes = {read(root, 100, seed).rows for seed in range(6)}
    assert 100 in sizes  # all rows of the smaller file
    assert max(sizes) < 150


def test_exchanged_columns_change_all_that_is_made_of_them(root: Path) -> None:
    made, rows = reader(root), read(root, 10_000)
    order = np.random.default_rng(0).permutation(rows.rows)
    values = {name: rows.raw.column(name).take(pa.array(order)) for name in ("price", "place")}
    raw = rows.raw
    for name, column in values.items():
        raw = raw.set_column(raw.column_names.index(name), name, column)
    expected = made.maker.features(raw, Place("all", 0), [n for n in served_config(root).features if n != "rank"])
    found = made.with_columns(rows, values)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert same(found[name], column), name
    untouched = {name for name in found if same(found[name], rows.columns[name])}
    assert {"id:user", "id:item", "ids:history", "ids:again", "ids:tags", "dense:age"} | {
        *("vector:content", "vector:text", "numbers:gap"),
        *("ids:topics", "weights:topics", "ids:likes", "weights:likes"),
    } == untouched


def test_what_stands_beside_a_list_is_exchanged_with_it(root: Path) -> None:
    made, rows = reader(root), read(root, 10_000)
    order = np.random.default_rng(0).permutation(rows.rows)
    for column, names in (("history", {"history", "gap"}), ("tags", {"tags", "tag_weights"}), ("likes", {"likes"})):
        values = rows.rows_of([column], order)
        assert values.keys() == names
        found = made.with_columns(rows, values)
        for name in found:
            moved = name.partition(":")[2] in source_columns(served_config(root))[column]
            expected = rows.columns[name].take(pa.array(order)) if moved and "pair" not in name else rows.columns[name]
            assert same(found[name], expected), name
    lists = associations(rows.raw.select(["likes", "tags"]), set(), 0)
    assert lists.shape == (2, 2)


def history_config(**features: dict[str, object]) -> Config:
    """Two histories of the same steps, behind other features."""
    return config_from_dict(
        {
            "name": "histories",
            "data": {"path": "/nowhere", "train": {"start": "2026-01-02", "end": "2026-01-02"}},
            "features": {
                **features,
                "item": {"kind": "id"},
                "seen": {"kind": "sequence", "column": "items"},
                "action": {"kind": "sequence"},
                "tags": {"kind": "ids", "weights": "a_weight"},
            },
            "tables": {name: {"rows": 100} for name in ("item", "seen", "action", "tags")},
            "tasks": {"click": {}},
            "model": {
                "preset": "shared_bottom",
                "sequence": {"type": "transformer", "behaviours": {"seen": ["seen", "action"]}},
            },
        }
    )


@pytest.mark.parametrize("first", [{}, {"gap": {"kind": "sequence_dense", "of": "seen"}}])
def test_the_column_of_the_ids_stands_for_those_beside_it(first: dict[str, dict[str, object]]) -> None:
    config = history_config(**first)
    assert columns_beside(config) == {"tags": ["a_weight"], "items": ["action", *first]}
    assert source_columns(config) == {"items": [*first, "seen", "action"], "item": ["item"], "tags": ["tags"]}


def test_a_history_is_left_out_with_the_numbers_above_it() -> None:
    config = history_config(gap={"kind": "sequence_dense", "of": "seen"})
    pooled = {"model": config.model.model_copy(update={"sequence": PooledSequence(type="pooled")})}
    assert [*without(config.model_copy(update=pooled), ["items"]).features] == ["item", "action", "tags"]


def test_histories_of_the_same_steps_are_exchanged_together() -> None:
    lists = pa.array([[1], [1, 2], [], [3, 4, 5]])
    raw = pa.table({"item": pa.array([1, 2, 3, 4]), "items": lists, "action": lists, "tags": lists, "a_weight": lists})
    config = history_config()
    made, maker = SampleReader(config, {}), BlockMaker(config, evaluation=False)
    columns = maker.features(raw, Place("all", 0), [*config.features])
    nothing = torch.zeros(4, 1)
    rows = Sample(raw, columns, nothing, nothing, None, torch.arange(4), 4, columns_beside(config))
    order = np.array([3, 0, 1, 2])
    values = rows.rows_of(["items"], order)
    assert values.keys() == {"items", "action"}
    found = made.with_columns(rows, values)
    for name in columns:
        moved = name in ("ids:seen", "ids:action")
        assert same(found[name], columns[name].take(pa.array(order)) if moved else columns[name]), name


def test_files_of_other_types_are_one_sample(tmp_path: Path) -> None:
    """IDs that pandas turned into doubles beside integers beyond their reach, numbers of two widths, and nulls of no type."""
    days = tmp_path / "logs" / "ds=2026-01-02"
    days.mkdir(parents=True)
    large = 2**60 + 1
    label = np.arange(50) % 2
    pq.write_table(
        pa.table({"item": pa.array([large] * 50), "price": np.ones(50, np.float32), "tag": pa.nulls(50), "y": label}),
        days / "a.parquet",
    )
    pq.write_table(
        pa.table({"item": [7.0, None] * 25, "price": np.full(50, 2), "tag": ["t"] * 50, "y": label}), days / "b.parquet"
    )
    config = config_from_dict(
        {
            "name": "mixed",
            "data": {"path": str(tmp_path / "logs"), "train": {"start": "2026-01-02", "end": "2026-01-02"}},
            "features": {"item": {"kind": "id"}, "price": {"kind": "dense"}, "tag": {"kind": "id"}},
            "tables": {"item": {"rows": 100}, "tag": {"rows": 10}},
            "tasks": {"y": {}},
            "model": {"preset": "shared_bottom"},
        }
    )
    made = SampleReader(config, {})
    rows = made.read(made.plan(config.data.path, DAY), 1000, 0)
    assert sorted(rows.raw.column("item").unique().to_pylist(), key=str) == [large, 7, None]
    again = made.with_columns(rows, {name: rows.raw.column(name) for name in ("item", "price", "tag")})
    assert all(same(again[name], column) for name, column in rows.columns.items())


def test_costs_are_those_of_the_footers_and_tables(root: Path) -> None:
    made, config = reader(root), served_config(root)
    plan = made.plan(str(root / "logs"), DAY)
    sizes = bytes_per_row(plan, list(source_columns(config)))
    size = rows = 0
    for path in (root / "logs" / f"ds={DAYS[1]}").iterdir():
        footer = pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            size += sum(
                column.total_compressed_size
                for n in range(footer.num_columns)
                if (column := footer.row_group(group).column(n)).path_in_schema.startswith("history.")
            )
        rows += footer.num_rows
    assert sizes["history"] == pytest.approx(size / rows)
    assert all(value > 0 for value in sizes.values())
    assert set(tables_of(config, ["user"])) == {"user", "pair", "visit"}
    assert tables_of(config, ["history"]) == []  # the item is in the same table
    assert set(tables_of(config, ["history", "item", "likes"])) == {"item", "pair"}
    assert memory_of(config, ["user"], {"user": 1, "pair": 10, "item": 100}) == 11
