"""The files of a version of a Delta Lake table, from its log.

deltalake opens storage its own way, with other options than raymtl; so the part of the log that a version needs is copied into a
temporary folder, through the file system that also reads the data. The log's rules are those of Delta Lake's protocol,
https://github.com/delta-io/delta/blob/master/PROTOCOL.md.
"""

import datetime as dt
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from raymtl.data.lakehouse.snapshot import SETTING, PartitionValue, Snapshot, TableFile
from raymtl.errors import ConfigError, DataError
from raymtl.storage.folder import Folder

TOOL = "Delta Lake"
LOG = "_delta_log"
_COPY_THREADS = 8
_KEPT = 4
"""Versions that are kept: the daily job asks for the files of each day."""
_ENTRY = re.compile(r"(\d{20})\.(json|checkpoint\..*parquet|checkpoint\..*json)")
_SIDECARS = "_sidecars/"
_State = tuple[int, int | None]
"""Size and modification time of a file."""


def latest_version(folder: Folder) -> int:
    """The newest version of the table in a folder. Raises DataError if its log is empty."""
    return max(number for number, _ in _log_entries(folder, _log_files(folder)).values())


def read_snapshot(folder: Folder, version: int | None) -> Snapshot:
    """A version of the table in a folder; None: the newest one.

    Raises ConfigError without the package deltalake, and DataError if the log no longer has the version, or if its rows are not
    simply those of parquet files.
    """
    files = _log_files(folder)
    entries = _log_entries(folder, files)
    number = max(number for number, _ in entries.values()) if version is None else version
    needed = _needed(folder, entries, number) + [name for name in files if name.startswith(_SIDECARS)]
    return _read(folder, number, tuple((name, files[name]) for name in sorted(needed)))


@lru_cache(_KEPT)
def _read(folder: Folder, number: int, needed: tuple[tuple[str, _State], ...]) -> Snapshot:
    """A version from the files of the log that it follows from; another table in the same folder has other ones."""
    with tempfile.TemporaryDirectory(prefix="raymtl-delta-") as copy:
        _copy(folder, [name for name, _ in needed], Path(copy, LOG), number)
        table = _open(folder, copy, number)
        words = f"version {number} of the {TOOL} table `{folder.path}`"
        _refuse_other_files(table, words)
        keys = tuple(table.metadata().partition_columns)
        actions = pa.table(table.get_add_actions())
    return Snapshot(number, words, keys, _files(folder, actions, words))


def _log_files(folder: Folder) -> dict[str, _State]:
    found = folder.entries(LOG, recursive=True)
    return {e.path.rpartition(f"/{LOG}/")[2]: (e.size, e.mtime_ns) for e in found if e.type == pafs.FileType.File}


def _log_entries(folder: Folder, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Version and kind (`json`: a commit; any other: a checkpoint) of the entries of the log, by name."""
    entries = {name: (int(match[1]), match[2]) for name in names if (match := _ENTRY.fullmatch(name))}
    if not entries:
        raise DataError(
            f"`{folder.path_of(LOG)}` has no entry of a {TOOL} table; restore the log, or remove the folder"
        )
    return entries


def _needed(folder: Folder, entries: Mapping[str, tuple[int, str]], version: int) -> list[str]:
    """The entries from which a version follows: the last checkpoint up to it, and the commits after that."""
    commits = {number for number, kind in entries.values() if kind == "json"}
    checkpoints = {number for number, kind in entries.values() if kind != "json"}
    newest = max(commits | checkpoints)
    if version > newest:
        raise DataError(
            f"the {TOOL} table `{folder.path}` has no version {version}, its newest one is {newest}; set {SETTING} to an "
            "existing version, or to null"
        )
    begin = max((n for n in checkpoints if n <= version), default=-1)
    if not commits >= set(range(begin + 1, version + 1)):
        raise DataError(
            f"the log of the {TOOL} table `{folder.path}` no longer has version {version}; set {SETTING} to a newer one, "
            f"such as {min((n for n in checkpoints if n > version), default=newest)}, or to null"
        )
    return [name for name, (number, _) in entries.items() if begin <= number <= version]


def _copy(folder: Folder, names: Sequence[str], target: Path, version: int) -> None:
    def copy(name: str) -> None:
        content = folder.read(f"{LOG}/{name}")
        if content is None:
            raise DataError(
                f"the log of the {TOOL} table `{folder.path}` lost {name} while version {version} was read; rerun the same "
                f"command, or set {SETTING} to a newer version"
            )
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(content)

    with ThreadPoolExecutor(_COPY_THREADS) as pool:
        list(pool.map(copy, names))


def _open(folder: Folder, copy: str, version: int) -> Any:
    """The table of a copied log."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError as error:
        raise ConfigError(
            f"`{folder.path}` is a table of {TOOL}, for which the package `deltalake` is missing ({error}); install it with "
            "`pip install 'raymtl[delta]'`"
        ) from error
    try:
        return DeltaTable(copy, version=version)
    except (DeltaError, TableNotFoundError) as error:
        raise DataError(
            f"the log of the {TOOL} table `{folder.path}` cannot be read at version {version} "
            f"({_one_line(error)}); write the table's rows to another folder, or choose another {SETTING}"
        ) from error


def _refuse_other_files(table: Any, words: str) -> None:
    """Raise DataError if the parquet files alone would give other rows than the table has."""
    if "deletionVectors" in (table.protocol().reader_features or []) and _has_deletion_vectors(table):
        raise DataError(
            f"{words} has deleted rows inside its files (deletion vectors), which raymtl does not read; rewrite the files with "
            "REORG TABLE … APPLY (PURGE), and set delta.enableDeletionVectors to false"
        )
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    for column in table.schema().fields if mode != "none" else ():
        stored = column.metadata.get("delta.columnMapping.physicalName", column.name)
        if stored != column.name:
            raise DataError(
                f"{words}: column `{column.name}` has the name `{stored}` in the files (delta.columnMapping.mode is {mode}), "
                "which raymtl does not read; write the table again without column mapping"
            )


def _has_deletion_vectors(table: Any) -> bool:
    from deltalake.exceptions import DeltaError

    try:
        return table.deletion_vectors().read_all().num_rows > 0
    except DeltaError:  # they are files of the table, which are not copied
        return True


def _files(folder: Folder, actions: pa.Table, words: str) -> list[TableFile]:
    paths = [unquote(path) for path in actions["path"].to_pylist()]
    if outside := next((path for path in paths if path.startswith("/") or "://" in path), None):
        raise DataError(
            f"{words} has files outside its folder, such as `{outside}` (a shallow clone), which raymtl does not read; copy the "
            "table with its files"
        )
    partitions = actions["partition"].to_pylist() if "partition" in actions.column_names else [{}] * len(paths)
    return [
        TableFile(folder.inside(path), size, {key: _value(value) for key, value in partition.items()})
        for path, size, partition in zip(paths, actions["size_bytes"].to_pylist(), partitions, strict=True)
    ]


def _value(value: Any) -> PartitionValue:
    if value is None or (isinstance(value, dt.date) and not isinstance(value, dt.datetime)):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
