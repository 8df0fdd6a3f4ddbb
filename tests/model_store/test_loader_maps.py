"""A version of `map` tables goes into any number of workers: every ID has the same embedding and optimizer state, and gives
the same logits."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.data.ids.id_map import UNKNOWN_ROW, IdMap
from raymtl.embeddings.rows import reset_rows, table_rows
from raymtl.model_store import store as versions
from raymtl.model_store.loader import load_version
from raymtl.model_store.row_ids import changed_map_rows, evicted_ids, read_map, reassigned_rows
from raymtl.model_store.writer import Delta, write_version
from raymtl.storage.object_store import Store
from raymtl.training.build import TrainState
from raymtl.training.row_tracker import TouchedRowTracker
from tests.helpers.version_models import contents, draft, logits, make, mixed_config
from tests.helpers.worker_processes import mixed_block, several

CAPACITY = {"user": 51, "item": 61}
POOL = range(1000, 1090)
"""IDs that rows are looked up by; the maps know about half of them."""

ById = dict[tuple[str, int | None], dict[str, torch.Tensor]]
"""Embedding and state of each table's IDs, and of its unknown row (None)."""


def mapped_config(sharding: list[str | None]) -> Config:
    raw = mixed_config(sharding).model_dump(mode="json")
    for table in CAPACITY:
        raw["tables"][table]["id_space"] = "map"
    return config_from_dict(raw)


def map_of(capacity: int, ids: list[int], rows: np.ndarray) -> IdMap:
    return IdMap.of(capacity, np.array(ids), rows, np.arange(len(ids)) + 5, np.full(len(ids), 20_000))


def two_days(capacity: int) -> tuple[IdMap, IdMap]:
    """Two maps on shuffled rows: IDs are evicted in between, others get their rows, or free rows."""
    rows = 1 + np.random.default_rng(capacity).permutation(capacity - 1)
    ids = list(POOL[:40])
    later = [i + 45 if i % 4 == 0 else i for i in ids if i % 5] + [1088, 1089]
    kept = np.array([row for i, row in zip(ids, rows, strict=False) if i % 5])
    return map_of(capacity, ids, rows[:40]), map_of(capacity, later, np.concatenate([kept, rows[40:42]]))


