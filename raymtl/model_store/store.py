"""Versions of a model: `<store>/versions/<id>/…` and the commit log that lists them and the current one.

A version is written into its folder over minutes and stays invisible until a log entry names it; that entry is one small object,
so a version appears completely or not at all. A process that publishes, rolls back or removes must hold the lease (`lease.py`).
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from raymtl.errors import VersionError
from raymtl.model_store import commit_log
from raymtl.model_store.manifest import NAME, FileEntry, Manifest, check_id, parse_manifest
from raymtl.storage.object_store import Store

FOLDER = "versions"
_THREADS = 8


@dataclass(frozen=True)
class Listed:
    """A published version in a listing."""

    id: str
    published: str
    """UTC."""
    by: str
    current: bool
    manifest: Manifest | None
    """None if it is missing or damaged."""
    rolled_back: commit_log.Entry | None = None
    """The rollback that took it out of service, if any."""

    @property
    def status(self) -> Literal["current", "published", "rolled back"]:
        """`published`: it was current before, and newer versions followed."""
        return "current" if self.current else "rolled back" if self.rolled_back else "published"


@dataclass(frozen=True)
class Removed:
    """What a clean-up removed."""

    versions: list[str]
    """Published ones."""
    leftovers: list[str]
    """Folders that no log entry names: left by a killed writer or a killed removal."""


def folder_of(version: str) -> str:
    """Folder of a version, relative to the store."""
    return f"{FOLDER}/{version}"


def current(store: Store) -> str | None:
    """Name of the current version, or None in an empty store."""
    entry = commit_log.newest(store)
    return None if entry is None else entry.current


def published(store: Store) -> list[commit_log.Entry]:
    """The entries that published the versions which still exist, oldest first."""
    return _published(commit_log.entries(store))


def _published(entries: Iterable[commit_log.Entry]) -> list[commit_log.Entry]:
    found: dict[str, commit_log.Entry] = {}
    for entry in entries:
        if entry.action == "publish":
            found[entry.version] = entry
        elif entry.action == "remove":
            found.pop(entry.version, None)
    return list(found.values())


def list_versions(store: Store) -> list[Listed]:
    """The versions, newest first."""
    entries = commit_log.entries(store)
    now, withdrawn = entries[-1].current if entries else None, commit_log.rolled_back(entries)

    def listed(entry: commit_log.Entry) -> Listed:
        try:
            manifest = _manifest(store, entry.version, entry.manifest)
        except VersionError:
            manifest = None
        version = entry.version
        return Listed(version, entry.time, entry.by, version == now, manifest, withdrawn.get(version))

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(listed, reversed(_published(entries))))


def show(store: Store, version: str | None = None) -> Manifest:
    """Manifest of a published version; raises VersionError if it is missing or damaged.

    Args:
        version: its name, or the date that its name begins with if no other does; None: the current one.
    """
    entry = _entry(store, version)
    return _manifest(store, entry.version, entry.manifest)


def read_unpublished(store: Store, version: str) -> Manifest:
    """Manifest of a completely written version, published or not."""
    return _manifest(store, check_id(version), "")


def chain(store: Store, manifest: Manifest) -> list[Manifest]:
    """The versions whose rows make up this one: a full version, then the deltas on it, this one last."""
    found = [manifest]
    while found[0].base is not None:
        if any(found[0].base == m.id for m in found):
            raise VersionError(f"store {store.path}: version {manifest.id} is its own base; {_repair(store)}")
        found.insert(0, show(store, found[0].base))
    return found


def verify(store: Store, version: str | None = None) -> list[str]:
    """The faults of the files of a version and of its bases, one message each; empty if there are none.

    Raises VersionError if the manifest itself is missing or damaged.
    """
    parts = chain(store, show(store, version))
    files = [(part.id, file) for part in parts for file in part.all_files]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [fault for fault in pool.map(lambda f: file_fault(store, *f), files) if fault]


def file_fault(store: Store, version: str, file: FileEntry) -> str | None:
    """The fault of one file by its size and hash, or None."""
    name = f"{folder_of(version)}/{file.path}"
    return _difference(store, name, file, store.sha256_of(name))


def read_file(store: Store, version: str, file: FileEntry) -> bytes:
    """The content of one file. Raises VersionError if it is missing, or its size or hash differs from the manifest's."""
    name = f"{folder_of(version)}/{file.path}"
    data = store.read(name)
    if data is None:
        raise missing(store, version, file.path)
    wrong = _difference(store, name, file, (hashlib.sha256(data).hexdigest(), len(data)))
    if wrong:
        raise VersionError(f"{wrong}; {_repair(store)}")
    return data


