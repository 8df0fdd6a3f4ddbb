"""Read a published version for serving: without optimizer state, into plain arrays."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import safetensors.torch
from torch import Tensor

from raymtl.config.load import config_from_dict, with_score
from raymtl.config.root import Config
from raymtl.config.slots.common import Custom
from raymtl.data.ids.id_map import IdMap
from raymtl.errors import ConfigError, VersionError
from raymtl.model_store.manifest import DENSE, KEY, WEIGHT, FileEntry, Manifest
from raymtl.model_store.row_ids import read_map
from raymtl.model_store.store import chain, check_sizes, read_file, show
from raymtl.model_store.table_reader import numbers, row_groups
from raymtl.serving.model import served_tables
from raymtl.storage.object_store import Store
from raymtl.storage.paths import split_options

_CURRENT = "current"
_FOLDER = re.compile(r"(.+)/versions/([^/]+)")


@dataclass(frozen=True)
class Version:
    """A published version, and its bases."""

    store: Store
    parts: list[Manifest]
    """A full version and the deltas on it; the last one is the version itself."""
    config: Config

    @property
    def manifest(self) -> Manifest:
        """The manifest of the version itself."""
        return self.parts[-1]

    @property
    def digest(self) -> str:
        """Hash of its manifest, which has the hashes of all its files."""
        return hashlib.sha256(self.manifest.dump()).hexdigest()


def open_version(path: str, allow_custom: bool = False, formulas: str | None = None) -> Version:
    """The version in the folder `<store>/versions/<id>`; `<store>/versions/current` and the store alone mean the current one.

    Checks that every file that serving needs exists with its size; hashes are verified on reading. Raises VersionError if a file
    or the version is missing, and StorageError if the storage keeps failing. A model with slots of `type: custom` would run the
    code that its configuration names, so it raises ConfigError unless `allow_custom`. `formulas` is a file with a `score` section
    in place of the version's.
    """
    folder, options = split_options(path)
    named = _FOLDER.fullmatch(folder.rstrip("/"))
    store = Store.open(named[1] + options if named else path)
    parts = chain(store, show(store, named[2] if named and named[2] != _CURRENT else None))
    config = config_from_dict(parts[-1].config, f"version {parts[-1].id}")
    if formulas is not None:
        config = with_score(config, formulas)
    if not allow_custom:
        _refuse_custom(config, parts[-1].id)
    for part in parts:
        check_sizes(store, part, [file for table in served_tables(config) for file in part.tables[table].files])
    version = Version(store, parts, config)
    check_sizes(store, version.manifest, [_dense_file(version)])
    return version


def _refuse_custom(config: Config, version: str) -> None:
    """Raise ConfigError if building the model would import classes that the version's configuration names."""
    for slot, path in custom_slots(config).items():
        raise ConfigError(
            f"version {version} has a slot of `type: custom`: {slot}.path is `{path}`, which would be imported and run; use "
            "--allow-custom if you know that class and trust the publisher of the version"
        )


def custom_slots(config: Config) -> dict[str, str]:
    """Import path of the class of every slot of `type: custom`, by the slot's dotted key."""
    sections = {slot: getattr(config.model, slot) for slot in type(config.model).model_fields}
    return {f"model.{slot}": section.path for slot, section in sections.items() if isinstance(section, Custom)}


def _dense_file(version: Version) -> FileEntry:
    for file in version.manifest.files:
        if file.path == DENSE:
            return file
    raise VersionError(
        f"version {version.manifest.id} of store `{version.store.path}`: its manifest lists no `{DENSE}`; choose another version"
    )


def read_dense(version: Version) -> dict[str, Tensor]:
    """The dense weights by their name in the trained module. VersionError if the file is damaged."""
    return safetensors.torch.load(read_file(version.store, version.manifest.id, _dense_file(version)))


def read_table(version: Version, table: str) -> np.ndarray:
    """The weights of a table, [R, D] float32. VersionError if a file is damaged."""
    newest = version.manifest.tables[table]
    weights = np.zeros((newest.rows, newest.dim), np.float32)
    for part in version.parts:
        for file in part.tables[table].files:
            for batch in row_groups(version.store, part.id, file, [KEY, WEIGHT], [(0, newest.rows)], checked=True):
                weights[batch.column(KEY).to_numpy()] = numbers(batch.column(WEIGHT)).reshape(-1, newest.dim)
    return weights


def read_id_map(version: Version, table: str) -> IdMap:
    """The ID map of a `map` table. VersionError if a file is damaged."""
    return read_map(version.store, version.parts, table, checked=True)
