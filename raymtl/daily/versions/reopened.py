"""Files of a store that are read here and there: parquet, whose reader asks for one column chunk after the other."""

import io

import pyarrow as pa

from raymtl.daily.versions.storage import Store
from raymtl.data.remote import fsspec_of, open_to_read
from raymtl.data.retry import patiently


def open_input(store: Store, name: str) -> pa.NativeFile:
    """An object to read from any place; what is read is tried again. Raises OSError, for `storage` to turn into a sentence."""
    path = store.inside(name)
    opened = patiently(lambda: open_to_read(store.filesystem, path))
    if fsspec_of(store.filesystem) is None:  # Arrow's own S3 and GCS try each request again themselves
        return opened
    return pa.PythonFile(_Input(store, path, opened), mode="r")


class _Input(io.RawIOBase):
    """A file that is opened once more where reading fails."""

    def __init__(self, store: Store, path: str, opened: pa.NativeFile):
        super().__init__()
        self._store, self._path, self._file = store, path, opened
        self._size, self._place = opened.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        rest = max(self._size - self._place, 0)
        count = rest if size is None or size < 0 else min(size, rest)

        def attempt() -> bytes:
            if self._file is None:
                self._file = open_to_read(self._store.filesystem, self._path)
            try:
                self._file.seek(self._place)
                return self._file.read(count)
            except OSError:
                self._file = None
                raise

        data = patiently(attempt)
        self._place += len(data)
        return data
