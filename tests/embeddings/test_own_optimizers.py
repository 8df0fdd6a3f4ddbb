"""`trainable: false`: the rows stay bit for bit, there is no state, and no delta holds them; sharded and replicated. And tables
with an optimizer of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.embeddings.rows import table_rows
from raymtl.embeddings.size import table_bytes
from raymtl.errors import ConfigError
from raymtl.model_store import store as versions
from raymtl.model_store.loader import load_version
from raymtl.model_store.writer import Delta, write_version
from raymtl.storage.object_store import Store
from raymtl.training.row_tracker import TouchedRowTracker
from tests.helpers.version_models import contents, draft, make, mixed_config, share, train
from tests.helpers.worker_processes import several

FROZEN = ("item", "city")


def config_of(sharding: list[str | None], frozen: tuple[str, ...] = FROZEN) -> Config:
    raw = mixed_config(sharding).model_dump(mode="json")
    for name in frozen:
        raw["tables"][name] |= {"trainable": False, "vectors": {"path": "/nowhere"}}
    return config_from_dict(raw)


def trained(rank: int, workers: int, sharding: list[str | None], root: str) -> Any:
    """What a model holds before and after some steps, a delta of them, and a model that loads both and trains all tables."""
    config, group = config_of(sharding), dist.group.WORLD
    built, store = make(config), Store.open(root)
    states = {name: table.state_dims for name, table in table_rows(built.model, group).items()}
    before = contents(built)
    write_version(built, store, draft(config, "whole"), group)
    if rank == 0:
        versions.publish(store, "whole")
    tracker = TouchedRowTracker(config)
    for seed in range(3):
        tracker.add(share(config, rank, workers, seed))
    train(built, config, range(3))
    after = contents(built)
    dist.barrier()
    manifest = write_version(built, store, draft(config, "delta"), group, delta=Delta("whole", tracker.rows()))
    if rank == 0:
        versions.publish(store, "delta")
    dist.barrier()
    thawed = config_of(sharding, ())
    again = make(thawed)
    notes = load_version(again, thawed, store, "delta", group).notes
    loaded = contents(again)
    rows = {name: sum(file.rows or 0 for file in entry.files) for name, entry in manifest.tables.items()}
    kinds = {name: entry.optimizer for name, entry in manifest.tables.items()}
    return states, before, after, rows, kinds, loaded, notes


def check(found: Any) -> None:
    states, before, after, rows, kinds, loaded, notes = found
    for name, state in states.items():
        assert torch.equal(before[f"{name} weight"], after[f"{name} weight"]) == (name in FROZEN), name
        assert torch.equal(loaded[f"{name} weight"], after[f"{name} weight"])
        assert (state == {}) == (name in FROZEN)
        assert (rows[name] == 0) == (name in FROZEN)
        assert kinds[name] == ("sgd" if name in FROZEN else "rowwise_adagrad")
        if name not in FROZEN:
            assert torch.equal(loaded[f"{name} momentum1"], after[f"{name} momentum1"])
    assert notes == [
        "the tables' optimizer was sgd in version delta and is now rowwise_adagrad; its state starts fresh"
    ]


@pytest.mark.dist
@pytest.mark.parametrize(
    "sharding", [["row_wise", "table_wise"], ["replicated"], ["column_wise", "replicated"]], ids=str
)
def test_frozen_rows_stay_as_they_are(sharding: list[str | None], tmp_path: Path) -> None:
    for found in several(2, tmp_path / "work", trained, sharding, str(tmp_path / "store")):
        check(found)


def test_a_frozen_table_has_no_state_to_keep() -> None:
    config = config_of(["replicated"])
    sizes = {name: table_bytes(table, "adam") for name, table in config.tables.items()}
    for name, table in config.tables.items():
        assert sizes[name] == 4 * table.rows * table.dim * (1 if name in FROZEN else 3)
    own = config.tables["user"].model_copy(update={"optimizer": "adagrad"})
    assert table_bytes(own, "adam") == 4 * own.rows * own.dim * 2


@pytest.mark.parametrize(("key", "value"), [("lr", 0.1), ("optimizer", "sgd")])
def test_an_optimizer_of_a_frozen_table_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        config_from_dict(
            config_of([None]).model_dump(mode="json")
            | {"tables": {"item": {"rows": 61, "trainable": False, "vectors": {"path": "/v"}, key: value}}}
        )
    assert f"tables.item.{key} is {value}, but the table is not `trainable`; remove one of the two" in str(error.value)


def one_step(rank: int, workers: int, sharding: list[str | None]) -> Any:
    """What the tables hold after the first step, whose gradients depend on no optimizer: with one kind, another, and both."""
    found = []
    for kind, own in (("rowwise_adagrad", None), ("adagrad", None), ("rowwise_adagrad", "adagrad")):
        raw = mixed_config(sharding, kind).model_dump(mode="json")
        raw["tables"]["item"]["optimizer"] = raw["tables"]["city"]["optimizer"] = own
        config = config_from_dict(raw)
        built = make(config)
        train(built, config, range(1))
        found.append(contents(built))
    return found


@pytest.mark.dist
@pytest.mark.parametrize(
    "sharding", [["row_wise", "table_wise"], ["replicated"], ["column_wise", "replicated"]], ids=str
)
def test_a_table_may_have_its_own_optimizer(sharding: list[str | None], tmp_path: Path) -> None:
    row_wise, full, both = several(2, tmp_path / "work", one_step, sharding)[0]
    for key, value in both.items():
        name = key.partition(" ")[0]
        if name in ("item", "city", "user", "tags"):
            torch.testing.assert_close(value, (full if name in ("item", "city") else row_wise)[key], rtol=0, atol=0)
    assert both["item momentum1"].shape == (61, 16)
    assert not torch.equal(row_wise["item weight"], full["item weight"])


def with_frozen(defaults: dict[str, Any], **frozen: Any) -> Config:
    """The configuration with defaults of tables, `item` frozen."""
    raw = config_of([None]).model_dump(mode="json", exclude_unset=True)
    item = {"rows": 61, "trainable": False, "vectors": {"path": "/v"}, **frozen}
    raw["tables"] = {name: {"rows": table["rows"]} for name, table in raw["tables"].items()} | {"item": item}
    return config_from_dict(raw | {"table_defaults": defaults})


def test_defaults_for_updates_are_not_for_frozen_tables() -> None:
    config = with_frozen({"lr": 0.1, "optimizer": "sgd"})
    assert (config.tables["item"].lr, config.tables["item"].optimizer) == (None, None)
    others = [table for name, table in config.tables.items() if name != "item"]
    assert others
    assert all((table.lr, table.optimizer) == (0.1, "sgd") for table in others)


def test_a_default_that_no_table_uses_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"table_defaults.lr is 0.1, but no table is `trainable`; remove one"):
        with_frozen({"lr": 0.1, "trainable": False})


def test_a_frozen_table_needs_vectors() -> None:
    with pytest.raises(
        ConfigError, match=r"tables.item is not `trainable` and has no `vectors`, so its rows would stay random"
    ):
        with_frozen({}, vectors=None)
