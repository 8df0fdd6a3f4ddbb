"""Logs, run folder, checkpoints and versions on a real S3 server, which fails now and then."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raymtl.config.load import config_from_dict
from raymtl.errors import DataError, StorageError
from raymtl.model_store import store as versions
from raymtl.model_store.publish_run import publish_run
from raymtl.storage import retry
from raymtl.storage.object_store import Store
from raymtl.storage.paths import join_path
from raymtl.training import driver
from raymtl.training.checkpoint_folders import checkpoints
from raymtl.training.rundir import RunFolder
from tests.helpers.run_logs import DAYS, small_config, write_part
from tests.helpers.s3_server import ENVIRONMENT, S3, Proxy, s3_server

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in ENVIRONMENT.items():
            patch.setenv(key, value)
        with s3_server() as found:
            yield found


def raw_config(server: S3, name: str, port: int | None = None, **train: Any) -> dict[str, Any]:
    raw = small_config(Path("unused"), Path("unused"), name, **train)
    raw["output"] = server.url("runs", port)
    raw["data"] |= {"path": server.url("logs", port), "unit_rows": 100}
    return raw


@pytest.mark.ray
def test_a_run_with_everything_on_s3(ray_cluster: None, server: S3, tmp_path: Path) -> None:
    for n, rows in enumerate((150, 90, 60)):
        write_part(tmp_path, DAYS[0], f"part-{n}.parquet", rows, seed=n)
    write_part(tmp_path, DAYS[1], "part-0.parquet", 80, seed=9)
    server.upload(str(tmp_path), "logs")
    proxy = Proxy(server.port, seed=1)
    try:
        config = config_from_dict(raw_config(server, "first", proxy.port, batch_size=32))
        result = driver.train(config)
        assert (result["rows_trained"], result["rows_left_out"]) == (300, 0)
        folder = join_path(server.url("runs"), "first")
        assert len(checkpoints(RunFolder.open(folder))) == config.train.checkpoint.keep
        assert json.loads(RunFolder.open(folder).read_text("result.json") or "")["rows_trained"] == 300
        assert len((RunFolder.open(folder).read_text("metrics.jsonl") or "").splitlines()) >= 2
        # Each part of the checkpoint is read from S3 itself, though a tenth of the requests fail
        proxy.failing, proxy.failed = 0.1, 0
        store = Store.open(server.url("store", proxy.port))
        manifest = publish_run(
            join_path(server.url("runs", proxy.port), "first"),
            store,
            checkpoint=None,
            version="first",
            check_lease=lambda: None,
        )
        assert proxy.failed > 0
    finally:
        proxy.close()
    store = Store.open(server.url("store"))
    assert versions.show(store).id == manifest.id == "first"
    assert versions.verify(store, manifest.id) == []


def test_the_operations_that_versions_need(server: S3) -> None:
    store = Store.open(server.url("plain"))
    assert store.read("a/b") is None
    store.write("a/b", b"one")
    store.create("a/c", b"two")
    with pytest.raises(FileExistsError):
        store.create("a/c", b"three")
    assert (store.names("a"), store.files("a")) == (["b", "c"], {"b": 3, "c": 3})
    assert store.sha256_of("a/c") == ("3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3", 3)
    store.remove("a/b")
    store.remove("a/b")
    assert store.names("a") == ["c"]


def test_a_bucket_that_is_not_there(server: S3) -> None:
    raw = raw_config(server, "lost")
    raw["data"]["path"] = raw["data"]["path"].replace("bucket", "no-such-bucket")
    with pytest.raises((DataError, StorageError), match="no-such-bucket"):
        driver.prepare(config_from_dict(raw))


def test_a_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSES_S", ())  # Arrow itself has tried for seconds then
    gone = S3()
    gone.close()
    with pytest.raises(StorageError, match=r"cannot (read|list|open)"):
        driver.prepare(config_from_dict(raw_config(gone, "gone")))
