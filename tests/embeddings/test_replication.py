"""Which tables are replicated, by the bytes of a step; and what `raymtl plan` says of it."""

from dataclasses import replace
from typing import Any

import pytest

from raymtl.config.root import Config
from raymtl.embeddings.planning import dry_plan
from raymtl.embeddings.replication import choose_replicated
from raymtl.embeddings.sharding import Machine
from raymtl.embeddings.tables import describe_lookup
from tests.helpers.worker_processes import mixed_config

CPU = Machine(workers=2, device="cpu", workers_per_node=2, memory_bytes=16 << 30)


def with_rows(sharding: str | None = None, batch_size: int = 2048, **rows: int) -> Config:
    raw = mixed_config([None], rows=batch_size).model_dump(mode="json")
    for name, count in rows.items():
        raw["tables"][name] |= {"rows": count, "sharding": sharding}
    return Config(**raw)


def chosen(config: Config, machine: Machine) -> dict[str, str]:
    return choose_replicated(config, describe_lookup(config), machine, config.train.batch_size // machine.workers)


def test_small_tables_are_replicated_on_the_cpu_and_those_that_ask_everywhere() -> None:
    config = with_rows()
    assert list(chosen(config, CPU)) == list(config.tables)
    assert chosen(config, replace(CPU, device="cuda")) == {}
    asked = with_rows("replicated", user=51)
    assert chosen(asked, replace(CPU, device="cuda")) == {"user": "set by `sharding`"}
    assert "user" not in chosen(with_rows("row_wise", user=51), CPU)


def test_a_table_with_fewer_bytes_to_exchange_stays_sharded() -> None:
    """By hand, with 16 workers of 4,096 rows and 16 columns of 4 bytes: the all-reduce of 65,536 touched rows is 8 MiB; vectors
    and IDs of 4,096 rows are 0.5 MiB."""
    config = with_rows(batch_size=65_536, user=1_000_000)
    machine = replace(CPU, workers=16)
    found = chosen(config, machine)
    assert "user" not in found
    assert set(found) == {"city", "tags", "item"}  # they touch fewer rows than they would exchange vectors
    # 4,096 rows: 0.5 MiB to reduce
    assert "user" in chosen(with_rows(batch_size=65_536, user=4096), machine)
    # 12,288 rows: 1 MiB more than its exchange, which costs less than collectives that no other table then needs
    assert "nothing is exchanged" in chosen(with_rows(batch_size=65_536, user=12_288), machine)["user"]
    # with another table that is sharded the collectives are there anyway
    raw = with_rows(batch_size=65_536, user=12_288).model_dump(mode="json")
    raw["tables"]["city"]["sharding"] = "row_wise"
    assert set(chosen(Config(**raw), machine)) == {"tags", "item"}


def test_replicated_tables_take_a_bounded_memory() -> None:
    assert "user" in chosen(with_rows(user=1_000_000), CPU)  # 68 MB
    assert "user" not in chosen(with_rows(user=10_000_000), CPU)


def test_a_plan_chooses_as_training_does() -> None:
    """Training does not know the memory of a worker on a CPU, and a plan does."""
    config = with_rows(user=1_000_000)
    assert chosen(config, replace(CPU, memory_bytes=1 << 30)) == chosen(config, replace(CPU, memory_bytes=None))


def test_a_single_worker_replicates_its_tables_only_if_all_are_small() -> None:
    alone = replace(CPU, workers=1)
    assert len(chosen(with_rows(), alone)) == 4
    assert chosen(with_rows(user=100_000), alone) == {}


def plan(config: Config, **more: Any) -> Any:
    return dry_plan(config, **{"workers": 4, "memory_bytes": 1 << 30, "device": "cpu", "workers_per_node": 4} | more)


def test_the_plan_counts_replicas_on_every_rank_and_their_gradients() -> None:
    found = plan(with_rows("replicated", user=1_000_000))
    user = next(t for t in found.tables if t.table == "user")
    assert (user.sharding, user.ranks, user.reason) == ("replicated", [0, 1, 2, 3], "set by `sharding`")
    assert min(found.rank_bytes) >= user.bytes == 68_000_000
    assert found.fits
    # at most 2,048 rows of the user and all rows of the others, each 3/4 of it twice
    touched = 2048 + sum(t.rows for t in found.tables if t.table != "user")
    assert found.sent["replicated_inside"] == pytest.approx(2 * 3 / 4 * touched * 16 * 4)
    assert found.sent["ids_inside"] == found.sent["vectors_inside"] == 0


def test_replicas_that_do_not_fit_are_named() -> None:
    found = plan(with_rows("replicated", user=20_000_000))
    assert not found.fits
    assert "replicated tables take 1.27 GiB of each" in found.problem
