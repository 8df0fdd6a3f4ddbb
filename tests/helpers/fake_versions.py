"""Versions without a model in them: what the store needs to know of one."""

import datetime as dt
import hashlib
from typing import Any

from raymtl.model_store.manifest import NAME, FileEntry, Manifest, TableEntry
from raymtl.storage.object_store import Output, Store


def write(store: Store, name: str, rows: bytes = b"rows", **more: Any) -> Manifest:
    """A version of two small files, as a writer leaves it before it is published."""
    files = []
    for path, data in (("dense.safetensors", b"weights"), ("tables/user/part-0-0.parquet", rows)):
        with Output(store, f"versions/{name}/{path}") as output:
            output.write(data)
        files.append(FileEntry(path=path, bytes=output.bytes, sha256=output.sha256))
    assert files[1].sha256 == hashlib.sha256(rows).hexdigest()
    table = {"rows": 10, "dim": 4, "id_space": "hash", "optimizer": "sgd", "state": {}, "columns": ["row", "embedding"]}
    values: dict[str, Any] = {
        "id": name,
        "parent": None,
        "created": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "code": {"raymtl": "0"},
        "config": {"train": {"lr": 0.1, "workers": 2}},
        "config_hash": "0",
        "data_range": {"train": ["2026-01-01", "2026-01-01"]},
        "counts": {"rows": 5},
        "metrics": {"eval": {"click": {"auc": 0.7}}},
        "base_rates": {},
        "tables": {"user": TableEntry(**table, files=[files[1]])},
        "files": [files[0]],
    }
    manifest = Manifest(**{**values, **more})
    store.write(f"versions/{name}/{NAME}", manifest.dump())
    return manifest
