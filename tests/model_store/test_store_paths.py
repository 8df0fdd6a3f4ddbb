"""What stands in a store cannot lead a reader, or one that removes, out of it."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from raymtl.errors import VersionError
from raymtl.model_store import commit_log
from raymtl.model_store.manifest import FileEntry, parse_manifest
from raymtl.model_store.store import gc, list_versions, publish, rollback, show, verify
from raymtl.storage.object_store import Store
from tests.helpers.fake_versions import write

OUTSIDE = [
    "../../precious",
    "/precious",
    "..",
    "a/../../../precious",
    "",
    ".",
    "a//b",
    "a/./b",
    "a\\..\\b",
    "a\0b",
    "~/x",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "kept").write_text("kept")
    store = Store.open(str(tmp_path / "store"))
    write(store, "a")
    publish(store, "a")
    return store


@pytest.fixture(autouse=True)
def _kept(store: Store, tmp_path: Path) -> Iterator[None]:
    yield
    assert (tmp_path / "precious" / "kept").read_text() == "kept"


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_manifest_names_files_of_its_own_folder(store: Store, path: str) -> None:
    raw = json.loads(show(store).dump())
    for change in (
        {"files": [raw["files"][0] | {"path": path}]},
        {"tables": {path: raw["tables"]["user"]}},
        {"base": path},
        {"id": path},
        {"parent": path},
    ):
        with pytest.raises(VersionError, match="is damaged"):
            parse_manifest(json.dumps(raw | change).encode(), "manifest.json", "restore it")
    with pytest.raises(ValueError, match="not a path below"):
        FileEntry(path=path, bytes=1, sha256="")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("field", ["version", "current"])
def test_the_log_names_versions(store: Store, tmp_path: Path, name: str, field: str) -> None:
    entry = asdict(commit_log.newest(store)) | {"number": 2, field: name}
    (tmp_path / "store" / "log" / "00000002.json").write_text(json.dumps(entry))
    for work in (lambda: gc(store, 1), lambda: rollback(store), lambda: list_versions(store), lambda: verify(store)):
        with pytest.raises(VersionError, match="cannot name a version"):
            work()


def test_removing_does_not_follow_links(store: Store, tmp_path: Path) -> None:
    (tmp_path / "store" / "versions" / "link").symlink_to(tmp_path / "precious")
    write(store, "b")
    (tmp_path / "store" / "versions" / "b" / "inner").symlink_to(tmp_path / "precious")
    assert set(gc(store, 1).leftovers) == {"link", "b"}
    assert not (tmp_path / "store" / "versions" / "b").exists()
