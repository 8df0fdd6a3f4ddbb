"""A version goes into any number of workers and any sharding: the same rows one by one, the same logits, the same next steps."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.errors import UserError
from raymtl.model_store import store as versions
from raymtl.model_store.loader import load_version
from raymtl.model_store.row_ids import read_map
from raymtl.model_store.writer import write_version
from raymtl.storage.object_store import Store
from tests.helpers.version_models import contents, draft, logits, make, mixed_config, owned, train
from tests.helpers.worker_processes import several

BEFORE, AFTER = range(4), range(4, 7)


def publish_some(rank: int, workers: int, root: str, runs: list[tuple[str, list[str | None], str]]) -> list[Any]:
    """Train, write and publish a version for each (name, sharding, optimizer)."""
    answers = []
    for name, sharding, optimizer in runs:
        config = mixed_config(sharding, optimizer, clip_grad_norm=1.0)
        built = make(config)
        train(built, config, BEFORE)
        maps = {"item": owned(range(1001, 1061))}
        store = Store.open(root)
        # chunks of a few rows and files of a few chunks
        manifest = write_version(
            built, store, draft(config, name), dist.group.WORLD, maps=maps, chunk_bytes=600, file_bytes=1200
        )
        if rank == 0:
            versions.publish(store, name)
        dist.barrier()
        kept, seen = contents(built), logits(built, config)
        answers.append((manifest, kept, seen, train(built, config, AFTER)))
    return answers


def load_some(rank: int, workers: int, root: str, runs: list[tuple[str, list[str | None], str]]) -> list[Any]:
    answers = []
    for name, sharding, optimizer in runs:
        config = mixed_config(sharding, optimizer, clip_grad_norm=1.0)
        built = make(config)
        restored = load_version(built, config, Store.open(root), name, dist.group.WORLD)
        kinds = set(built.sharding.values())
        kept, seen = contents(built), logits(built, config)
        answers.append((restored.notes, kinds, kept, seen, train(built, config, AFTER)))
    return answers


@pytest.mark.dist
def test_from_two_workers_to_one_three_and_four(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    saved = [
        ("rows", ["row_wise"], "rowwise_adagrad"),
        ("mixed", ["column_wise", "table_wise", "row_wise", "table_wise"], "adagrad"),
        ("plain", ["table_wise", "row_wise"], "sgd"),
        ("columns", ["column_wise"], "rowwise_adagrad"),
        ("copies", ["replicated"], "rowwise_adagrad"),
    ]
    loaded = {
        1: [(n, ["table_wise"], o) for n, _, o in saved],
        3: [(n, ["row_wise"], o) for n, _, o in saved],
        4: [(n, ["table_wise", "row_wise"], o) for n, _, o in saved[:3]]
        + [("mixed", ["column_wise"], "adagrad"), ("rows", ["replicated"], "rowwise_adagrad")]
        + [("mixed", ["replicated", "column_wise"], "adagrad"), ("copies", ["replicated"], "rowwise_adagrad")],
    }
    originals = several(2, tmp_path / "save", publish_some, root, saved)
    for workers, runs in loaded.items():
        answers = several(workers, tmp_path / f"load-{workers}", load_some, root, runs)[0]
        for (name, sharding, _), (notes, kinds, kept, seen, gone_on) in zip(runs, answers, strict=True):
            manifest, before, logits_before, after = originals[0][[n for n, _, _ in saved].index(name)]
            assert notes == []
            assert kinds == set(sharding)
            assert kept.keys() == before.keys()
            for key, value in before.items():
                assert torch.equal(kept[key], value), f"{name} on {workers}: {key}"
            torch.testing.assert_close(seen, logits_before, rtol=0, atol=1e-6)
            # row-wise Adagrad that trained under column-wise sharding is another optimizer (docs/checkpoints.md)
            exact = name != "columns"
            torch.testing.assert_close(torch.tensor(gone_on), torch.tensor(after), rtol=0, atol=1e-6 if exact else 5e-3)
    for (_, _, optimizer), (manifest, *_) in zip(saved, originals[0], strict=True):
        state = {"rowwise_adagrad": {"momentum1": 1}, "adagrad": {"momentum1": 16}, "sgd": {}}[optimizer]
        # also of a table that lies on the second worker alone
        assert [t.state for t in manifest.tables.values()] == [state] * 4
        assert {t.optimizer for t in manifest.tables.values()} == {optimizer}
    manifest = originals[0][0][0]
    assert manifest.tables["user"].rows == 51
    assert sum(f.rows for f in manifest.tables["user"].files) == 51
    assert {f.path.split("-")[1] for f in manifest.tables["user"].files} == {"0", "1"}  # both workers wrote
    assert len(manifest.tables["user"].files) > 2  # and more than one file each
    check_the_files(root, manifest, originals[0][0][1])


def check_the_files(root: str, manifest: Any, kept: dict[str, torch.Tensor]) -> None:
    """Any system reads the rows of a table: here pyarrow alone, without raymtl."""
    table = pq.read_table(f"{root}/versions/rows/tables/item").sort_by("row")
    assert table.column_names == ["row", "id", "count", "last_seen_day", "embedding", "momentum1"]
    assert table.column("row").to_pylist() == list(range(61))
    assert table.column("id").to_pylist() == [None, *range(1001, 1061)]
    assert table.schema.field("embedding").type.list_size == 16
    assert torch.equal(torch.tensor(table.column("embedding").to_pylist()), kept["item weight"])
    assert torch.equal(torch.tensor(table.column("momentum1").to_pylist()), kept["item momentum1"])
    assert read_map(Store.open(root), [manifest], "item").digest == owned(range(1001, 1061)).digest


def changed(change: dict[str, Any], optimizer: str = "rowwise_adagrad") -> Any:
    raw = mixed_config([None], optimizer).model_dump(mode="json")
    for path, value in change.items():
        *keys, last = path.split(".")
        inner = raw
        for key in keys:
            inner = inner[key]
        inner[last] = value
    return config_from_dict(raw)


def load_changed(rank: int, workers: int, root: str, cases: list[tuple[str, dict[str, Any], str]]) -> list[Any]:
    """For each case: contents before and after loading, and notes; or the error, and whether the model was touched."""
    answers = []
    for name, change, optimizer in cases:
        config = changed(change, optimizer)
        built = make(config)
        before = contents(built)
        try:
            notes = load_version(built, config, Store.open(root), name, dist.group.WORLD).notes
            answers.append((before, contents(built), notes))
        except UserError as error:
            after = contents(built)
            answers.append((str(error), error.exit_code, all(torch.equal(after[k], before[k]) for k in before)))
    return answers


@pytest.mark.dist
def test_tables_that_changed(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    saved = [("v", ["row_wise", "table_wise"], "rowwise_adagrad")]
    _, kept, _, _ = several(2, tmp_path / "save", publish_some, root, saved)[0][0]
    direct = {"tables.city.id_space": "direct"}
    cases = [
        ("v", {"tables.user.rows": 153}, "rowwise_adagrad"),
        ("v", {}, "adagrad"),
        ("v", {"tables.device": {"rows": 9}, "features.city.table": "device", "tables.city": None}, "rowwise_adagrad"),
        ("v", {"tables.user.rows": 52}, "rowwise_adagrad"),
        ("v", {"tables.user.rows": 17}, "rowwise_adagrad"),
        ("v", {"tables.user.dim": 8}, "rowwise_adagrad"),
        ("v", direct, "rowwise_adagrad"),
        ("v", {"model.towers.hidden": [12]}, "rowwise_adagrad"),
        ("nobody", {}, "rowwise_adagrad"),
    ]
    cases[2][1].pop("tables.city")
    cases[2][1]["features.city2"] = {"kind": "id", "table": "city", "column": "city"}
    answers = several(2, tmp_path / "load", load_changed, root, cases)[0]
    grown, other_kind, fresh, larger, smaller, dim, space, model, nobody = answers
    # three times as many rows: row r is that of r mod 51, since (h mod 153) mod 51 = h mod 51
    for key in ("weight", "momentum1"):
        assert torch.equal(
            grown[1][f"user {key}"], kept[f"user {key}"].repeat(3, *[1] * (kept[f"user {key}"].dim() - 1))
        )
    assert "grew from 51 to 153" in grown[2][0]
    assert torch.equal(other_kind[1]["user weight"], kept["user weight"])
    assert other_kind[1]["user momentum1"].eq(0).all()
    assert "was rowwise_adagrad" in other_kind[2][0]
    assert "is of another model" in fresh[0]  # a feature more is another model
    for error, word in ((larger, "multiple"), (smaller, "multiple"), (dim, "tables.user.dim is 8")):
        assert word in error[0]
        assert "\n" not in error[0]
    assert "tables.city.id_space is direct" in space[0]
    assert "shape" in model[0]
    assert "no version `nobody`" in nobody[0]
    for error in (fresh, larger, smaller, dim, space, model, nobody):
        assert error[1:] == (66, True), error


@pytest.mark.dist
def test_nothing_is_loaded_from_a_damaged_version(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    several(1, tmp_path / "save", publish_some, root, [("v", [None], "rowwise_adagrad")])
    folder = tmp_path / "store/versions/v"
    parts = sorted((folder / "tables/user").glob("*.parquet"))
    whole = parts[1].read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    messages = []
    for n, content in enumerate((bytes(flipped), whole[:-9], None)):
        parts[1].unlink(missing_ok=True)
        if content is not None:
            parts[1].write_bytes(content)
        messages.append(several(2, tmp_path / f"load-{n}", load_changed, root, [("v", {}, "rowwise_adagrad")])[1][0])
    for (message, code, untouched), word in zip(messages, ("damaged", "bytes instead of", "missing"), strict=True):
        assert parts[1].name in message
        assert word in message
        assert "nothing was loaded" in message
        assert (code, untouched) == (66, True)
