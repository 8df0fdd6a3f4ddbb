"""The store as object storage: a root on any pyarrow or fsspec file system, and the few operations that versions need.

Objects are only written, read, listed and deleted, each as a unit: object storage has neither a rename nor a lock file.
Each operation is retried after a transient error (`retry.py`); a lasting error is one sentence.
"""

import errno
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from raymtl.errors import StorageError
from raymtl.storage.atomic import atomic_write, flush, removed_on_error
from raymtl.storage.filesystem import (
    delete_file,
    fsspec_of,
    is_local,
    list_folder,
    make_folder_of,
    open_filesystem,
    open_to_read,
    put,
    read_all,
)
from raymtl.storage.paths import absolute
from raymtl.storage.retry import advice, is_transient, reason, retry
from raymtl.storage.retrying_file import RetryingFile

T = TypeVar("T")

_CHUNK_BYTES = 1 << 22
_SMALL_BYTES = 8 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class UnsureError(StorageError):
    """The storage does not say whether an operation succeeded."""


@dataclass(frozen=True)
class Store:
    """A folder of versions."""

    path: str
    """As a user writes it, absolute."""
    filesystem: pafs.FileSystem = field(repr=False)
    root: str
    """The path on its file system."""

    def inside(self, name: str) -> str:
        """Path of an object on the file system."""
        return f"{self.root.rstrip('/')}/{name}".rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the operating system's own file calls reach it."""
        return is_local(self.filesystem)


def open_store(path: str) -> Store:
    """The store at a path or URL; it need not exist yet."""
    path = absolute(path).rstrip("/") or "/"
    filesystem, root = open_filesystem(path)
    return Store(path, filesystem, root)


@contextmanager
def storage(store: Store, doing: str) -> Iterator[None]:
    """Turn an error of the file system into one sentence; `doing` names the operation, such as `list log`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"store {store.path}: cannot {doing}: {reason(error)}; published versions are unchanged: {advice(error)} and rerun "
            f"the same command"
        ) from error


def read_bytes(store: Store, name: str) -> bytes | None:
    """Content of an object, or None if it does not exist."""
    return _retry(store, f"read `{name}`", lambda: _read(store, name))


def write_bytes(store: Store, name: str, data: bytes, lasting: bool = True) -> None:
    """Write an object, replacing an earlier one, so that a reader sees the complete old or new one.

    A local file is on the disk when this returns, unless `lasting` is False.
    """
    with storage(store, f"write `{name}`"):
        filesystem, path = store.filesystem, store.inside(name)
        atomic_write(
            filesystem, path, _temp_path(store, name), lambda written: put(filesystem, written, data), lasting=lasting
        )


def create(store: Store, name: str, data: bytes) -> None:
    """Write an object that must not exist yet, in one step; FileExistsError if it does.

    A complete local file is linked to its name, and some fsspec file systems (s3fs, gcsfs, adlfs) refuse a second object
    themselves. Plain object storage has no such step: there this checks for the object and then writes it, and the lease
    (`lease.py`) keeps two writers apart.

    `data` must identify the writer: an object of the same content was written by an attempt of this call whose answer was
    lost. Raises UnsureError if the storage does not even say whether it exists.
    """

    def attempt() -> None:
        try:
            make_folder_of(store.filesystem, store.inside(name))
            _create(store, name, data)
        except FileExistsError:
            if _read(store, name) != data:
                raise
        if store.is_local:
            flush(os.path.dirname(store.inside(name)))

    try:
        retry(attempt)
    except FileExistsError:
        raise
    except OSError as error:
        _settle(store, name, data, error)


def names(store: Store, folder: str) -> list[str]:
    """Names directly in a folder, sorted; unfinished ones (a leading `.`) are left out."""
    found = _listed(store, folder, recursive=False)
    return sorted(name for e in found if not (name := e.path.rstrip("/").rpartition("/")[2]).startswith("."))


def sizes(store: Store, folder: str) -> dict[str, int]:
    """Bytes of every file below a folder, by path relative to it."""
    found = _listed(store, folder, recursive=True)
    # a file system may return paths with or without the leading slash
    length = len(store.inside(folder).lstrip("/")) + 1
    return {e.path.lstrip("/")[length:]: int(e.size) for e in found if e.type == pafs.FileType.File}


def remove(store: Store, name: str) -> None:
    """Remove an object if it exists."""

    def attempt() -> None:
        with suppress(FileNotFoundError):
            delete_file(store.filesystem, store.inside(name))

    _retry(store, f"remove `{name}`", attempt)


def remove_folder(store: Store, folder: str) -> None:
    """Remove a folder and everything in it, if it exists."""

    def attempt() -> None:
        if store.filesystem.get_file_info(store.inside(folder)).type != pafs.FileType.NotFound:
            store.filesystem.delete_dir(store.inside(folder))

    _retry(store, f"remove `{folder}`", attempt)


def sha256_of(store: Store, name: str) -> tuple[str, int] | None:
    """Hex digest and bytes of an object, read in chunks; None if it does not exist."""

    def attempt() -> tuple[str, int] | None:
        digest, count = hashlib.sha256(), 0
        try:
            stream = open_to_read(store.filesystem, store.inside(name))
        except FileNotFoundError:
            return None
        with stream:
            while data := stream.read(_CHUNK_BYTES):
                digest.update(data)
                count += len(data)
        return digest.hexdigest(), count

    return _retry(store, f"read `{name}`", attempt)


class Output(io.RawIOBase):
    """A new file to write sequentially; once closed, its hash and size are known and it is on the disk.

    Opening it is retried. A stream cannot be: after an error in the middle the caller rewrites the file. A small file on remote
    storage is uploaded when it is closed, in one request that is retried.
    """

    def __init__(self, store: Store, name: str):
        super().__init__()
        self._store, self.name = store, name
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._waiting, self._failed = bytearray(), True
        self._stream: Any = None
        _retry(store, f"write `{name}`", lambda: make_folder_of(store.filesystem, store.inside(name)))
        if store.is_local:
            self._open()
        self._failed = False

    def __del__(self) -> None:
        self._failed = True  # not closed: it is incomplete, and another process may have written the file since
        self.close()

    @property
    def sha256(self) -> str:
        """Hex digest of what has been written so far."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        try:
            if self._stream is None and len(self._waiting) + len(view) <= _SMALL_BYTES:
                self._waiting += view
            else:
                self._push(view)
        except StorageError:
            self._failed = True
            raise
        self._digest.update(view)
        self.bytes += len(view)
        return len(view)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._failed = self._failed or kind is not None
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._failed:  # no manifest will name the file, and it must not hide the first error
            if self._stream is not None:
                with suppress(OSError):
                    self._stream.close()
        elif self._stream is None:
            write_bytes(self._store, self.name, bytes(self._waiting))
        else:
            self._finish(self._stream)

    def _open(self) -> None:
        path = self._store.inside(self.name)
        self._stream = _retry(
            self._store,
            f"write `{self.name}`",
            lambda: self._store.filesystem.open_output_stream(path, compression=None),
        )

    def _push(self, view: memoryview) -> None:
        if self._stream is None:
            self._open()
        waiting, self._waiting = self._waiting, bytearray()
        with storage(self._store, f"write `{self.name}`"):
            if waiting:
                self._stream.write(waiting)
            self._stream.write(view)

    def _finish(self, stream: Any) -> None:
        # Neither is retried: a second close of a stream, or a second flush of a file, reports success although the data of
        # the first is lost
        try:
            stream.close()
            if self._store.is_local:
                flush(self._store.inside(self.name))
        except OSError as error:
            with storage(self._store, f"write `{self.name}`"):
                # the upload may have succeeded and only its answer been lost
                if self._store.is_local or sha256_of(self._store, self.name) != (self.sha256, self.bytes):
                    raise error


