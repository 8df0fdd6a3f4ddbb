"""Files that appear whole, on storage that fails."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from raymtl.storage import retry
from raymtl.storage.atomic import atomic_write, move
from raymtl.storage.filesystem import list_folder, put

LOCAL = pafs.LocalFileSystem()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=made.append))
    return made


@pytest.mark.parametrize(("number", "attempts"), [(errno.EIO, 4), (errno.ENOSPC, 1), (errno.EACCES, 1)])
def test_a_failed_writing_leaves_the_old_file_and_nothing_else(number: int, attempts: int, tmp_path: Path) -> None:
    path, seen = tmp_path / "a" / "file", []
    atomic_write(LOCAL, str(path), f"{path}.new", lambda written: put(LOCAL, written, b"old"))

    def write(written: str) -> None:
        put(LOCAL, written, b"half")
        seen.append(written)
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        atomic_write(LOCAL, str(path), f"{path}.new", write)
    assert seen == [f"{path}.new"] * attempts
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_name_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the answer to the move was lost; a file that never was is an error."""
    moved = []

    class Unsteady(fsspec.get_filesystem_class("file")):  # type: ignore[misc]
        cachable = False

        def mv(self, *arguments: Any, **options: Any) -> None:
            super().mv(*arguments, **options)
            moved.append(arguments)
            raise ConnectionResetError("lost")

    (tmp_path / "_x").write_text("x")
    filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(Unsteady()))
    move(filesystem, str(tmp_path / "_x"), str(tmp_path / "x"))
    assert len(moved) == 1
    assert (tmp_path / "x").read_text() == "x"
    with pytest.raises(FileNotFoundError):
        move(filesystem, str(tmp_path / "_x"), str(tmp_path / "x"))


def test_a_listing_that_fails_is_not_an_empty_folder(tmp_path: Path) -> None:
    class Down(fsspec.get_filesystem_class("file")):  # type: ignore[misc]
        cachable = False

        def info(self, path: Any, **options: Any) -> Any:
            raise ConnectionResetError("down")

    for kind in (Down, fsspec.get_filesystem_class("file")):
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(kind()))
        if kind is Down:
            with pytest.raises(ConnectionResetError):
                list_folder(filesystem, str(tmp_path), recursive=True, allow_not_found=True)
        else:
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "a" / "b" / "c").write_text("c")
            found = list_folder(filesystem, str(tmp_path), recursive=True)
            assert [(f.path.removeprefix(str(tmp_path)), f.size) for f in found if f.is_file] == [("/a/b/c", 1)]
            assert len(list_folder(filesystem, str(tmp_path), recursive=False)) == 1
            assert list_folder(filesystem, str(tmp_path / "no"), recursive=True, allow_not_found=True) == []
            for wrong, error in (("no", FileNotFoundError), ("a/b/c", NotADirectoryError)):
                with pytest.raises(error):
                    list_folder(filesystem, str(tmp_path / wrong), recursive=True)
