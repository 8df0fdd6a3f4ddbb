"""Short-lived folders in the node's temporary folder, removed soon after the process that made them ends.

A killed process leaves its folders behind, and a checkpoint can fill a disk. So each folder's name holds the ID of its process,
and every worker that starts or ends removes the folders of processes that have ended.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"raymtl-[a-z]+-(\d+)-(\d+)-")


def new_folder(purpose: str) -> str:
    """An empty folder of this process."""
    return tempfile.mkdtemp(prefix=f"raymtl-{purpose}-{_namespace()}-{os.getpid()}-")


@contextmanager
def folder_for(purpose: str) -> Iterator[str]:
    """An empty folder, removed at the end."""
    folder = new_folder(purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale() -> None:
    """Remove the folders of this user's processes on this host that have ended."""
    for path in Path(tempfile.gettempdir()).glob("raymtl-*-*-*"):
        found = _NAME.match(path.name)
        with suppress(OSError):  # another process removes it too, or another user owns it
            own = found is not None and int(found[1]) == _namespace() and path.stat().st_uid == os.getuid()
            if own and found is not None and not _lives(int(found[2])):
                shutil.rmtree(path, ignore_errors=True)


def _namespace() -> int:
    """The PID namespace: containers that share the folder each count from 1."""
    return os.stat("/proc/self/ns/pid").st_ino


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