def missing(store: Store, version: str, path: str) -> VersionError:
    """The error for a missing file of a published version: it is damaged, or was removed in the meantime."""
    if any(entry.version == version for entry in published(store)):
        where = store.path_of(f"{folder_of(version)}/{path}")
        return VersionError(f"`{where}` is missing; {_repair(store)}")
    return VersionError(
        f"version {version} of store {store.path} was removed while it was read, probably by `raymtl versions gc`; use the "
        f"current version, or let gc keep more versions with --keep"
    )


def _difference(store: Store, name: str, file: FileEntry, found: tuple[str, int] | None) -> str | None:
    """The fault of a file with the hash and bytes `found` (None: it does not exist), or None."""
    if found is None:
        return f"`{store.path_of(name)}` is missing"
    if found != (file.sha256, file.bytes):
        size = "" if found[1] == file.bytes else f" ({found[1]:,} bytes instead of {file.bytes:,})"
        return f"`{store.path_of(name)}` is damaged: its hash differs from the manifest's{size}"
    return None


def _no_version(store: Store) -> str:
    return f"store {store.path} does not exist or has no version; check its path, or publish a run first"


def _repair(store: Store) -> str:
    """What to do about a damaged version."""
    return f"restore the file from a backup, or run `raymtl versions rollback VERSION --store {store.path}` with another version"


def clear(store: Store, version: str) -> None:
    """Remove what a killed writer left under the name of a version that is about to be written.

    Raises VersionError if a version of that name was published.
    """
    if any(entry.version == check_id(version) for entry in commit_log.entries(store)):
        raise VersionError(f"store {store.path} already has a version {version}; choose another name with --version")
    store.remove_folder(folder_of(version))


def publish(store: Store, version: str, check_lease: Callable[[], None] | None = None) -> commit_log.Entry:
    """Make a written version current, in one step.

    `check_lease` is called right before and raises if the lease is lost. A version that is already current stays so. Raises
    VersionError if some of its files are missing or have another size.
    """
    last = commit_log.newest(store)
    if last is not None and last.version == version and last.action == "publish":
        return last  # an earlier call succeeded, but its answer was lost
    manifest = read_unpublished(store, version)
    check_sizes(store, manifest, manifest.all_files)
    if any(entry.version == version for entry in commit_log.entries(store)):
        raise VersionError(
            f"store {store.path}: version {version} is already published; run `raymtl versions rollback {version} --store "
            f"{store.path}` to make it current"
        )
    if check_lease is not None:
        check_lease()
    return commit_log.append(store, last, "publish", version, version, _digest(store, version))


def rollback(
    store: Store, version: str | None = None, check_lease: Callable[[], None] | None = None
) -> commit_log.Entry:
    """Make an earlier version current again; None: the parent of the current one, or if that was removed, the last version
    published before it that was not rolled back.

    Versions published since stay in the store. Raises VersionError if there is no such version, or files of it are missing.
    """
    entries = commit_log.entries(store)
    if not entries:
        raise VersionError(_no_version(store))
    last = entries[-1]
    if version is None:
        version = _rollback_target(store, entries)
    entry = _entry(store, version)
    version = entry.version
    for part in chain(store, _manifest(store, entry.version, entry.manifest)):
        check_sizes(store, part, part.all_files)
    if version == last.current:
        return last
    if check_lease is not None:
        check_lease()
    return commit_log.append(store, last, "rollback", version, version, entry.manifest)


def _rollback_target(store: Store, entries: list[commit_log.Entry]) -> str:
    now, there = entries[-1].current, [entry.version for entry in _published(entries)]
    with suppress(VersionError):  # rolling back must work from a damaged version too
        parent = show(store, now).parent
        if parent in there:
            return parent
    withdrawn = commit_log.rolled_back(entries)
    before = there[: there.index(now)] if now in there else there
    good = [version for version in before if version not in withdrawn]
    if not good:
        raise VersionError(
            f"store {store.path}: no earlier version can be restored: all before {now} were removed or rolled back; pass one "
            f"from `raymtl versions list` by name"
        )
    return good[-1]


