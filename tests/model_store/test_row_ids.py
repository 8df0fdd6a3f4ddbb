"""Who holds the rows of a `map` table: as columns of a version, read back from it, and compared between two days."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.ids.id_map import IdMap
from raymtl.errors import VersionError
from raymtl.model_store import store as versions
from raymtl.model_store.row_ids import FIELDS, RowIds, changed_map_rows, evicted_ids, read_map, reassigned_rows
from raymtl.model_store.writer import Delta, write_version
from raymtl.storage.object_store import Store
from tests.helpers.version_models import draft, make, mixed_config
from tests.helpers.worker_processes import several

Held = dict[int, tuple[int, int, int]]
"""Row, count and last day of each ID."""


def map_of(held: Held, capacity: int = 12) -> IdMap:
    columns = np.array([[i, *values] for i, values in held.items()], np.int64).reshape(-1, 4).T
    return IdMap.of(capacity, *columns)


def held_of(id_map: IdMap) -> Held:
    columns = (id_map.ids, id_map.rows, id_map.counts, id_map.last_seen)
    return {i: (row, count, day) for i, row, count, day in zip(*(c.tolist() for c in columns), strict=True)}


@st.composite
def some_held(draw: st.DrawFn, capacity: int = 12) -> Held:
    """Few IDs, rows, counts and days, so that two maps often agree."""
    ids = draw(st.lists(st.sampled_from([-(2**63), -3, 0, 1, 2, 3, 2**63 - 1]), unique=True))
    rows = draw(st.permutations(range(1, capacity)))
    rest = st.tuples(st.integers(1, 2), st.sampled_from([0, 20_000]))
    return {i: (row, *draw(rest)) for i, row in zip(ids, rows, strict=False)}


BEFORE: Held = {7: (1, 5, 100), 8: (2, 6, 100), 9: (3, 7, 99), 10: (5, 1, 100)}
# 7 as before, 8 seen again, 9 evicted and its row given to 11, 10 evicted, 12 on a free row
AFTER: Held = {7: (1, 5, 100), 8: (2, 9, 101), 11: (3, 2, 101), 12: (4, 3, 101)}


def test_owners_of_rows() -> None:
    owners = RowIds(map_of(BEFORE))
    ids, counts, days = owners.take(np.array([0, 5, 2, 4, 11, 2]))
    assert [c.type for c in (ids, counts, days)] == [field.type for field in FIELDS]
    assert ids.to_pylist() == [None, 10, 8, None, None, 8]
    assert counts.to_pylist() == [None, 1, 6, None, None, 6]
    assert days.cast(pa.int32()).to_pylist() == [None, 100, 100, None, None, 100]
    assert [c.to_pylist() for c in owners.take(np.empty(0, np.int64))] == [[]] * 3
    assert [c.to_pylist() for c in RowIds(IdMap.empty(12)).take(np.array([0, 3]))] == [[None, None]] * 3


def test_what_a_day_changed() -> None:
    before, after = map_of(BEFORE), map_of(AFTER)
    assert changed_map_rows(before, after).tolist() == [2, 3, 4, 5]
    assert reassigned_rows(before, after).tolist() == [3, 4]
    assert evicted_ids(before, after).tolist() == [9, 10]
    assert changed_map_rows(before, before).tolist() == reassigned_rows(before, before).tolist() == []
    assert evicted_ids(before, before).tolist() == []
    assert changed_map_rows(map_of(BEFORE), map_of({**BEFORE, 10: (6, 1, 100)})).tolist() == [5, 6]
    assert reassigned_rows(map_of(BEFORE), map_of({**BEFORE, 10: (6, 1, 100)})).tolist() == [6]


@given(some_held(), some_held(15), st.lists(st.integers(0, 14)))
def test_owners_against_dictionaries(before: Held, after: Held, rows: list[int]) -> None:
    old, new = map_of(before), map_of(after, 15)  # the table grew
    assert held_of(new) == after
    by_row = [{row: (i, *rest) for i, (row, *rest) in held.items()} for held in (before, after)]
    taken = list(zip(*(c.to_pylist() for c in RowIds(new).take(np.array(rows, np.int64))), strict=True))
    nobody = (None, None, None)
    assert [t[:2] for t in taken] == [by_row[1].get(row, nobody)[:2] for row in rows]
    assert changed_map_rows(old, new).tolist() == [r for r in range(15) if by_row[0].get(r) != by_row[1].get(r)]
    assert reassigned_rows(old, new).tolist() == [
        r for r in range(15) if r in by_row[1] and by_row[0].get(r, nobody)[0] != by_row[1][r][0]
    ]
    assert evicted_ids(old, new).tolist() == sorted(before.keys() - after.keys())
    assert set(reassigned_rows(old, new)) <= set(changed_map_rows(old, new))


# Written with a version, and read back

FIRST: Held = {i: (i % 60 + 1, i, 20_000 + i % 3) for i in range(100, 130)}
SECOND: Held = {
    **{i: values for i, values in FIRST.items() if i % 5},  # a fifth is evicted,
    **{i: (FIRST[i][0], i + 1, 20_005) for i in (101, 102)},  # some are seen again,
    **{-i: (FIRST[i][0], 3, 20_005) for i in (105, 110)},  # some rows go to others,
    2**62: (75, 4, 20_005),  # and one lies beyond the rows there were
}
THIRD: Held = {i: values for i, values in SECOND.items() if i != 101} | {500: (76, 1, 20_006)}


def table_of(rows: int) -> Config:
    raw = mixed_config([None], "rowwise_adagrad").model_dump(mode="json")
    raw["tables"]["item"].update(id_space="map", rows=rows)
    return config_from_dict(raw)


def write_chain(rank: int, workers: int, root: str) -> None:
    """A whole version, one on it of a table that grew, one on that; and one that does not say who holds the rows."""
    store, group = Store.open(root), dist.group.WORLD
    small, large = table_of(61), table_of(80)
    maps = {"one": map_of(FIRST, 61), "two": map_of(SECOND, 80), "three": map_of(THIRD, 80)}
    write_version(make(small), store, draft(small, "one"), group, maps={"item": maps["one"]}, chunk_bytes=700)
    versions.publish(store, "one")
    built = make(large)
    for base, name in (("one", "two"), ("two", "three")):
        rows = {"item": changed_map_rows(maps[base], maps[name])}
        delta = Delta(base, rows, {"item": evicted_ids(maps[base], maps[name])})
        write_version(built, store, draft(large, name), group, maps={"item": maps[name]}, delta=delta, chunk_bytes=700)
        versions.publish(store, name)
    write_version(make(small), store, draft(small, "silent"), group)
    versions.publish(store, "silent")


@pytest.mark.dist
def test_i8_maps_merged_from_deltas_are_the_maps_that_were_written(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    several(1, tmp_path / "write", write_chain, root)
    store = Store.open(root)

    def chain(name: str) -> list[Any]:
        return versions.chain(store, versions.show(store, name))

    for name, held, capacity in (("one", FIRST, 61), ("two", SECOND, 80), ("three", THIRD, 80)):
        found = read_map(store, chain(name), "item")
        assert held_of(found) == held
        assert found.digest == map_of(held, capacity).digest
    three = chain("three")
    assert [m.id for m in three] == ["one", "two", "three"]
    assert sum(f.rows or 0 for f in three[2].tables["item"].files) == 2
    assert pq.read_table(Path(root, "versions/three/expired/item.parquet")).column("id").to_pylist() == [101]
    for table, silent in (("item", "silent"), ("user", "three")):
        with pytest.raises(
            VersionError, match=rf"{chain(silent)[0].id} does not hold .* table `{table}` .*column `count`"
        ):
            read_map(store, chain(silent), table)
