"""Planning without a GPU: where tables go, how full the ranks get, and what is said when they do not fit."""

import pytest

from raymtl.config.features import Table
from raymtl.config.root import Config
from raymtl.embeddings import sharding
from raymtl.embeddings.planning import dry_plan, parse_bytes, table_bytes
from raymtl.embeddings.sharding import _shard_columns
from raymtl.errors import ConfigError
from raymtl.words import gib
from tests.helpers.worker_processes import mixed_config


def with_rows(rows: int, sharding: str | None = None) -> Config:
    raw = mixed_config([None]).model_dump(mode="json")
    raw["tables"]["user"] |= {"rows": rows, "dim": 64, "sharding": sharding}
    return Config(**raw)


def plan(config: Config, gpus: int, memory: str = "80GB"):
    return dry_plan(config, workers=gpus, memory_bytes=parse_bytes(memory), device="cuda", workers_per_node=8)


def test_bytes_of_a_table_with_its_optimizer() -> None:
    table = Table(rows=10, dim=8)
    assert {o: table_bytes(table, o) for o in ("sgd", "rowwise_adagrad", "adagrad", "adam")} == {
        "sgd": 320,
        "rowwise_adagrad": 360,
        "adagrad": 640,
        "adam": 960,
    }


def test_every_table_is_placed_and_the_ranks_add_up() -> None:
    config = with_rows(50_000_000)
    found = plan(config, 4)
    assert found.fits
    assert {t.table for t in found.tables} == set(config.tables)
    assert sum(found.rank_bytes) == pytest.approx(sum(t.bytes for t in found.tables), rel=1e-6)
    assert all(planned >= held for held, planned in zip(found.rank_bytes, found.rank_planned_bytes, strict=True))
    assert 0 < found.reserved_bytes < found.memory_bytes


def test_a_table_larger_than_a_gpu_is_spread() -> None:
    found = plan(with_rows(400_000_000), 4)  # 104 GB with its state
    user = next(t for t in found.tables if t.table == "user")
    assert user.sharding == "row_wise"
    assert user.ranks == [0, 1, 2, 3]


def test_a_wish_is_honoured() -> None:
    found = plan(with_rows(1000, "column_wise"), 2)
    assert next(t for t in found.tables if t.table == "user").sharding == "column_wise"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_single_worker_has_the_plan_of_a_free_choice(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = mixed_config([None])

    def planned() -> dict[str, object]:
        return dry_plan(config, workers=1, memory_bytes=80 << 30, device=device, workers_per_node=1).to_dict()

    found = planned()
    monkeypatch.setattr(sharding, "_ALONE", sharding._CHOICES)
    assert planned() == found


def test_what_does_not_fit_is_named_with_the_remedy() -> None:
    found = plan(with_rows(400_000_000), 1)
    assert not found.fits
    assert found.problem is not None
    assert all(part in found.problem for part in ("`user`", "GiB", "At least 2"))


@pytest.mark.parametrize(("text", "size"), [("80GB", 80e9), ("40GiB", 40 * 2**30), ("512 MB", 512e6), ("1000", 1000)])
def test_amounts_of_memory(text: str, size: float) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "80XB", "GB"])
def test_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="not an amount of memory"):
        parse_bytes(text)


def test_sizes_for_people() -> None:
    assert gib(3 * 2**30) == "3.00 GiB"
    assert gib(5 * 2**20) == "5.0 MiB"
    assert gib(5 * 2**10) == "5.0 KiB"


def test_the_optimizers_state_takes_part_in_the_plan() -> None:
    config = with_rows(120_000_000)  # 31 GB of weights, 92 GB with Adam's moments
    assert plan(config, 1).fits
    adam = config.model_dump(mode="json")
    adam["train"]["sparse_optimizer"] = {"type": "adam"}
    assert not plan(Config(**adam), 1).fits


def test_a_table_that_long_histories_read_is_spread() -> None:
    config = with_rows(1000).model_dump(mode="json")
    config["train"]["batch_size"] = 16 * 4096
    read = {n: f for n, f in config["features"].items() if f["kind"] == "sequence"}
    table = next(f["table"] or n for n, f in read.items())
    config["tables"][table]["rows"] = 1_000_000
    for feature in read.values():
        feature["max_length"] = 200
    found = plan(Config(**config), 16)
    assert next(t for t in found.tables if t.table == table).ranks == list(range(16))


def test_the_plan_says_what_a_step_sends() -> None:
    found = plan(with_rows(400_000_000), 16)
    user = next(t for t in found.tables if t.table == "user")
    assert user.sharding == "row_wise"
    rows = max(1, with_rows(1).train.batch_size // 16)
    # the partial sums for 15 other ranks pass through each rank; a machine of eight sends them on over eight adapters
    assert found.sent["vectors_inside"] >= 15 * rows * 64 * 4
    assert found.sent["vectors_between"] >= 15 * rows * 64 * 4 / 8
    assert plan(with_rows(1000), 1).sent == dict.fromkeys(found.sent, 0)


@pytest.mark.parametrize("dim", range(4, 132, 4))
def test_the_shards_of_a_column_wise_table_are_equal_and_fit_the_kernels(dim: int) -> None:
    width = _shard_columns(dim)
    assert dim % width == 0 == width % 4
    assert width == dim // 4 or dim % 16, "four shards wherever they fit"
