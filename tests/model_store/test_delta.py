"""A base and its deltas are the whole version, bit for bit, and a delta is as small as what changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.embeddings.rows import decay_state, table_rows
from raymtl.errors import VersionError
from raymtl.model_store import store as versions
from raymtl.model_store.loader import load_version
from raymtl.model_store.writer import Delta, write_version
from raymtl.storage.object_store import Store
from tests.helpers.version_models import contents, draft, make, mixed_config, owned, train
from tests.helpers.worker_processes import several


def config_of(sharding: list[str | None], optimizer: str, rows: int) -> Any:
    raw = mixed_config(sharding, optimizer).model_dump(mode="json")
    raw["tables"]["city"].update(id_space="direct", rows=rows)
    raw["features"] |= {
        "likes": {"kind": "ids", "weights": "likes"},
        "gap": {"kind": "sequence_dense", "of": "history"},
    }
    raw["tables"]["likes"] = {"rows": 33, "sharding": sharding[0]}
    return config_from_dict(raw)


def changed_since(built: Any, before: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Rows that differ, by comparing all; each worker names a part of them, some of them twice."""
    now = contents(built)
    found = {}
    for name in table_rows(built.model, dist.group.WORLD):
        differs = (now[f"{name} weight"] != before[f"{name} weight"]).any(1).nonzero()[:, 0].numpy()
        own = differs[dist.get_rank() :: dist.get_world_size()]
        found[name] = np.concatenate([own[::-1], own[:1]])
    return found


def write_three(rank: int, workers: int, root: str, sharding: list[str | None], optimizer: str) -> Any:
    """A whole version and two deltas on it; returns what the model held at the end, and what a bad delta says."""
    config = config_of(sharding, optimizer, 30)
    built = make(config)
    store, group = Store.open(root), dist.group.WORLD
    train(built, config, range(2))
    write_version(built, store, draft(config, "whole"), group, chunk_bytes=700)
    for turn, name in enumerate(("one", "two")):
        if rank == 0:
            versions.publish(store, ("whole", "one")[turn])
        dist.barrier()
        before, decay = contents(built), (1.0, 0.9)[turn]
        for table in table_rows(built.model, group).values():
            decay_state(table, decay)
        train(built, config, range(2 + turn, 3 + turn))
        expired = {"item": np.array([9, 7, 9])} if turn else {}
        delta = Delta(("whole", "one")[turn], changed_since(built, before), expired, decay)
        maps = {"item": owned(range(1, 61 - turn))}
        write_version(built, store, draft(config, name), group, maps=maps, delta=delta, chunk_bytes=700)
    if rank == 0:
        versions.publish(store, "two")
    dist.barrier()
    other = config_of(sharding, "sgd", 30)
    try:
        write_version(make(other), store, draft(other, "bad"), group, delta=Delta("two", {}))
        said = "nothing"
    except VersionError as error:
        said = str(error)
    return contents(built), said


def load_it(rank: int, workers: int, root: str, optimizer: str, rows: int) -> Any:
    config = config_of(["row_wise", "table_wise"], optimizer, rows)
    built = make(config)
    fresh = contents(built)
    notes = load_version(built, config, Store.open(root), "two", dist.group.WORLD).notes
    return fresh, contents(built), notes


@pytest.mark.dist
@pytest.mark.parametrize(
    ("sharding", "optimizer"),
    [
        (["row_wise", "table_wise"], "rowwise_adagrad"),
        (["column_wise"], "adagrad"),
        (["replicated"], "rowwise_adagrad"),
    ],
)
def test_i8_base_and_deltas_equal_the_full_version(sharding: list[str], optimizer: str, tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    kept, said = several(2, tmp_path / "write", write_three, root, sharding, optimizer)[1]
    _, loaded, notes = several(1, tmp_path / "load", load_it, root, optimizer, 30)[0]
    assert notes == []
    for key, value in kept.items():
        assert torch.equal(loaded[key], value), key
    assert "write a full version" in said
    store = Store.open(root)
    two = versions.show(store)
    assert two.base == "one"
    assert sum(f.rows or 0 for f in two.tables["user"].files) < 51  # only what changed
    assert pq.read_table(Path(root, "versions/two/expired/item.parquet")).column("id").to_pylist() == [7, 9]
    assert not any("expired" in file.path for file in versions.show(store, "one").files)
    assert versions.verify(store) == []
    part = Path(root, "versions/whole", versions.show(store, "whole").tables["user"].files[0].path)
    part.write_bytes(b"")
    assert "versions/whole/tables/user" in versions.verify(store, "two")[0]  # a delta is no better than its base


def grow(rank: int, workers: int, root: str) -> Any:
    """A delta of a table that grew; only row 3 is named."""
    store, group = Store.open(root), dist.group.WORLD
    small, large = config_of([None], "sgd", 30), config_of([None], "sgd", 40)
    built = make(small)
    train(built, small, range(2))
    write_version(built, store, draft(small, "whole"), group)
    versions.publish(store, "whole")
    built = make(large)
    load_version(built, large, store, "whole", group)
    with torch.no_grad():
        table_rows(built.model, dist.group.WORLD)["city"].local[0].weight[3] = 5.0
    write_version(built, store, draft(large, "two"), group, delta=Delta("whole", {"city": np.array([3])}))
    versions.publish(store, "two")
    shrunk = config_of([None], "sgd", 20)
    try:
        write_version(make(shrunk), store, draft(shrunk, "bad"), group, delta=Delta("two", {}))
        said = "nothing"
    except VersionError as error:
        said = str(error)
    return contents(built), said


@pytest.mark.dist
def test_a_table_that_grew(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    kept, said = several(1, tmp_path / "write", grow, root)[0]
    _, loaded, _ = several(2, tmp_path / "load", load_it, root, "sgd", 40)[0]
    assert torch.equal(loaded["city weight"], kept["city weight"])
    assert "has 20 rows and 40" in said
    two = versions.show(Store.open(root))
    written = {name: sum(f.rows or 0 for f in t.files) for name, t in two.tables.items()}
    assert written == {"user": 0, "city": 11, "tags": 0, "item": 0, "likes": 0}
