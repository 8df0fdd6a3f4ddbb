"""The folder of a run: its two files, and its lock."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raymtl.config.root import Config
from raymtl.data.writable import not_writable
from raymtl.errors import StorageError, TryLaterError
from raymtl.storage.folder import Folder
from raymtl.storage.paths import join_path, split_options
from raymtl.storage.retry import advice, is_transient, reason

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


class RunFolder(Folder):
    """The folder of a run or a search. Raises StorageError if the storage keeps failing."""

    def error(self, doing: str, name: str, error: OSError) -> StorageError:
        if doing == "write" and self.is_local and not is_transient(error) and error.errno not in _FULL:
            return not_writable(self.path, error)
        what = f"{doing} `{name}`" if name else doing
        return StorageError(
            f"run folder `{self.path}`: cannot {what}: {reason(error)}; {advice(error)}, then rerun the same command"
        )

    def _read(self, name: str) -> bytes | None:
        try:
            return super()._read(name)
        except NotADirectoryError:
            return None


@contextmanager
def run_lock(run_dir: Folder, what: str = "the run", remedy: str = "set another `name`") -> Iterator[None]:
    """Lock the folder of a run, or of other work, against a second process on this machine.

    The system releases the lock when the process dies. Raises TryLaterError if another process holds it, and StorageError if the
    folder is not writable.
    """
    if not run_dir.is_local:
        yield
        return
    path = Path(run_dir.root, _LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise not_writable(run_dir.path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise TryLaterError(
                f"{what} {run_dir.path} is already running (process {file.read().strip() or 'unknown'}); wait for it, or {remedy}"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def read_result(run_dir: RunFolder) -> dict[str, Any] | None:
    """`result.json` of a run, or None if it has not finished."""
    text = run_dir.read_text(RESULT)
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError:  # truncated: the run had not finished writing it
        return None