def _retry(store: Store, doing: str, work: Callable[[], T]) -> T:
    with storage(store, doing):
        return retry(work)


def _listed(store: Store, folder: str, recursive: bool) -> list[pafs.FileInfo]:
    """The entries of a folder; empty if it does not exist."""
    path = store.inside(folder)
    return _retry(
        store,
        f"list `{folder}`",
        lambda: list_folder(store.filesystem, path, recursive=recursive, allow_not_found=True),
    )


def _read(store: Store, name: str) -> bytes | None:
    try:
        return read_all(store.filesystem, store.inside(name))
    except FileNotFoundError:
        return None


def _temp_path(store: Store, name: str) -> str:
    """A unique temporary path next to an object."""
    folder, _, last = name.rpartition("/")
    return store.inside(f"{folder}/.{last}.{uuid.uuid4().hex}".lstrip("/"))


def _create(store: Store, name: str, data: bytes) -> None:
    """One attempt; FileExistsError if the object exists."""
    path = store.inside(name)
    if store.is_local:
        _link(_temp_path(store, name), path, data)
        return
    remote = fsspec_of(store.filesystem)
    if remote is not None:
        try:
            remote.pipe_file(path, data, mode="create")
            return
        except io.UnsupportedOperation:
            raise
        except (TypeError, ValueError, NotImplementedError):
            pass  # the mode is not supported
    if store.filesystem.get_file_info(path).type != pafs.FileType.NotFound:
        raise FileExistsError(name)
    put(store.filesystem, path, data)


def _link(temp_path: str, final: str, data: bytes) -> None:
    with removed_on_error(temp_path):
        with open(temp_path, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temp_path, final)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.exists(final):  # a mount without hard links: no better than plain object storage
                raise FileExistsError(final) from None
            os.replace(temp_path, final)
            return
    os.unlink(temp_path)


def _settle(store: Store, name: str, data: bytes, error: OSError) -> None:
    """Return if the object exists in spite of `error`; else raise it as one sentence."""
    try:
        # A full disk, or one whose flush failed, did not store it, whatever a read returns
        there = None if store.is_local or not is_transient(error) else _read(store, name)
    except OSError:
        raise UnsureError(
            f"store {store.path}: cannot tell whether `{name}` was written: {reason(error)}; {advice(error)}"
        ) from error
    if there != data:
        with storage(store, f"write `{name}`"):
            raise error


def open_input(store: Store, name: str) -> pa.NativeFile:
    """Open an object for random access, with retried reads. Raises OSError, for `storage` to turn into a sentence."""
    path = store.inside(name)
    if fsspec_of(store.filesystem) is None:  # Arrow's own S3 and GCS retry each request themselves
        return retry(lambda: open_to_read(store.filesystem, path))
    return pa.PythonFile(RetryingFile(store.filesystem, path), mode="r")
