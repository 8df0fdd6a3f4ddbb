"""The store of versions as object storage, and the few operations that versions need besides those of any folder.

Objects are only written, read, listed and deleted, each as a unit: object storage has neither a rename nor a lock file.
"""

import errno
import hashlib
import io
import os
import uuid
from contextlib import suppress
from typing import Any, Self

import pyarrow.fs as pafs

from raymtl.errors import StorageError
from raymtl.storage.atomic import flush, removed_on_error
from raymtl.storage.filesystem import fsspec_of, make_folder_of, open_to_read, put
from raymtl.storage.folder import Folder
from raymtl.storage.paths import absolute
from raymtl.storage.retry import advice, is_transient, reason, retry

_CHUNK_BYTES = 1 << 22
_SMALL_BYTES = 8 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class UnsureError(StorageError):
    """The storage does not say whether an operation succeeded."""


class Store(Folder):
    """A folder of versions; its path is absolute."""

    @classmethod
    def open(cls, path: str) -> Self:
        return super().open(absolute(path).rstrip("/") or "/")

    def error(self, doing: str, name: str, error: OSError) -> StorageError:
        what = f"{doing} `{name}`" if name else doing
        return StorageError(
            f"store {self.path}: cannot {what}: {reason(error)}; published versions are unchanged: {advice(error)} and rerun "
            f"the same command"
        )

    def temp_path(self, name: str) -> str:
        """Unique: several processes may write an object at a time."""
        folder, _, last = name.rpartition("/")
        return self.inside(f"{folder}/.{last}.{uuid.uuid4().hex}".lstrip("/"))

    def write(self, name: str, content: bytes | str, lasting: bool = True) -> None:
        super().write(name, content, lasting)

    def create(self, name: str, data: bytes) -> None:
        """Write an object that must not exist yet, in one step; FileExistsError if it does.

        A complete local file is linked to its name, and some fsspec file systems (s3fs, gcsfs, adlfs) refuse a second object
        themselves. Plain object storage has no such step: there this checks for the object and then writes it, and the lease
        (`lease.py`) keeps two writers apart.

        `data` must identify the writer: an object of the same content was written by an attempt of this call whose answer was
        lost. Raises UnsureError if the storage does not even say whether it exists.
        """

        def attempt() -> None:
            try:
                make_folder_of(self.filesystem, self.inside(name))
                self._create(name, data)
            except FileExistsError:
                if self._read(name) != data:
                    raise
            if self.is_local:
                flush(os.path.dirname(self.inside(name)))

        try:
            retry(attempt)
        except FileExistsError:
            raise
        except OSError as error:
            self._settle(name, data, error)

    def sha256_of(self, name: str) -> tuple[str, int] | None:
        """Hex digest and bytes of an object, read in chunks; None if it does not exist."""

        def attempt() -> tuple[str, int] | None:
            digest, count = hashlib.sha256(), 0
            try:
                stream = open_to_read(self.filesystem, self.inside(name))
            except FileNotFoundError:
                return None
            with stream:
                while data := stream.read(_CHUNK_BYTES):
                    digest.update(data)
                    count += len(data)
            return digest.hexdigest(), count

        return self.retried("read", name, attempt)

    def _create(self, name: str, data: bytes) -> None:
        """One attempt; FileExistsError if the object exists."""
        path = self.inside(name)
        if self.is_local:
            _link(self.temp_path(name), path, data)
            return
        remote = fsspec_of(self.filesystem)
        if remote is not None:
            try:
                remote.pipe_file(path, data, mode="create")
                return
            except io.UnsupportedOperation:
                raise
            except (TypeError, ValueError, NotImplementedError):
                pass  # the mode is not supported
        if self.filesystem.get_file_info(path).type != pafs.FileType.NotFound:
            raise FileExistsError(name)
        put(self.filesystem, path, data)

    def _settle(self, name: str, data: bytes, error: OSError) -> None:
        """Return if the object exists in spite of `error`; else raise it as one sentence."""
        try:
            # A full disk, or one whose flush failed, did not store it, whatever a read returns
            there = None if self.is_local or not is_transient(error) else self._read(name)
        except OSError:
            raise UnsureError(
                f"store {self.path}: cannot tell whether `{name}` was written: {reason(error)}; {advice(error)}"
            ) from error
        if there != data:
            raise self.error("write", name, error) from error


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
        store.retried("write", name, lambda: make_folder_of(store.filesystem, store.inside(name)))
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
            self._store.write(self.name, bytes(self._waiting))
        else:
            self._finish(self._stream)

    def _open(self) -> None:
        path = self._store.inside(self.name)
        self._stream = self._store.retried(
            "write", self.name, lambda: self._store.filesystem.open_output_stream(path, compression=None)
        )

    def _push(self, view: memoryview) -> None:
        if self._stream is None:
            self._open()
        waiting, self._waiting = self._waiting, bytearray()
        with self._store.errors("write", self.name):
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
            with self._store.errors("write", self.name):
                # the upload may have succeeded and only its answer been lost
                if self._store.is_local or self._store.sha256_of(self.name) != (self.sha256, self.bytes):
                    raise error


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
