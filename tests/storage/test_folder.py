import pickle
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow.fs as pafs
import pytest

from raymtl.errors import DataError, StorageError
from raymtl.storage import retry
from raymtl.storage.folder import Folder
from tests.helpers.faulty_storage import Faults, register


@pytest.fixture(params=["local", "url", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
    return Folder.open({"local": f"{tmp_path}/a", "url": f"file://{tmp_path}/a", "memory": "memory://a"}[request.param])


def test_what_is_written_is_read_and_listed(folder: Folder) -> None:
    assert (folder.read("x"), folder.read_text("b/x"), folder.names(), folder.files("b")) == (None, None, [], {})
    assert folder.kind() == pafs.FileType.NotFound
    folder.write("b/y", b"12")
    folder.write("b/c/x", "ä")
    folder.write("b/y", b"123")
    folder.write("b/.hidden", b"")
    assert (folder.read("b/y"), folder.read_text("b/c/x")) == (b"123", "ä")
    assert (folder.names(), folder.names("b")) == (["b"], ["c", "y"])
    assert folder.files("b") == {".hidden": 0, "c/x": 2, "y": 3}
    assert [folder.kind(name) for name in ("b", "b/y", "z")] == [
        pafs.FileType.Directory,
        pafs.FileType.File,
        pafs.FileType.NotFound,
    ]
    for _ in range(2):  # what is gone is removed
        folder.remove("b/y")
        folder.remove_folder("b/c")
    assert folder.files() == {"b/.hidden": 0}
    folder.remove_folder()
    assert folder.files() == {}


def test_a_child_is_the_same_place(folder: Folder) -> None:
    folder.child("b").child("c").write("x", "one")
    assert folder.read_text("b/c/x") == "one"
    assert folder.child("b").names() == ["c"]
    assert folder.child("b") == Folder.open(folder.path_of("b"))


def test_a_pickled_folder_is_small_and_works(folder: Folder) -> None:
    folder.write("x", "one")
    pickled = pickle.dumps(folder)
    assert len(pickled) < 1000
    assert pickle.loads(pickled) == folder
    assert pickle.loads(pickled).read_text("x") == "one"


def test_the_options_of_a_url_stay_at_its_end() -> None:
    folder = Folder.open("s3://b/runs?endpoint_override=localhost:9000&scheme=http")
    assert folder.child("first").path_of("x") == "s3://b/runs/first/x?endpoint_override=localhost:9000&scheme=http"
    assert folder.child("first").inside("x") == "b/runs/first/x"
    assert pickle.loads(pickle.dumps(folder)) == folder


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = Folder.open(str(tmp_path))
    folder.write("x", "old")

    def fail(path: str) -> None:
        Path(path).write_text("half")
        raise PermissionError(13, "no")

    with pytest.raises(StorageError, match=rf"cannot write `{tmp_path}/x`: .*give this user the permission"):
        folder.write_file("x", fail)
    assert folder.files() == {"x": 3}


def test_a_fault_that_passes_is_retried_and_one_that_lasts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(tmp_path / "faults")
    monkeypatch.setenv(*faults.variable)
    register()
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda seconds: None))
    folder = Folder.open(f"faulty://{tmp_path}/a")
    folder.write("x", "one")
    faults.add("open", "*/x", "ConnectionResetError", times=3)
    assert folder.read_text("x") == "one"
    faults.add("open", "*/x", "ConnectionResetError", times=None)
    with pytest.raises(StorageError, match=rf"cannot read `faulty://{tmp_path}/a/x`: .*tried 4 times"):
        folder.read("x")
    with pytest.raises(DataError, match=r"cannot list `.*/a/nothing`"):
        folder.entries("nothing", must_exist=True)


@pytest.mark.parametrize(("name", "problem"), [("nowhere", "does not exist"), ("file", "is a file"), ("folder", None)])
def test_a_folder_that_must_exist(tmp_path, name, problem):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    folder = Folder.open(f"{tmp_path}/{name}")
    if problem is None:
        folder.check_exists("PATH", "pass the folder")
        return
    with pytest.raises(DataError, match=f"^PATH `{tmp_path}/{name}` {problem}; pass the folder$"):
        folder.check_exists("PATH", "pass the folder")
