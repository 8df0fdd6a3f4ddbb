"""The checkpoints of a run: the folders `checkpoint_…` in its folder are the only list of them.

All workers copy their files into a new folder. When they all are there, the first worker adds `progress.json`, and only then is
the checkpoint complete. A removal takes that file away first. So a kill at any moment leaves complete checkpoints, and folders
that no run resumes from.
"""

import datetime as dt
import os
import pickle
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pyarrow.fs as pafs

from raymtl.errors import CheckpointError, StorageError
from raymtl.storage.filesystem import list_folder, make_folder_of
from raymtl.storage.retry import retry
from raymtl.training.progress import PROGRESS, Progress, read_progress
from raymtl.training.rundir import RunFolder

_OWN_NAME = re.compile(r"checkpoint_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d{6}")
"""Only folders with such a name are ever removed."""
_CHUNK_BYTES = 64 << 20


def new_name() -> str:
    """A name for a new checkpoint."""
    return f"checkpoint_{dt.datetime.now():%Y-%m-%d_%H-%M-%S.%f}"


def checkpoints(run_dir: RunFolder) -> list[RunFolder]:
    """Folders of the complete checkpoints of a run, the one with the most training last.

    Raises CheckpointError if there is no such run, and StorageError if the storage keeps failing, which must not look like a
    missing checkpoint.
    """
    return [run_dir.child(name) for name in _complete(run_dir, _names(run_dir))]


def last_checkpoint(run_dir: RunFolder) -> RunFolder:
    """Folder of the newest complete checkpoint of a run; CheckpointError if there is none."""
    found = checkpoints(run_dir)
    if not found:
        raise CheckpointError(
            f"the run `{run_dir.path}` has no checkpoint yet; wait until it finishes a unit, or restart it with `raymtl train`"
        )
    return found[-1]


def find_checkpoint(run_dir: RunFolder, notify: Callable[[str], None] = lambda line: None) -> RunFolder | None:
    """Folder of the newest complete checkpoint of a run, or None; `notify` hears that there are only incomplete ones."""
    try:
        names = _names(run_dir)
    except CheckpointError:
        return None
    found = list(_complete(run_dir, names))
    if names and not found:
        notify(f"no complete checkpoint found in `{run_dir.path}`; restarting from scratch")
    return run_dir.child(found[-1]) if found else None


def upload(folder: str, target: RunFolder) -> None:
    """Copy this worker's files of a checkpoint into the run's folder, all but the progress."""
    filesystem = target.filesystem
    with target.errors("write the checkpoint"):
        for path in Path(folder).iterdir():
            if path.name == PROGRESS:
                continue
            there = target.inside(path.name)
            retry(partial(make_folder_of, filesystem, there))
            local = pafs.LocalFileSystem()
            retry(partial(pafs.copy_files, str(path), there, local, filesystem, chunk_size=_CHUNK_BYTES))


def complete(folder: str, target: RunFolder) -> None:
    """Make a checkpoint complete, whose files all workers have copied to `target`."""
    if not _has_all_files(target):
        raise StorageError(
            f"run folder `{target.path}`: files that other workers wrote are missing here; set `output` to storage that all "
            "nodes share: object storage, or a network disk at the same path"
        )
    target.write(PROGRESS, Path(folder, PROGRESS).read_text())


def remove_others(run_dir: RunFolder, keep: int) -> None:
    """Remove what is neither the newest complete checkpoint nor one of the `keep` best, and what interrupted saves left.

    A damaged checkpoint stays: it was complete once, and another version may be able to read it. Raises StorageError at the
    end if some could not be removed.
    """
    # No copies and links, which a user may have added
    names = [
        name
        for name in _names(run_dir)
        if _OWN_NAME.fullmatch(name) and not (run_dir.is_local and os.path.islink(run_dir.inside(name)))
    ]
    found = _complete(run_dir, names)
    newest = list(found)[-1:]
    best = sorted(found, key=lambda name: found[name].score)[-keep:]  # of equal ones, the newer
    failed: StorageError | None = None
    for name in set(names).difference(newest, best):
        if name in found or run_dir.read(f"{name}/{PROGRESS}") is None:
            try:
                run_dir.remove(f"{name}/{PROGRESS}")
                run_dir.remove_folder(name)
            except StorageError as error:
                failed = error
    if failed is not None:
        raise failed


def _names(run_dir: RunFolder) -> list[str]:
    """Folders of all checkpoints of a run, complete or not."""
    with run_dir.errors("list its checkpoints"):
        try:
            entries = retry(lambda: list_folder(run_dir.filesystem, run_dir.root, recursive=False))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(
                f"the run `{run_dir.path}` does not exist; pass the folder that `raymtl train` printed"
            ) from error
    names = [e.base_name for e in entries if e.type == pafs.FileType.Directory]
    return [name for name in names if name.startswith("checkpoint_")]


def _complete(run_dir: RunFolder, names: Iterable[str]) -> dict[str, Progress]:
    """The progress of the complete checkpoints among these, that with the most training last."""
    found = {name: progress for name in names if (progress := _read(run_dir.child(name))) is not None}
    # Names alone would not do: they hold the time, and the clocks of two nodes differ
    return dict(sorted(found.items(), key=lambda item: (item[1].rows, item[1].finished, item[0])))


def _read(folder: RunFolder) -> Progress | None:
    """The progress of a checkpoint, or None if it is not complete."""
    with folder.errors("read the checkpoint"):
        try:
            progress = read_progress(folder.path)
        except CheckpointError:
            return None
    return progress if _has_all_files(folder) else None


def _has_all_files(folder: RunFolder) -> bool:
    """Whether the index is there, and every file that it names, in full length."""
    from raymtl.training.checkpoint_reader import read_index  # imports torch, which a new run's driver does without

    with folder.errors("read the checkpoint"):
        try:
            parts = (read_index(folder.path).storage_data or {}).values()
            entries = retry(lambda: list_folder(folder.filesystem, folder.root, recursive=False))
        except (FileNotFoundError, EOFError, pickle.UnpicklingError):
            return False
    sizes = {e.base_name: e.size for e in entries if e.type == pafs.FileType.File}
    return all(part.offset + part.length <= sizes.get(part.relative_path, -1) for part in parts)
