"""The folder of a run: its two files, its checkpoints, and its lock."""

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
from raymtl.errors import CheckpointError, StorageError, TryLaterError
from raymtl.storage.filesystem import list_folder
from raymtl.storage.folder import Folder
from raymtl.storage.paths import join_path, split_options
from raymtl.storage.retry import advice, is_transient, reason, retry
from raymtl.training.checkpoint import PROGRESS

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


def checkpoints(run_dir: RunFolder) -> list[RunFolder]:
    """Folders of the complete checkpoints of a run, oldest first; one whose upload was interrupted has no metadata.

    Raises CheckpointError if there is no such run, and StorageError if the storage keeps failing, which must not look like a
    missing checkpoint.
    """
    with run_dir.errors("list its checkpoints"):
        try:
            entries = retry(lambda: list_folder(run_dir.filesystem, run_dir.root, recursive=False))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(
                f"the run `{run_dir.path}` does not exist; name the folder that `raymtl train` printed"
            ) from error
        names = sorted(
            e.base_name for e in entries if e.type == pafs.FileType.Directory and e.base_name.startswith("checkpoint_")
        )
        return [folder for folder in map(run_dir.child, names) if _is_complete(folder)]


def has_checkpoint(run_dir: RunFolder) -> bool:
    """Whether the run exists and has a complete checkpoint."""
    try:
        return bool(checkpoints(run_dir))
    except CheckpointError:
        return False


def _is_complete(folder: RunFolder) -> bool:
    # Listed, since fsspec's check of one file treats any error as "no" (storage/filesystem.py)
    return {".metadata", PROGRESS} <= {e.base_name for e in folder.entries() if e.type == pafs.FileType.File}


def last_checkpoint(run_dir: RunFolder) -> RunFolder:
    """Folder of the newest checkpoint of a run."""
    found = checkpoints(run_dir)
    if not found:
        raise CheckpointError(f"the run `{run_dir.path}` has no checkpoint yet; wait until it finishes a unit")
    return found[-1]
