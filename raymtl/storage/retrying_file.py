"""A file with random access that reopens itself when a read fails."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raymtl.storage.filesystem import open_to_read
from raymtl.storage.retry import retry


class RetryingFile(io.RawIOBase):
    """The file at a path; a read is retried after a transient error. Raises OSError."""

    def __init__(self, filesystem: pafs.FileSystem, path: str):
        super().__init__()
        self._filesystem, self._path = filesystem, path
        opened = retry(lambda: open_to_read(filesystem, path))
        self._file: pa.NativeFile | None = opened
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
                self._file = open_to_read(self._filesystem, self._path)
            try:
                self._file.seek(self._place)
                return self._file.read(count)
            except OSError:
                self._file = None
                raise

        data = retry(attempt)
        self._place += len(data)
        return data

    def readinto(self, target: Any) -> int:
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)
