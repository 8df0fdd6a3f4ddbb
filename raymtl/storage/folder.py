"""A folder on any storage, opened once and handed on; it is pickled with its file system, so it may travel into Ray tasks.

Every operation is retried after a transient error (`retry.py`); a lasting error is one sentence.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from raymtl.errors import DataError, UserError
from raymtl.storage.atomic import atomic_write
from raymtl.storage.filesystem import (
    delete_file,
    fsspec_of,
    is_local,
    list_folder,
    open_filesystem,
    open_to_read,
    put,
    read_all,
)
from raymtl.storage.paths import join_path
from raymtl.storage.retry import retry, to_user_error
from raymtl.storage.retrying_file import RetryingFile

T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """A folder; it need not exist yet. Names are relative to it, and the empty name is the folder itself."""

    path: str
    """As the user wrote it."""
    filesystem: pafs.FileSystem = field(repr=False, compare=False)
    root: str
    """The path on its file system; a local one is absolute."""

    @classmethod
    def open(cls, path: str) -> Self:
        """The folder at a path or URL. Raises ConfigError if no package reads such URLs."""
        return cls(path, *open_filesystem(path))

    def child(self, name: str) -> Self:
        """A folder below this one."""
        return replace(self, path=self.path_of(name), root=self.inside(name))

    def inside(self, name: str) -> str:
        """Path of a file or folder on the file system."""
        return f"{self.root.rstrip('/')}/{name}".rstrip("/") or "/"

    def path_of(self, name: str) -> str:
        """Path or URL of a file or folder, for the user."""
        return join_path(self.path, name) if name else self.path

    def temp_path(self, name: str) -> str:
        """Path on the file system of an unfinished file, which readers ignore."""
        return f"{self.inside(name)}.new"

    @property
    def is_local(self) -> bool:
        """Whether the operating system's own file calls reach it."""
        return is_local(self.filesystem)

    def error(self, doing: str, name: str, error: OSError) -> UserError:
        """The error for a failed operation; `doing` is its verb, such as `read`."""
        return to_user_error(f"{doing} `{self.path_of(name)}`", error)

    @contextmanager
    def errors(self, doing: str, name: str = "") -> Iterator[None]:
        """Turn an error of the file system into one sentence."""
        try:
            yield
        except OSError as error:
            raise self.error(doing, name, error) from error

    def retried(self, doing: str, name: str, work: Callable[[], T]) -> T:
        """Call `work()`, and again after each transient error."""
        with self.errors(doing, name):
            return retry(work)

    def read(self, name: str) -> bytes | None:
        """Content of a file, or None if it does not exist."""
        return self.retried("read", name, lambda: self._read(name))

    def read_text(self, name: str) -> str | None:
        """Text of a file, or None if it does not exist."""
        data = self.read(name)
        return None if data is None else data.decode()

    def write(self, name: str, content: bytes | str, lasting: bool = False) -> None:
        """Write a file, replacing an earlier one, so that a reader sees the complete old or new one.

        A `lasting` local file is on the disk when this returns.
        """
        data = content.encode() if isinstance(content, str) else content
        self.write_file(name, lambda path: put(self.filesystem, path, data), lasting)

    def write_file(self, name: str, write: Callable[[str], None], lasting: bool = False) -> None:
        """Like `write`, with the content that `write(path)` writes to a path on the file system."""
        with self.errors("write", name):
            atomic_write(self.filesystem, self.inside(name), self.temp_path(name), write, lasting=lasting)

    def kind(self, name: str = "") -> pafs.FileType:
        """Whether a path is a file, a folder, or does not exist."""
        return self.retried("read", name, lambda: self.filesystem.get_file_info(self.inside(name))).type

    def check_exists(self, said: str, remedy: str) -> None:
        """Raise DataError, with what the user said and an imperative, if there is no folder."""
        if (kind := self.kind()) != pafs.FileType.Directory:
            problem = "does not exist" if kind == pafs.FileType.NotFound else "is a file"
            raise DataError(f"{said} `{self.path}` {problem}; {remedy}")

    def entries(self, name: str = "", *, recursive: bool = False, must_exist: bool = False) -> list[pafs.FileInfo]:
        """Files and folders in a folder; none if it does not exist, unless it must."""
        path = self.inside(name)
        return self.retried(
            "list",
            name,
            lambda: list_folder(self.filesystem, path, recursive=recursive, allow_not_found=not must_exist),
        )

    def names(self, name: str = "") -> list[str]:
        """Names directly in a folder, sorted; unfinished ones (a leading `.`) are left out."""
        found = (e.path.rstrip("/").rpartition("/")[2] for e in self.entries(name))
        return sorted(each for each in found if not each.startswith("."))

    def files(self, name: str = "") -> dict[str, int]:
        """Bytes of every file below a folder, by path relative to it, sorted."""
        # a file system may return paths with or without the leading slash
        length = len(f"{self.inside(name).strip('/')}/".lstrip("/"))
        found = [e for e in self.entries(name, recursive=True) if e.type == pafs.FileType.File]
        return {e.path.lstrip("/")[length:]: int(e.size) for e in sorted(found, key=lambda e: e.path)}

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

        def attempt() -> None:
            with suppress(FileNotFoundError):
                delete_file(self.filesystem, self.inside(name))

        self.retried("remove", name, attempt)

    def remove_folder(self, name: str = "") -> None:
        """Remove a folder and everything in it, if it exists."""

        def attempt() -> None:
            if self.filesystem.get_file_info(self.inside(name)).type != pafs.FileType.NotFound:
                self.filesystem.delete_dir(self.inside(name))

        self.retried("remove", name, attempt)

    def upload(self, local_folder: str, name: str = "") -> None:
        """Copy the files of a local folder into a folder. Raises OSError."""
        retry(lambda: pafs.copy_files(local_folder, self.inside(name), pafs.LocalFileSystem(), self.filesystem))

    def open_input(self, name: str) -> pa.NativeFile:
        """Open a file for random access, with retried reads. Raises OSError, for `errors` to turn into a sentence."""
        path = self.inside(name)
        if fsspec_of(self.filesystem) is None:  # Arrow's own S3 and GCS retry each request themselves
            return retry(lambda: open_to_read(self.filesystem, path))
        return pa.PythonFile(RetryingFile(self.filesystem, path), mode="r")

    def _read(self, name: str) -> bytes | None:
        try:
            return read_all(self.filesystem, self.inside(name))
        except FileNotFoundError:
            return None
