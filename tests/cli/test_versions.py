"""`raymtl versions` as a user types it, on runs that were made without Ray."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.cli.main import run_command
from raymtl.config.load import config_from_dict, dump_config
from raymtl.daily.record import Record, write_record
from raymtl.errors import CheckpointError, StorageError, VersionError
from raymtl.model_store.commit_log import utc_now
from raymtl.model_store.lease import acquire
from raymtl.model_store.loader import check_fits as version_fits
from raymtl.model_store.loader import load_version
from raymtl.model_store.store import publish, show
from raymtl.model_store.writer import write_version
from raymtl.storage.object_store import Store
from raymtl.training import checkpoint
from raymtl.training.progress import Progress
from raymtl.training.shapes import check_fits
from tests.helpers.fake_versions import write
from tests.helpers.version_models import DAYS, contents, draft, make, mixed_config, train
from tests.helpers.worker_processes import several


def finish_runs(rank: int, workers: int, root: str) -> dict[str, torch.Tensor]:
    """Two finished runs; returns what the second one's checkpoint holds."""
    config = mixed_config(["row_wise", "column_wise"], workers=workers)
    built = make(config)
    for name, seeds in (("first", range(2)), ("second", range(2, 4))):
        train(built, config, seeds)
        run = Path(root, name)
        folder = run / "checkpoint_000000"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(built, Progress(step=seeds.stop, rows=24 * seeds.stop), str(folder), dist.group.WORLD, False)
        if rank == 0:
            (run / "config.yaml").write_text(dump_config(config))
            result = {
                "status": "finished",
                "data_range": DAYS,
                "metrics": {"eval": {"click": {"auc": 0.6 + seeds.stop / 100}}, "scenarios": {}},
            }
            (run / "result.json").write_text(json.dumps(result))
    return contents(built)


def load_it(rank: int, workers: int, root: str) -> dict[str, torch.Tensor]:
    config = mixed_config(["row_wise"])
    built = make(config)
    load_version(built, config, Store.open(root), None, dist.group.WORLD)
    return contents(built)