def batch_of_ids(config: Config, maps: dict[str, IdMap], seed: int) -> Batch:
    """This worker's part of a batch of IDs, many of them unknown, on the rows that the maps give them."""
    rank, workers, rows = dist.get_rank(), dist.get_world_size(), config.train.batch_size
    random = np.random.default_rng(seed)
    ids = {name: random.choice(POOL, rows) for name in CAPACITY}
    histories = random.choice(POOL, (rows, 4))
    block = mixed_block(config, rows, seed)
    columns = {f"id:{name}": pa.array(maps[name].lookup.rows(ids[name])) for name in CAPACITY}
    found = maps["item"].lookup.rows(histories.ravel()).reshape(rows, 4).tolist()
    columns["ids:history"] = pa.array(found, pa.list_(pa.int64()))
    for name, column in columns.items():
        block = block.set_column(block.column_names.index(name), name, column)
    batch = Collator(config, rows // workers, False)([block.slice(rank * rows // workers, rows // workers)])
    batch.totals = Collator(config, rows, False)([block]).totals
    return batch


def train_by_ids(built: TrainState, config: Config, maps: dict[str, IdMap], seeds: range) -> TouchedRowTracker:
    touched = TouchedRowTracker(config)
    for seed in seeds:
        batch = batch_of_ids(config, maps, seed)
        touched.add(batch)
        built.optimizers.zero_grad()
        built.model(batch)[0].backward()
        built.optimizers.step()
    return touched


def by_id(built: TrainState, maps: dict[str, IdMap]) -> ById:
    """Read off the model itself, with the map to say which row is whose."""
    kept = contents(built)
    found: ById = {}
    for table, id_map in maps.items():
        values = {key: kept[f"{table} {key}"] for key in ("weight", "momentum1")}
        rows = [(None, UNKNOWN_ROW), *zip(id_map.ids.tolist(), id_map.rows.tolist(), strict=True)]
        found |= {(table, i): {key: value[row] for key, value in values.items()} for i, row in rows}
    return found


def write_two_days(rank: int, workers: int, root: str) -> tuple[ById, torch.Tensor, ById, torch.Tensor]:
    """A whole version, and one on it as a delta; the IDs' rows and the logits of each."""
    store, group = Store.open(root), dist.group.WORLD
    config = mapped_config(["row_wise", "table_wise", "row_wise"])
    built = make(config)
    days = {table: two_days(capacity) for table, capacity in CAPACITY.items()}
    old, new = ({table: pair[n] for table, pair in days.items()} for n in range(2))
    train_by_ids(built, config, old, range(4))
    write_version(built, store, draft(config, "whole"), group, maps=old, chunk_bytes=600)
    first = by_id(built, old), logits(built, config, batch_of_ids(config, old, 99))
    tables = table_rows(built.model, group)
    for table in CAPACITY:
        reset_rows(tables[table], reassigned_rows(*days[table]), config.tables[table].init, config.train.seed)
    rows = train_by_ids(built, config, new, range(4, 6)).rows()
    for table in CAPACITY:
        rows[table] = np.union1d(rows[table], changed_map_rows(*days[table]))
    delta = Delta("whole", rows, {table: evicted_ids(*days[table]) for table in CAPACITY})
    if rank == 0:
        versions.publish(store, "whole")
    dist.barrier()
    write_version(built, store, draft(config, "delta"), group, maps=new, delta=delta, chunk_bytes=600)
    if rank == 0:
        versions.publish(store, "delta")
    return *first, by_id(built, new), logits(built, config, batch_of_ids(config, new, 99))


def maps_in(store: Store, version: str) -> dict[str, IdMap]:
    chain = versions.chain(store, versions.show(store, version))
    return {table: read_map(store, chain, table) for table in CAPACITY}


def load_both(rank: int, workers: int, root: str, sharding: list[str | None]) -> list[Any]:
    """What each version is in a model of another number of workers, with the maps that the version itself has."""
    store, config, answers = Store.open(root), mapped_config(sharding), []
    built = make(config)
    for version in ("whole", "delta"):
        load_version(built, config, store, version, dist.group.WORLD)
        maps = maps_in(store, version)
        answers += [by_id(built, maps), logits(built, config, batch_of_ids(config, maps, 99))]
    return answers


@pytest.mark.dist
def test_every_id_from_two_workers_to_one_three_and_four(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    written = several(2, tmp_path / "write", write_two_days, root)[0]
    whole, _, delta, _ = written
    assert len(whole) == 2 * 41
    assert len(delta) == 2 * 35
    stayed = [key for key in whole.keys() & delta.keys() if not torch.equal(whole[key]["weight"], delta[key]["weight"])]
    came = [key for key in delta.keys() - whole.keys() if delta[key]["momentum1"].any()]
    assert stayed  # the delta's day trained IDs of the day before,
    assert came  # and new ones
    loaded: dict[int, list[str | None]] = {1: [None], 3: ["row_wise"], 4: ["replicated", "row_wise"]}
    for workers, sharding in loaded.items():
        answers = several(workers, tmp_path / f"load-{workers}", load_both, root, sharding)[0]
        for name, kept, before in zip(("whole", "delta"), answers[::2], written[::2], strict=True):
            assert kept.keys() == before.keys()
            for (table, i), values in before.items():
                for key, value in values.items():
                    assert torch.equal(kept[table, i][key], value), f"{name} on {workers}: {key} of {table} {i}"
        for seen, before in zip(answers[1::2], written[1::2], strict=True):
            torch.testing.assert_close(seen, before, rtol=0, atol=1e-6)