def gc(
    store: Store,
    keep: int,
    keep_unpublished: Collection[str] = (),
    check_lease: Callable[[], None] | None = None,
    dry_run: bool = False,
    keep_published: Collection[str] = (),
) -> Removed:
    """Remove all but the newest `keep` versions, and what killed writers left behind; the caller holds the lease.

    The current version stays, those of `keep_published`, and the bases of all versions that are kept. `keep_unpublished` names
    unpublished folders to keep, such as a candidate's.
    """
    if keep < 1:
        raise VersionError(f"gc(keep={keep}) of store {store.path}: keep must be 1 or more")
    last, there = commit_log.newest(store), published(store)
    kept = {entry.version for entry in there if entry.version in keep_published}
    kept |= {entry.version for entry in there[-keep:]} | ({last.current} if last else set())
    for version in list(kept):
        try:
            kept |= {part.id for part in chain(store, show(store, version))}
        except VersionError:
            if last is not None and version == last.current:
                raise
            continue  # damaged: keep it for inspection, but not its bases
    gone = [entry.version for entry in there if entry.version not in kept]
    known = {entry.version for entry in there}
    leftovers = [name for name in store.names(FOLDER) if name not in known and name not in keep_unpublished]
    if not dry_run:
        for version in gone:
            if check_lease is not None:
                check_lease()
            assert last is not None
            # Logged first: a reader that finds the entry does not start, and the next gc finishes an interrupted removal
            last = commit_log.append(store, last, "remove", version, last.current, "")
            store.remove_folder(folder_of(version))
        for name in leftovers:
            if check_lease is not None:
                check_lease()
            store.remove_folder(folder_of(name))
    return Removed(gone, leftovers)


def _entry(store: Store, version: str | None) -> commit_log.Entry:
    """The entry that published a version which still exists."""
    there = {entry.version: entry for entry in published(store)}
    if version is None:
        version = current(store)
        if version is None:
            raise VersionError(_no_version(store))
    if version not in there:
        if not there:
            raise VersionError(_no_version(store))
        dated = [name for name in there if _is_day(version) and name.startswith(f"{version}-")]
        if len(dated) == 1:
            return there[dated[0]]
        if dated:
            raise VersionError(
                f"store {store.path} has {len(dated)} versions of {version}; pass one of: {', '.join(dated)}"
            )
        listed = ", ".join(list(there)[-5:])
        raise VersionError(f"store {store.path} has no version `{version}`; pass one of: {listed}")
    return there[version]


def _is_day(name: str) -> bool:
    with suppress(ValueError):
        return str(dt.date.fromisoformat(name)) == name
    return False


def _manifest(store: Store, version: str, digest: str) -> Manifest:
    """The manifest of a version, verified against its digest in the log (empty: no digest)."""
    name = f"{folder_of(version)}/{NAME}"
    data = store.read(name)
    where = store.path_of(name)
    if data is None:
        raise VersionError(f"`{where}` is missing, so version {version} is incomplete; {_repair(store)}")
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise VersionError(f"`{where}` is damaged: its hash differs from the one in the log; {_repair(store)}")
    manifest = parse_manifest(data, where, _repair(store))
    if manifest.id != version:
        raise VersionError(f"`{where}` belongs to version {manifest.id}, not to {version}; {_repair(store)}")
    return manifest


def _digest(store: Store, version: str) -> str:
    return hashlib.sha256(store.read(f"{folder_of(version)}/{NAME}") or b"").hexdigest()


def check_sizes(store: Store, manifest: Manifest, files: Iterable[FileEntry]) -> None:
    """Raise VersionError if some of these files of a version are missing or have another size."""
    there = store.files(folder_of(manifest.id))
    for file in files:
        if there.get(file.path) != file.bytes:
            found = f"has {there[file.path]:,} bytes instead of {file.bytes:,}" if file.path in there else "is missing"
            raise VersionError(
                f"`{store.path_of(f'{folder_of(manifest.id)}/{file.path}')}` {found}, so version {manifest.id} is incomplete; "
                f"{_repair(store)}"
            )
