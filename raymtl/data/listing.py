"""List the files below a folder; local links are followed, and those that would lose or repeat rows are found."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow.fs as pafs

from raymtl.storage.filesystem import list_folder
from raymtl.storage.folder import Folder
from raymtl.storage.retry import retry, to_user_error

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A name in a folder."""

    path: str
    """On its file system."""
    kind: pafs.FileType
    """A local link has the kind of its target, and `NotFound` without one."""
    size: int = 0
    identity: tuple[int, int] | None = None
    """Device and inode of a local file: equal for two names of one file."""

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]


@dataclass
class Listing:
    """What a folder holds."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Links that lead nowhere or in a circle, one sentence each."""


def list_names(folder: Folder) -> list[Entry]:
    """The files and folders directly in a folder."""
    if folder.is_local:
        return _attempt(folder, folder.root, lambda: [_local_entry(e) for e in os.scandir(folder.root)])
    return _remote(folder, folder.root, recursive=False)


def list_below(folder: Folder, path: str) -> Listing:
    """The files below a folder of the data set `folder`, or below itself."""
    if folder.is_local:
        above = () if path == folder.root else (os.path.realpath(folder.root),)
        return _attempt(folder, path, lambda: _walk(path, above))
    return Listing([e for e in _remote(folder, path, recursive=True) if e.kind != pafs.FileType.Directory])


def _remote(folder: Folder, path: str, recursive: bool) -> list[Entry]:
    found = _attempt(folder, path, lambda: list_folder(folder.filesystem, path, recursive=recursive))
    return [Entry(e.path.rstrip("/"), e.type, e.size or 0) for e in found]


def _attempt(folder: Folder, path: str, work: Callable[[], T]) -> T:
    try:
        return retry(work)
    except OSError as error:
        raise to_user_error(f"list `{path}` of `{folder.path}`", error) from error


def _walk(top: str, above: tuple[str, ...]) -> Listing:
    """The files below a local folder; `above` are the real paths of the folders on the way to it."""
    found = Listing()
    real = os.path.realpath(top)
    if any(one == real or one.startswith(f"{real.rstrip('/')}/") for one in above):
        found.problems.append(
            f"`{top}` is a link to `{real}`, a folder above it, so its rows would be read again and again; remove the link"
        )
        return found
    if not os.path.exists(real):
        found.problems.append(_dangling(top))
        return found
    with os.scandir(top) as scan:
        entries = sorted((_local_entry(e) for e in scan), key=lambda e: e.path)
    for entry in entries:
        if entry.kind == pafs.FileType.Directory:
            below = _walk(entry.path, (*above, real))
            found.entries += below.entries
            found.problems += below.problems
        elif entry.kind == pafs.FileType.NotFound:
            found.problems.append(_dangling(entry.path))
        else:
            found.entries.append(entry)
    return found


def _local_entry(entry: os.DirEntry) -> Entry:
    try:
        stat = entry.stat()
    except OSError as error:
        if not entry.is_symlink() or isinstance(error, PermissionError):
            raise
        return Entry(entry.path, pafs.FileType.NotFound)
    if entry.is_dir():
        return Entry(entry.path, pafs.FileType.Directory)
    kind = pafs.FileType.File if entry.is_file() else pafs.FileType.Unknown
    return Entry(entry.path, kind, stat.st_size, (stat.st_dev, stat.st_ino) if stat.st_ino else None)


def _dangling(path: str) -> str:
    return f"`{path}` is a link to `{os.readlink(path)}`, which does not exist; restore the target or remove the link"
