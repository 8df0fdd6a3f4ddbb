"""Checks of the storage: every operation that raymtl uses, tried from every node in a temporary folder."""

import os
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymtl.doctor.finding import Finding
from raymtl.errors import UserError
from raymtl.storage.object_store import Store

FOLDER = ".raymtl-doctor"
CHECKER = "checker"
"""File of the machine that runs the checks; every node must see it."""
_SLOW_S = 2.0


@dataclass(frozen=True)
class Trial:
    """A trial of one path of the configuration."""

    store: Store
    """Its temporary folder."""
    made: tuple[str, ...]
    """Local parent folders that the trial created, deepest first."""


def begin(path: str) -> Trial:
    """Create the trial's folder below `path`, with its parents. Raises UserError if it cannot be written."""
    store = Store.open(f"{path.rstrip('/')}/{FOLDER}-{uuid.uuid4().hex[:8]}")
    missing = tuple(str(f) for f in Path(store.root).parents if not os.path.exists(f)) if store.is_local else ()
    try:
        store.write(CHECKER, b"here", lasting=False)
    except UserError:
        if store.is_local:
            _remove_empty([store.root, *missing])
        raise
    return Trial(store, missing)


def end(trial: Trial) -> None:
    """Remove the folder, and the parents created for it that are still empty. Raises UserError if that fails."""
    trial.store.remove_folder()
    _remove_empty(trial.made)


def try_operations(folder: str, node: str) -> dict[str, Any]:
    """Try every operation from this node: `{"failed": {operation: sentence}, "wrong": [operation], "seconds": the slowest one}`.

    `wrong` are the failed operations that raised no error.

    What it wrote stays until `remove_trial_files`, for the checking machine to see. If the folder is not shared, nothing is
    written.
    """
    failed: dict[str, str] = {}
    inconsistent: list[str] = []
    slowest = 0.0
    store = Store.open(folder)
    for name, attempt in _attempts(store, node).items():
        started = time.perf_counter()
        try:
            if wrong := attempt():
                failed[name] = wrong
                inconsistent.append(name)
        except UserError as error:
            failed[name] = str(error)
        slowest = max(slowest, time.perf_counter() - started)
        if "share" in failed:
            break  # the checking machine could not clean up what is written to a local disk
    return {"failed": failed, "wrong": inconsistent, "seconds": slowest}


def remove_trial_files(folder: str, node: str) -> str | None:
    """Remove what `try_operations` wrote from this node; returns the error, or None."""
    try:
        store = Store.open(folder)
        for name in (_file(node), _once(node)):
            store.remove(name)
    except UserError as error:
        return str(error)
    if store.is_local:
        _remove_empty([store.root])  # not empty if shared with the checking machine, whose file it holds
    return None


def evaluate(found: dict[str, Any], what: str, folder: str, node: str) -> Finding:
    """The finding of one node; `what` is the key of the configuration."""
    failed: dict[str, str] = found["failed"]
    path = folder.rpartition("/")[0]
    if "share" in failed:
        remedy = f"set {what} to storage that all nodes share: object storage, or a network disk at the same path"
        return Finding("storage", what, "fail", f"{path}: {failed['share']}", remedy, node)
    if failed:
        operation, sentence = next(iter(failed.items()))
        remedy = (
            "use storage with strongly consistent reads and listings"
            if operation in found.get("wrong", ())
            else f"give the node permission to read, write, list and delete below {path}"
        )
        return Finding("storage", what, "fail", f"{path}: cannot {operation}: {sentence}", remedy, node)
    value = f"{path}: {', '.join(_OPERATIONS)} work, the slowest took {found['seconds']:.3f} s"
    if found["seconds"] > _SLOW_S:
        return Finding("storage", what, "warn", value, "use storage closer to the cluster", node)
    return Finding("storage", what, "ok", value, node=node)


def nodes_not_seen(trial: Trial, nodes: list[str]) -> list[str]:
    """Nodes whose file this machine does not see, although they wrote it."""
    there = set(trial.store.names())
    return [node for node in nodes if _file(node) not in there]


_OPERATIONS = ("write", "read", "list", "replace", "create once", "delete")


def _file(node: str) -> str:
    return f"node-{node}"


def _once(node: str) -> str:
    return f"once-{node}"


def _remove_empty(folders: Iterable[str]) -> None:
    """Remove those local folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            os.rmdir(folder)


def _attempts(store: Store, node: str) -> dict[str, Callable[[], str | None]]:
    """By operation, a function that tries it and returns the error. `share` comes first: the others work on a local disk too."""
    mine, once = _file(node), _once(node)

    def check_shared_folder() -> str | None:
        return None if store.read(CHECKER) == b"here" else "the node does not see what the checking machine wrote"

    def write() -> None:
        store.write(mine, b"first")

    def read() -> str | None:
        return None if store.read(mine) == b"first" else "a read returns other content than was written"

    def listed() -> str | None:
        return None if mine in store.names() else "a listing lacks an object that was just written"

    def replace() -> str | None:
        store.write(mine, b"second")
        return None if store.read(mine) == b"second" else "a read returns the old content after it was replaced"

    def create_once() -> str | None:
        store.create(once, b"mine")
        try:
            store.create(once, b"another's")
        except FileExistsError:
            return None
        return "an existing object was overwritten"

    def delete() -> str | None:
        store.remove(once)
        return None if store.read(once) is None else "a deleted object still exists"

    steps = (write, read, listed, replace, create_once, delete)
    return {"share": check_shared_folder, **dict(zip(_OPERATIONS, steps, strict=True))}
