"""The store as plain storage: a root on any pyarrow or fsspec file system, and the few operations that versions need.

Only these are used: whole objects written, read, listed and deleted. No rename and no lock file: object storage has neither.
"""

import errno
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from raymtl.config.load import absolute
from raymtl.data.source import open_filesystem
from raymtl.errors import StorageError

_CHUNK_BYTES = 1 << 22
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


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
        return isinstance(self.filesystem, pafs.LocalFileSystem)


def open_store(path: str) -> Store:
    """The store at a path or URL; it need not exist yet."""
    path = absolute(path).rstrip("/") or "/"
    filesystem, root = open_filesystem(path)
    return Store(path, filesystem, root)


@contextmanager
def storage(store: Store, doing: str) -> Iterator[None]:
    """Turn an error of the file system into one sentence; `doing` is what was tried, such as `list log`."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise StorageError(
            f"store {store.path}: cannot {doing}: {error}; what is published stays as it is: check the storage (room, rights, "
            f"network) and run the same command again"
        ) from error


def read_bytes(store: Store, name: str) -> bytes | None:
    """Content of an object, or None where it is not there."""
    with storage(store, f"read `{name}`"):
        try:
            with store.filesystem.open_input_stream(store.inside(name), compression=None) as stream:
                return stream.read()
        except FileNotFoundError:
            return None


def write_bytes(store: Store, name: str, data: bytes, lasting: bool = True) -> None:
    """Write an object, in place of an earlier one, so that a reader sees the old or the new one whole.

    A local file is on the disk when this returns, unless it need not outlast the machine (`lasting` is False).
    """
    with storage(store, f"write `{name}`"):
        _make_folder(store, name)
        if not store.is_local:  # an object store shows an object when its upload is complete
            with store.filesystem.open_output_stream(store.inside(name), compression=None) as stream:
                stream.write(data)
            return
        making = _written_aside(store, name, data, lasting)
        os.replace(making, store.inside(name))
        if lasting:
            _flush_folder(store, name)


def create(store: Store, name: str, data: bytes) -> None:
    """Write an object that must not exist yet, in one step; FileExistsError where it does.

    A local file is linked to its name when it is whole, and an fsspec file system that can (s3fs, gcsfs, adlfs) refuses a second
    object itself. Plain object storage has no such step: there the object is looked for and then written, and the lease
    (`lease.py`) is what keeps two writers apart.
    """
    with storage(store, f"write `{name}`"):
        _make_folder(store, name)
        if store.is_local:
            _link(store, name, data)
        elif not _created_by_fsspec(store, name, data):
            if store.filesystem.get_file_info(store.inside(name)).type != pafs.FileType.NotFound:
                raise FileExistsError(name)
            write_bytes(store, name, data)


def names(store: Store, folder: str) -> list[str]:
    """Names right below a folder, sorted; those in the making (a leading `.`) are left out."""
    found = _listed(store, folder, recursive=False)
    return sorted(name for e in found if not (name := e.path.rstrip("/").rpartition("/")[2]).startswith("."))


def sizes(store: Store, folder: str) -> dict[str, int]:
    """Bytes of every file below a folder, by path from the folder on."""
    found = _listed(store, folder, recursive=True)
    # a file system may answer with or without the leading slash
    length = len(store.inside(folder).lstrip("/")) + 1
    return {e.path.lstrip("/")[length:]: int(e.size) for e in found if e.type == pafs.FileType.File}


def remove(store: Store, name: str) -> None:
    """Remove an object, if it is there."""
    with storage(store, f"remove `{name}`"), suppress(FileNotFoundError):
        store.filesystem.delete_file(store.inside(name))


def remove_folder(store: Store, folder: str) -> None:
    """Remove everything below a folder, if it is there."""
    with storage(store, f"remove `{folder}`"):
        if store.filesystem.get_file_info(store.inside(folder)).type != pafs.FileType.NotFound:
            store.filesystem.delete_dir(store.inside(folder))


def sha256_of(store: Store, name: str) -> tuple[str, int] | None:
    """Hex digest and bytes of an object, read in pieces; None where it is not there."""
    digest, count = hashlib.sha256(), 0
    with storage(store, f"read `{name}`"):
        try:
            stream = store.filesystem.open_input_stream(store.inside(name), compression=None)
        except FileNotFoundError:
            return None
        with stream:
            while data := stream.read(_CHUNK_BYTES):
                digest.update(data)
                count += len(data)
    return digest.hexdigest(), count


class Output(io.RawIOBase):
    """A new file to write from front to back; its hash and size are known when it is closed, and then it is on the disk."""

    def __init__(self, store: Store, name: str):
        super().__init__()
        self._store, self.name = store, name
        self._digest = hashlib.sha256()
        self.bytes = 0
        with storage(store, f"write `{name}`"):
            _make_folder(store, name)
            self._stream = store.filesystem.open_output_stream(store.inside(name), compression=None)

    @property
    def sha256(self) -> str:
        """Hex digest of what was written so far."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        with storage(self._store, f"write `{self.name}`"):
            self._stream.write(view)
        self._digest.update(view)
        self.bytes += len(view)
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        with storage(self._store, f"write `{self.name}`"):
            self._stream.close()
            if self._store.is_local:
                _flush_file(self._store.inside(self.name))


def _listed(store: Store, folder: str, recursive: bool) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(store.inside(folder), allow_not_found=True, recursive=recursive)
    with storage(store, f"list `{folder}`"):
        try:
            return store.filesystem.get_file_info(selector)
        except FileNotFoundError:
            # Arrow lists a local folder, and only where that fails does it look whether the folder is missing: another process
            # made it in between
            return store.filesystem.get_file_info(selector)


def _make_folder(store: Store, name: str) -> None:
    folder = name.rpartition("/")[0]
    if store.filesystem.type_name in ("s3", "gcs"):  # objects need no folder
        return
    store.filesystem.create_dir(store.inside(folder), recursive=True)


def _written_aside(store: Store, name: str, data: bytes, lasting: bool = True) -> str:
    folder, _, last = name.rpartition("/")
    making = store.inside(f"{folder}/.{last}.{uuid.uuid4().hex}".lstrip("/"))
    try:
        with open(making, "xb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.unlink(making)
        raise
    return making


def _link(store: Store, name: str, data: bytes) -> None:
    making, final = _written_aside(store, name, data), store.inside(name)
    try:
        os.link(making, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.exists(final):  # a mount without hard links: as good as plain object storage
            raise FileExistsError(name) from None
        os.replace(making, final)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(making)
    _flush_folder(store, name)


def _created_by_fsspec(store: Store, name: str, data: bytes) -> bool:
    """Whether the storage itself created the object and would have refused a second one."""
    handler = getattr(store.filesystem, "handler", None)
    if not isinstance(handler, pafs.FSSpecHandler):
        return False
    try:
        handler.fs.pipe_file(store.inside(name), data, mode="create")
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def _flush_file(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _flush_folder(store: Store, name: str) -> None:
    _flush_file(os.path.dirname(store.inside(name)))
