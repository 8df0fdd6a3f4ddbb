"""The log of a store: one small object per action, numbered; the newest one says which version is current."""

import datetime as dt
import getpass
import json
import os
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

from raymtl.errors import TryLaterError, VersionError
from raymtl.model_store.manifest import is_id
from raymtl.storage.object_store import Store, UnsureError

FOLDER = "log"
_NAME = re.compile(r"(\d{8,})\.json")
_READ_THREADS = 16

Action = Literal["publish", "rollback", "remove"]


@dataclass(frozen=True)
class Entry:
    """One action."""

    number: int
    """Its place in the log, from 1."""
    action: Action
    """`publish` and `rollback` make `version` current; `remove` says that its files are deleted."""
    version: str
    """The version that the action concerns."""
    current: str
    """The current version from here on."""
    manifest: str
    """sha256 of that version's manifest; empty for `remove`."""
    time: str
    """UTC, ISO 8601."""
    by: str
    """Who did it: user@host, process."""


def entries(store: Store) -> list[Entry]:
    """All entries of the log, oldest first."""
    numbers = _numbers(store)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        return list(pool.map(lambda number: _read(store, number), numbers))


def newest(store: Store) -> Entry | None:
    """The newest action, or None in an empty store."""
    numbers = _numbers(store)
    return _read(store, numbers[-1]) if numbers else None


def rolled_back(found: Sequence[Entry]) -> dict[str, Entry]:
    """By version, the rollback that took it out of service, from all entries of the log, oldest first.

    A rollback withdraws every version that was published since the one it restores, until that version is current again.
    """
    line: list[str] = []
    """The published versions up to the current one, without those that were rolled back."""
    lines: dict[str, list[str]] = {}
    withdrawn: dict[str, Entry] = {}
    for entry in found:
        if entry.action == "publish":
            line = lines[entry.version] = [*line, entry.version]
        elif entry.action == "rollback":
            restored = lines.get(entry.current, [entry.current])
            withdrawn |= {version: entry for version in line if version not in restored}
            line = restored
        withdrawn = {version: rollback for version, rollback in withdrawn.items() if version not in line}
    return withdrawn


def append(store: Store, after: Entry | None, action: Action, version: str, current: str, manifest: str) -> Entry:
    """Add an action right after the entry `after` (None: as the first); this single step makes it happen.

    Raises TryLaterError if another process added one in between, and UnsureError if the storage does not say whether it stored
    the entry.
    """
    number = (after.number if after else 0) + 1
    entry = Entry(number, action, version, current, manifest, utc_now().isoformat(timespec="seconds"), who())
    try:
        store.create(_name(number), (json.dumps(asdict(entry)) + "\n").encode())
    except FileExistsError:
        other = _read(store, number)
        raise TryLaterError(
            f"store {store.path}: {other.by} did `{other.action} {other.version}` in between, at {other.time}; nothing was "
            f"changed here: check `raymtl versions list`, then rerun the same command"
        ) from None
    except UnsureError as error:
        raise UnsureError(
            f"{error}; `{action} {version}` may or may not have happened: check with `raymtl versions list` before you rerun the "
            f"command"
        ) from error
    return entry


def utc_now() -> dt.datetime:
    """The time, UTC."""
    return dt.datetime.now(dt.UTC)


def who() -> str:
    """User, host and process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def _name(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _numbers(store: Store) -> list[int]:
    return sorted(int(match[1]) for name in store.names(FOLDER) if (match := _NAME.fullmatch(name)))


def _read(store: Store, number: int) -> Entry:
    name = _name(number)
    data = store.read(name)
    try:
        entry = Entry(**json.loads(data or b""))
        # A later step reads or removes these folders
        if wrong := [one for one in (entry.version, entry.current) if not is_id(one)]:
            raise ValueError(f"`{wrong[0]}` cannot name a version")
        return entry
    except (ValueError, TypeError) as error:
        raise VersionError(
            f"store {store.path}: `{name}` is damaged ({error}); restore it from a backup of the store. If it is the newest "
            f"entry, you can also delete it and publish or roll back again"
        ) from error
