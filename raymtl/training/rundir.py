"""The folder of a run: its two files, and its lock."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from raymtl.config.root import Config
from raymtl.data.writable import not_writable
from raymtl.errors import StorageError, TryLaterError
from raymtl.storage.atomic import atomic_write
from raymtl.storage.filesystem import is_local, open_filesystem, put, read_all
from raymtl.storage.paths import join_path, split_options
from raymtl.storage.retry import advice, is_transient, reason, retry

RESULT = "result.json"
CONFIG = "config.yaml"
_LOCK = ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT}


def run_folder(config: Config) -> str:
    """`<output>/<name>`."""
    return join_path(config.output, config.name)


def run_of(path: str) -> str:
    """The folder of a run, given the folder or its `config.yaml`."""
    folder, options = split_options(path)
    return folder.rstrip("/").removesuffix(f"/{CONFIG}") + options


@contextmanager
def run_storage(run_dir: str, doing: str) -> Iterator[None]:
    """Turn a lasting error of the storage into one sentence; `doing` names the operation, such as "list it"."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"run folder `{run_dir}`: cannot {doing}: {reason(error)}; {advice(error)}, then rerun the same command"
        ) from error


def read_file(run_dir: str, name: str) -> str | None:
    """A file of the run, or None if it does not exist. Raises StorageError if the storage keeps failing."""
    filesystem, inner = open_filesystem(run_dir)
    with run_storage(run_dir, f"read `{name}`"):
        try:
            return retry(lambda: read_all(filesystem, f"{inner}/{name}")).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None


def write_file(run_dir: str, name: str, text: str) -> None:
    """Write a file of the run atomically: a reader sees the complete old or new one, even if this process is killed."""
    filesystem, inner = open_filesystem(run_dir)
    path, data = f"{inner}/{name}", text.encode()
    try:
        atomic_write(filesystem, path, f"{path}.new", lambda written: put(filesystem, written, data))
    except OSError as error:
        with run_storage(run_dir, f"write `{name}`"):
            if not is_local(filesystem) or is_transient(error) or error.errno in _FULL:
                raise
        raise not_writable(run_dir, error) from error


@contextmanager
def run_lock(run_dir: str, what: str = "the run", remedy: str = "set another `name`") -> Iterator[None]:
    """Lock the folder of a run, or of other work, against a second process on this machine.

    The system releases the lock when the process dies. Raises TryLaterError if another process holds it, and StorageError if the
    folder is not writable.
    """
    filesystem, inner = open_filesystem(run_dir)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        yield
        return
    path = Path(inner, _LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise not_writable(run_dir, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise TryLaterError(
                f"{what} {run_dir} is already running (process {file.read().strip() or 'unknown'}); wait for it, or {remedy}"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def read_result(run_dir: str) -> dict[str, Any] | None:
    """`result.json` of a run, or None if it has not finished."""
    text = read_file(run_dir, RESULT)
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError:  # truncated: the run had not finished writing it
        return None
