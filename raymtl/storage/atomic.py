"""Files that a reader sees complete: the old one or the new one, even if the writer is killed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pyarrow.fs as pafs

from raymtl.storage.filesystem import is_local, make_folder_of
from raymtl.storage.retry import retry


def atomic_write(
    filesystem: pafs.FileSystem, path: str, temp_path: str, write: Callable[[str], None], *, lasting: bool = False
) -> None:
    """Write the file `path`, replacing an earlier one; missing parent folders are created.

    `write(name)` writes the content to the name it gets: on a local disk `temp_path`, a name in the same folder that readers
    ignore; object storage shows an object only once its upload is complete, so there it is `path` itself. A transient error
    calls it again. A `lasting` local file is on the disk when this returns. Raises OSError.
    """

    def attempt() -> None:
        make_folder_of(filesystem, path)
        if not is_local(filesystem):
            write(path)
            return
        with removed_on_error(temp_path):
            write(temp_path)
            if lasting:
                flush(temp_path)
            os.replace(temp_path, path)
        if lasting:
            flush(os.path.dirname(path))

    retry(attempt)


def move(filesystem: pafs.FileSystem, temp_path: str, path: str) -> None:
    """Give a finished file its name, replacing an earlier one."""
    failed = False

    def attempt() -> None:
        nonlocal failed
        try:
            filesystem.move(temp_path, path)
        except FileNotFoundError:
            # No other process moves `temp_path`: the previous attempt did, and its answer was lost
            if not failed or filesystem.get_file_info(path).type != pafs.FileType.File:
                raise
        except OSError:
            failed = True
            raise

    retry(attempt)


def flush(path: str) -> None:
    """Flush a local file, or the names in a local folder, to disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def removed_on_error(path: str) -> Iterator[None]:
    """Remove a local file if writing it fails: on a full disk it would keep its space."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
