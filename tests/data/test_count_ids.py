"""The counting pass: every feature of a table, every kind of ID, as the reading tasks look them up."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data import count_ids as module
from raymtl.data.count_ids import Tally, count_ids
from raymtl.data.ids.counts import IdCounts
from raymtl.data.ids.hashing import hash_strings
from raymtl.data.units import plan_input
from raymtl.errors import ConfigError, DataError
from tests.helpers.in_process_scan import scan_in_process
from tests.helpers.small_data import make_config, write_file

DAYS = ("2026-01-01", "2026-01-02")
FIRST = 20454  # 2026-01-01


def rows_of_day(seed: int, rows: int = 300) -> pa.Table:
    random = np.random.default_rng(seed)
    lists = [random.integers(0, 30, n).tolist() for n in random.integers(0, 6, rows)]
    lists[3], lists[4] = None, [1, None, 2]
    users = [f"u{n}" for n in random.integers(0, 20, rows)]
    return pa.table(
        {
            "user": pa.array(users, mask=random.random(rows) < 0.1),
            "item": pa.array(random.integers(-5, 30, rows), mask=random.random(rows) < 0.1),
            "history": pa.array(lists, pa.list_(pa.int64())),
            "other": pa.array(random.integers(0, 9, rows)),
            "click": pa.array((random.random(rows) < 0.4).astype(np.float32)),
        }
    )


def configured(root: Path, **data: Any) -> Config:
    features = {
        "user": {"kind": "id"},
        "item": {"kind": "id"},
        "history": {"kind": "sequence", "table": "item", "max_length": 2},
        "other": {"kind": "id"},
    }
    tables = {name: {"rows": 100, "id_space": "map"} for name in ("user", "item")}
    train = {"start": DAYS[0], "end": DAYS[1]}
    return make_config(features, tables=tables, path=str(root), train=train, **data)


def expected(parts: list[tuple[int, pa.Table]]) -> dict[str, tuple[dict[int, int], dict[int, int]]]:
    """By table: the count and the last day of each ID, one row after another."""
    counts: dict[str, Counter[int]] = {"user": Counter(), "item": Counter()}
    last: dict[str, dict[int, int]] = {"user": {}, "item": {}}
    for day, table in parts:
        words = [u for u in table.column("user").to_pylist() if u is not None]
        seen = {"user": hash_strings(pa.array(words)).tolist(), "item": table.column("item").drop_null().to_pylist()}
        for history in table.column("history").to_pylist():
            seen["item"] += [i for i in history or [] if i is not None][-2:]
        for name, ids in seen.items():
            counts[name].update(ids)
            for i in ids:
                last[name][i] = max(day, last[name].get(i, 0))
    return {name: (dict(counts[name]), last[name]) for name in counts}


def as_dicts(counts: IdCounts) -> tuple[dict[int, int], dict[int, int]]:
    assert (np.diff(counts.ids) > 0).all()
    ids = counts.ids.tolist()
    return dict(zip(ids, counts.counts.tolist(), strict=True)), dict(zip(ids, counts.last_seen.tolist(), strict=True))


@pytest.fixture
def parts(tmp_path: Path) -> list[tuple[int, pa.Table]]:
    """Two days, the second in two files of several row groups, one of them below an hour."""
    parts = [(FIRST, rows_of_day(0)), (FIRST + 1, rows_of_day(1)), (FIRST + 1, rows_of_day(2))]
    write_file(tmp_path, parts[0][1], DAYS[0], group_rows=70)
    write_file(tmp_path, parts[1][1], DAYS[1], group_rows=100)
    write_file(tmp_path, parts[2][1], DAYS[1], "hour=00/part-0.parquet")
    return parts


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "scan", scan_in_process)


def test_every_lookup_is_counted_once(tmp_path: Path, parts: list, in_process: None) -> None:
    for data in ({}, {"unit_rows": 150, "block_rows": 50}):
        config = configured(tmp_path, **data)
        heard: list[tuple[int, int]] = []
        counts = count_ids(config, plan_input(config, "train"), 2, lambda *at, into=heard: into.append(at))
        assert {name: as_dicts(c) for name, c in counts.items()} == expected(parts)
        assert heard[-1] == (900, 900)
    assert len(heard) > 3


@pytest.mark.ray
def test_the_pass_on_a_cluster_finds_the_same(ray_cluster: None, tmp_path: Path, parts: list) -> None:
    config = configured(tmp_path, unit_rows=150, block_rows=50)
    plan = plan_input(config, "train")
    counts = count_ids(config, plan, 2)
    assert {name: as_dicts(c) for name, c in counts.items()} == expected(parts)
    path = next(tmp_path.glob(f"ds={DAYS[0]}/*.parquet"))
    text = path.read_bytes()
    path.write_bytes(text[:200] + b"#" * 400 + text[600:])
    with pytest.raises(DataError, match=r"part-0.parquet: cannot be read from row"):
        count_ids(config, plan, 2)


def test_without_map_tables_nothing_is_read(tmp_path: Path, parts: list) -> None:
    config = make_config(path=str(tmp_path), features={"item": {"kind": "id"}})
    assert count_ids(config, plan_input(config, "train"), 2) == {}


@given(st.lists(st.tuples(st.lists(st.integers(-4, 9), max_size=30), st.integers(0, 3)), max_size=9))
def test_chunks_merge_to_the_counts_of_all(chunks: list[tuple[list[int], int]]) -> None:
    tally, counts, last = Tally(), Counter[int](), dict[int, int]()
    for ids, day in chunks:
        tally.add(IdCounts.of(np.array(ids, np.int64), day))
        counts.update(ids)
        last |= {i: max(day, last.get(i, 0)) for i in ids}
    assert as_dicts(tally.total()) == (dict(counts), last)


def test_what_is_held_while_counting_is_bounded_by_the_distinct_ids() -> None:
    tally, random = Tally(), np.random.default_rng(0)
    for _ in range(400):
        tally.add(IdCounts.of(random.integers(0, 5000, 800), 0))
        assert sum(map(len, tally._chunks)) <= 2 * 5000
    assert tally.total().counts.sum() == 400 * 800


@pytest.mark.parametrize(
    ("tables", "match"),
    [
        ({"item": {"rows": 1, "id_space": "map"}}, r"tables.item.rows is 1; a `map` table .* needs 2 or more"),
        ({"item": {"rows": 9, "admit_count": 3}}, r"tables.item.admit_count is 3, but its id_space is `hash`"),
        ({"item": {"rows": 9, "id_space": "direct", "evict_after_days": 3}}, r"evict_after_days is 3.*`direct`"),
    ],
)
def test_keys_of_a_map_are_refused_elsewhere(tables: dict[str, Any], match: str) -> None:
    raw = make_config().model_dump(mode="json") | {"tables": tables}
    with pytest.raises(ConfigError, match=match):
        config_from_dict(raw)


def test_defaults_for_maps_may_stand_beside_other_tables() -> None:
    raw = make_config(features={"item": {"kind": "id"}, "user": {"kind": "id"}}).model_dump(mode="json")
    raw |= {"table_defaults": {"admit_count": 3, "evict_after_days": 30}}
    raw |= {"tables": {"item": {"rows": 9, "id_space": "map", "admit_count": 1}, "user": {"rows": 9}}}
    config = config_from_dict(raw)
    assert (config.tables["item"].admit_count, config.tables["item"].evict_after_days) == (1, 30)
    assert config_from_dict(config.model_dump(mode="json")) == config  # as it is saved in the run's folder
    assert config.map_tables() == ["item"]