def command(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """The JSON object of a command, or what it said on standard error."""
    assert run_command(["versions", *arguments, "--json"]) == code
    said = capfd.readouterr()
    return json.loads(said.out.strip().splitlines()[-1]) if said.out.strip() else said.err


def another_model_is_told_before_anything_starts(checkpoint: Path, root: Path) -> None:
    """By names and shapes, of a checkpoint and of a version, in a process that has neither the model nor Ray."""
    store, raw = Store.open(str(root)), mixed_config([None]).model_dump(mode="json")
    newest = show(store)
    same = config_from_dict(raw | {"train": raw["train"] | {"workers": 3, "balance": {"type": "uncertainty"}}})
    with pytest.raises(CheckpointError, match=r"it has no `head\.balancer"):
        check_fits(same, str(checkpoint))
    for config in (mixed_config([None]), mixed_config(["column_wise", "row_wise"], workers=2)):
        check_fits(config, str(checkpoint))
        version_fits(config, store, newest)
    wide = config_from_dict(raw | {"tables": raw["tables"] | {"item": raw["tables"]["item"] | {"dim": 8}}})
    with pytest.raises(
        CheckpointError, match=r"`unpooled\.embeddings\.t_item\.weight` has shape .61, 16. there and .61, 8. here"
    ):
        check_fits(wide, str(checkpoint))
    with pytest.raises(VersionError, match=r"tables\.item\.dim is 8 and version two has 16"):
        version_fits(wide, store, newest)
    towers = config_from_dict(raw | {"model": raw["model"] | {"towers": {"hidden": [12]}}})
    with pytest.raises(CheckpointError, match=r"head\.ranker\.coupler.*shape .2, 8. there and .2, 12. here"):
        check_fits(towers, str(checkpoint))
    with pytest.raises(VersionError, match=r"head\.ranker\.towers.*shape .2, 8, 16. there and .2, 12, 16. here"):
        version_fits(towers, store, newest)


@pytest.mark.dist
def test_publish_look_verify_roll_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    saved = several(2, tmp_path / "save", finish_runs, str(runs))[0]
    store = ["--store", str(tmp_path / "store")]
    assert command(capfd, "list", *store) == {"versions": [], "lease": None}
    first = command(capfd, "publish", str(runs / "first"), *store)["version"]
    assert first.startswith("2026-01-01-")
    published = command(capfd, "publish", str(runs / "second"), *store, "--version", "two")
    assert published["counts"] == {"rows": 96, "steps": 4}
    again = several(1, tmp_path / "load", load_it, str(tmp_path / "store"))[0]
    assert again.keys() == saved.keys()
    for key, value in saved.items():  # the checkpoint of two workers, through one process, into another
        assert torch.equal(again[key], value), key
    listed = command(capfd, "list", *store)["versions"]
    assert [(v["id"], v["current"]) for v in listed] == [("two", True), (first, False)]
    assert command(capfd, "show", *store)["metrics"]["eval"]["click"]["auc"] == 0.64
    assert command(capfd, "diff", first, *store)["metrics"] == {"eval.click.auc": [0.62, 0.64]}
    assert command(capfd, "verify", *store)["faults"] == []
    another_model_is_told_before_anything_starts(runs / "first/checkpoint_000000", tmp_path / "store")
    assert command(capfd, "rollback", *store) == {"current": first, "was": "two"}
    assert command(capfd, "gc", "--keep", "1", *store) == {"versions": [], "leftovers": [], "dry_run": False}
    versions = tmp_path / "store/versions"
    for number, left in enumerate(("old", "refused", "killed"), start=1):
        (versions / left).mkdir()
        (versions / left / "manifest.json").touch()
        if left != "killed":
            day = dt.date(2026, 1, number)
            record = Record(date=day, status="refused", config_hash="", parent=None, version=left, started=utc_now())
            write_record(Store.open(store[1]), record)
    removed = command(capfd, "gc", "--keep", "1", *store)  # as many of the daily job's own as of what is published
    assert removed == {"versions": [], "leftovers": ["killed", "old"], "dry_run": False}
    assert {path.name for path in versions.iterdir()} == {first, "two", "refused"}
    part = next((tmp_path / "store/versions/two/tables/user").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    assert part.name in command(capfd, "verify", "two", *store, code=66)["faults"][0]
    assert "is incomplete" in command(capfd, "rollback", "two", *store, code=66)
    with acquire(Store.open(store[1]), "daily 2026-01-05"):
        refused = command(capfd, "publish", str(runs / "second"), *store, code=75)
        assert "for `daily 2026-01-05` since" in refused
        assert command(capfd, "list", *store)["lease"]["purpose"] == "daily 2026-01-05"
    (runs / "second/result.json").unlink()
    assert "has not finished" in command(capfd, "publish", str(runs / "second"), *store, code=66)
    assert list((tmp_path / "store/lease").iterdir()) == []
    for shown in (["list"], ["show"], ["diff", first, "two"], ["verify"]):
        assert run_command(["versions", *shown, *store]) == 0
    text = capfd.readouterr().out
    assert all(word in text for word in ("current", first, "rowwise_adagrad", "+0.02", "match the manifest"))


def write_and_fail(rank: int, workers: int, root: str, limit: int) -> Any:
    """What each worker says when the second one's disk is full, or what is left of its space if not."""
    config = mixed_config(["column_wise", "row_wise"])
    built = make(config)
    store = Store.open(root)
    if rank == 1:
        from raymtl.storage import object_store

        write = object_store.Output.write

        def full(self: Any, data: Any) -> int:
            nonlocal limit
            limit -= len(data)
            if limit < 0:
                with store.errors("write"):
                    raise OSError(28, "No space left on device")
            return write(self, data)

        object_store.Output.write = full  # type: ignore[method-assign]
    try:
        write_version(built, store, draft(config, "v"), dist.group.WORLD, chunk_bytes=500)
    except StorageError as error:
        return str(error)
    return limit


@pytest.mark.dist
@pytest.mark.parametrize("limit", [100, 4000])
def test_one_workers_full_disk_stops_all_and_publishes_nothing(limit: int, tmp_path: Path) -> None:
    root = tmp_path / "store"
    answers = several(2, tmp_path / "work", write_and_fail, str(root), limit)
    assert all("No space left on device" in answer for answer in answers)
    assert not list(root.glob("versions/v/manifest.json"))
    assert not list(root.glob("log/*"))


def test_metrics_are_written_as_in_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(tmp_path))
    for name, auc, error, rows in (("one", 0.7, 2.0, b"rows"), ("two", 0.7123456, 1.9, b"r" * 2**20)):
        click = {"kind": "binary", "auc": auc, "ne": 0.9, "calibration": 1.1}
        spend = {"kind": "real", "mse": error, "constant_mse": 3 * error, "calibration": 1.0123, "count": 900}
        spend["intervals"] = {"mse": [error / 2, error * 2]}
        metrics = {"eval": {"click": click, "spend": spend}, "mean_auc": auc, "rows": 1000}
        write(store, name, rows, metrics=metrics | {"order_violation_rate": {"overall": auc / 10}})
        publish(store, name)
    assert run_command(["versions", "show", "--store", str(tmp_path)]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "task click AUC 0.7123 NE 0.9000 calibration 1.100" in shown
    assert "task spend MSE 1.900 (.950–3.80) calibration 1.012" in shown
    assert run_command(["versions", "diff", "one", "--store", str(tmp_path)]) == 0
    assert [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()] == [
        "counts one two change",
        "size 0.0 KiB 1.0 MiB +1.0 MiB",
        "",
        "metrics both on 1,000 held-out rows of 2026-01-01",
        "metrics one two change",
        "click AUC 0.7000 0.7123 +0.0123",
        "spend MSE 2.000 1.900 −0.1000",
        "spend MSE of a constant 6.000 5.700 −0.3000",
        "mean AUC 0.7000 0.7123 +0.0123",
        "rows out of order 7.00 % 7.12 % +0.12 %",
    ]
