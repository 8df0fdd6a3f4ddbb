"""Look up the rows of IDs in a few vectorised rounds, in one hash table that all processes of a host share.

The table uses open addressing with linear probing, sorted by hash. mix64 is a bijection, so it holds hashes instead of IDs; the
home of a hash is `hash · slots / 2^64`, which grows with the hash. So sorting the hashes builds the table, and a search ends at
the first slot whose hash is not below the wanted one, found or not.
"""

import fcntl
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from raymtl.data.ids.hashing import mix64

_SLOTS_PER_ID = 2
_CHUNK = 1 << 15
_EMPTY = np.uint64(2**64 - 1)
_HEAD = 2
_HALF = np.uint64(32)
_FOLDERS = ("/dev/shm", tempfile.gettempdir())
_PREFIX = "map-"


class IdLookup:
    """A fixed map from int64 ID to row; an unknown ID gives row 0, which none of its IDs has.

    `words` is the table, [2 + 2·slots] uint64: the number of home slots, a zero, then hash and row of each slot next to each
    other, so that a probe touches one cache line. An empty slot has the largest hash and row 0.
    """

    def __init__(self, words: np.ndarray):
        self._words = words
        self._homes = words[0]

    @staticmethod
    def build(ids: np.ndarray, rows: np.ndarray) -> "IdLookup":
        """The table of distinct `ids` [N] int64 and their `rows` [N], all above 0."""
        hashes = mix64(ids)
        order = np.argsort(hashes)
        hashes = hashes[order]
        homes = np.uint64(max(1, _SLOTS_PER_ID * len(ids)))
        # Each goes to its home or, if that is taken, right behind the previous one
        step = np.arange(len(ids), dtype=np.int64)
        slots = np.maximum.accumulate(_home(hashes, homes) - step) + step if len(ids) else step
        last = int(slots[-1]) + 1 if len(ids) else 0
        words = np.zeros(_HEAD + 2 * (max(int(homes), last) + 1), np.uint64)  # the last slot is always empty
        words[0] = homes
        words[_HEAD::2] = _EMPTY
        words[_HEAD + 2 * slots] = hashes
        words[_HEAD + 1 + 2 * slots] = rows[order].astype(np.uint64)
        return IdLookup(words)

    @property
    def words(self) -> np.ndarray:
        return self._words

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Row of every ID, [N] int64 in and out."""
        found = np.empty(len(ids), np.int64)
        for start in range(0, len(ids), _CHUNK):  # so that the working set of a round stays in the cache
            stop = start + _CHUNK
            self._search(mix64(ids[start:stop]), found[start:stop])
        return found

    def _search(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        words = self._words
        places = _home(hashes, self._homes)
        places *= 2
        places += _HEAD
        held = words.take(places)
        behind = np.flatnonzero(held < hashes)
        while len(behind):
            places[behind] += 2
            reached = words.take(places[behind])
            held[behind] = reached
            behind = behind[reached < hashes[behind]]
        places += 1
        np.multiply(words.take(places).view(np.int64), held == hashes, out=rows)


def _home(hashes: np.ndarray, homes: np.uint64) -> np.ndarray:
    """`hash · homes / 2^64` of every hash, by its upper half, [N] int64."""
    return (((hashes >> _HALF) * homes) >> _HALF).view(np.int64)


def shared_lookup(digest: str, make: Callable[[], IdLookup]) -> IdLookup:
    """The lookup of the map with this content hash, in pages that all processes of this user on this host share.

    It is a memory-mapped file, which the first process writes from the result of `make` while the others wait; a process that is
    killed meanwhile leaves nothing that looks complete. Files that no process maps any more are removed when a new one is
    written. The file is in /dev/shm, or in the temporary folder if /dev/shm is full.
    """
    folders = list(_own_folders())
    for folder in folders:
        if (lookup := _mapped(folder / f"{_PREFIX}{digest}")) is not None:
            return lookup
    made: IdLookup | None = None
    for folder in folders:
        path = folder / f"{_PREFIX}{digest}"
        with _locked(folder):
            if (lookup := _mapped(path)) is not None:
                return lookup
            _remove_unused(folder)
            if made is None:
                made = make()
            if _write(path, made.words) and (lookup := _mapped(path)) is not None:
                return lookup
    assert made is not None
    return made  # no space anywhere: a private copy still gives the right rows


def _own_folders() -> Iterator[Path]:
    """Folders that only this user can write, so that their files can be trusted."""
    for root in _FOLDERS:
        folder = Path(root, f"raymtl-maps-{os.getuid()}")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink():
                yield folder
        except OSError:
            continue


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other writers; the system releases the lock when the process dies."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _mapped(path: Path) -> IdLookup | None:
    """Map a file if it exists; the mapping holds a shared lock on the file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            # mmap holds a duplicate of the descriptor, and with it the lock
            return IdLookup(np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint64))
    except FileNotFoundError:
        return None


def _write(path: Path, words: np.ndarray) -> bool:
    """Write a file atomically; False if there is no space for it."""
    temp_path = path.with_name(f"new-{os.getpid()}")
    try:
        with temp_path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, words.nbytes)  # else a full /dev/shm raises SIGBUS, not an error
            file.write(words.data)
        temp_path.replace(path)
        return True
    except OSError:
        temp_path.unlink(missing_ok=True)
        return False


def _remove_unused(folder: Path) -> None:
    """Remove the files that no process has mapped, and those whose writer died."""
    for path in [*folder.glob(f"{_PREFIX}*"), *folder.glob("new-*")]:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink()
