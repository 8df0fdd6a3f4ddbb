"""The session folders of a Ray that raymtl starts on this machine: removed when a command succeeds, or some days later.

Ray keeps a log folder for each start (`/tmp/ray/session_…`) and never removes one. raymtl's folders have a marker that their
process keeps locked while it runs, so that folders in use and those of other Rays are never removed.
"""

import atexit
import fcntl
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

MARKER = "raymtl.lock"
KEPT_S = 3 * 24 * 3600.0
"""How long the logs of a failed command are kept; its error names them."""
_TRIES, _PAUSE_S = 5, 0.2

_held: dict[Path, IO[str]] = {}
"""Markers of the sessions that this process started, open and locked."""
_failed = False


def own(session: str) -> None:
    """Mark the session that this process has just started; it is removed at exit unless `keep_logs` is called.

    Also removes old sessions of earlier processes that failed.
    """
    folder = Path(session)
    with suppress(OSError):  # the folder is a convenience; the run continues without the marker
        marker = (folder / MARKER).open("a")
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _held:
            atexit.register(_end)
        _held[folder] = marker
        remove_old(folder.parent)


def keep_logs() -> None:
    """Keep the session of a failed command for inspection."""
    global _failed
    _failed = True


def remove_old(root: Path) -> None:
    """Remove old sessions below Ray's temporary folder that raymtl started and whose process has ended."""
    for marker in root.glob(f"session_*/{MARKER}"):
        with suppress(OSError):  # in use, or another process removes it
            found = marker.stat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < KEPT_S or marker.parent.is_symlink():
                continue
            with marker.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(marker.parent)


def _end() -> None:
    """Shut Ray down and remove the folder; runs before Ray's own exit handler, which was registered earlier."""
    if _failed or hasattr(sys, "last_value"):  # an uncaught error
        return
    import ray

    ray.shutdown()
    for folder in _held:
        _remove(folder)


def _remove(folder: Path) -> None:
    latest = folder.parent / "session_latest"
    with suppress(OSError):
        if latest.is_symlink() and latest.resolve() == folder.resolve():
            latest.unlink()
    for _ in range(_TRIES):  # a process of Ray that is still ending may write once more
        for path in folder.iterdir():
            if path.name != MARKER:  # last, so that a later command finds what a kill leaves here
                _remove_entry(path)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_PAUSE_S)


def _remove_entry(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
