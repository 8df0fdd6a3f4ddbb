"""A published version read for serving: without optimizer state, and into plain arrays."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import safetensors.torch
from torch import Tensor

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.daily.versions.manifest import DENSE, KEY, WEIGHT, Manifest
from raymtl.daily.versions.owners import read_map
from raymtl.daily.versions.read_rows import numbers, row_groups
from raymtl.daily.versions.storage import Store, open_store, read_bytes
from raymtl.daily.versions.store import chain, file_fault, folder_of, show
from raymtl.data.idmap import IdMap
from raymtl.data.source import below, split_options
from raymtl.errors import VersionError
from raymtl.serving.model import served_tables

_THREADS = 8
_CURRENT = "current"
_FOLDER = re.compile(r"(.+)/versions/([^/]+)")


@dataclass(frozen=True)
class Version:
    """A published version, and those it rests on."""

    store: Store
    parts: list[Manifest]
    """A whole version and the deltas on it; the last one is the version itself."""
    config: Config

    @property
    def manifest(self) -> Manifest:
        """That of the version itself."""
        return self.parts[-1]

    @property
    def digest(self) -> str:
        """Hash of its manifest, which has the hashes of all its files."""
        return hashlib.sha256(self.manifest.dump()).hexdigest()


def open_version(path: str) -> Version:
    """The version in the folder `<store>/versions/<id>`; `<store>/versions/current` and the store alone mean the current one.

    Every file that serving reads is checked by its hash first. Raises VersionError where one is missing or damaged, or there is
    no such version, and StorageError where the storage goes on failing.
    """
    folder, options = split_options(path)
    named = _FOLDER.fullmatch(folder.rstrip("/"))
    store = open_store(named[1] + options if named else path)
    parts = chain(store, show(store, named[2] if named and named[2] != _CURRENT else None))
    config = config_from_dict(parts[-1].config, f"version {parts[-1].id}")
    files = [(part.id, file) for part in parts for table in served_tables(config) for file in part.tables[table].files]
    files += [(parts[-1].id, file) for file in parts[-1].files if file.path == DENSE]
    with ThreadPoolExecutor(_THREADS) as pool:
        faults = [fault for fault in pool.map(lambda f: file_fault(store, *f), files) if fault]
    if faults:
        more = f" (and {len(faults) - 1} more of its files)" if len(faults) > 1 else ""
        raise VersionError(f"{faults[0]}{more}; take another version, or restore the file from a copy")
    return Version(store, parts, config)


def read_dense(version: Version) -> dict[str, Tensor]:
    """The dense weights by their name in the trained module."""
    name = f"{folder_of(version.manifest.id)}/{DENSE}"
    data = read_bytes(version.store, name)
    if data is None:
        raise VersionError(f"`{below(version.store.path, name)}` went missing; run the same command again")
    return safetensors.torch.load(data)


def read_table(version: Version, table: str) -> np.ndarray:
    """The weights of a table, [R, D] float32."""
    newest = version.manifest.tables[table]
    weights = np.zeros((newest.rows, newest.dim), np.float32)
    for part in version.parts:
        for file in part.tables[table].files:
            for batch in row_groups(version.store, part.id, file, [KEY, WEIGHT], [(0, newest.rows)]):
                weights[batch.column(KEY).to_numpy()] = numbers(batch.column(WEIGHT)).reshape(-1, newest.dim)
    return weights


def read_id_map(version: Version, table: str) -> IdMap:
    """Who holds which row of a `map` table."""
    return read_map(version.store, version.parts, table)
