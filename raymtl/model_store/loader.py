"""Load a version into a model on any number of workers, under any sharding plan."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist

from raymtl.config.features import Table
from raymtl.config.root import Config
from raymtl.embeddings.rows import LocalShard, TableRows, decay_state, fill, table_rows
from raymtl.errors import VersionError
from raymtl.model_store.calibration import Maps
from raymtl.model_store.manifest import DENSE, KEY, OPTIMIZER, WEIGHT, Manifest
from raymtl.model_store.store import chain, file_fault, folder_of, missing, show
from raymtl.model_store.table_reader import numbers, row_groups
from raymtl.model_store.writer import dense_weights, optimizer_state
from raymtl.storage.object_store import Store
from raymtl.training.build import TrainState
from raymtl.training.distributed import all_gather_or_raise
from raymtl.training.shapes import model_entries
from raymtl.words import count_of


@dataclass(frozen=True)
class LoadedVersion:
    """A loaded version."""

    manifest: Manifest
    notes: list[str]
    """Sentences on what the version lacks and starts fresh."""


def load_version(
    train_state: TrainState,
    config: Config,
    store: Store,
    version: str | None,
    group: dist.ProcessGroup,
    *,
    optimizer: bool = True,
) -> LoadedVersion:
    """Fill the model of `config` and its optimizers from a published version (None: the current one), in place.

    Called by all workers of `group` (over gloo) together. First, each file's hash is verified by one of the workers: nothing
    is loaded from a damaged version. Without `optimizer` only the weights are read. Raises VersionError on all workers before
    the model changes.
    """
    first = dist.get_rank(group) == 0
    manifests: list[Manifest] = all_gather_or_raise(
        group, lambda: chain(store, show(store, version)) if first else None
    )[0]
    newest = manifests[-1]
    _check_files(store, manifests, group)
    tables = table_rows(train_state.model, group)
    optimizer_of = config.train.sparse_optimizer.of_table
    kinds = {name: optimizer_of(table).type for name, table in train_state.lookup.tables.items()}
    read: dict[str, dict[str, torch.Tensor]] = {}

    maps = Maps.of(config, newest)

    def compare() -> list[str]:
        found = [*_compare_tables(train_state.lookup.tables, newest), *maps.notes]
        if optimizer:
            found += _compare_optimizer(newest, kinds)
        read[DENSE] = maps.kept(_tensors(store, newest.id, DENSE))
        _compare_dense(read[DENSE], maps.kept(dense_weights(train_state)), newest.id)
        if optimizer:
            read[OPTIMIZER] = _tensors(store, newest.id, OPTIMIZER)
        return found

    notes = all_gather_or_raise(group, compare)[0]
    _copy(read[DENSE], dense_weights(train_state))
    calibrator = train_state.model.module.head.ranker.calibrator
    if calibrator is not None and not maps.are_same:
        calibrator.reset()
    if optimizer:
        train_state.optimizers.materialize_dense_state()
        notes += _load_optimizer(read[OPTIMIZER], optimizer_state(train_state), newest.id)
        trained = [n for n, t in train_state.lookup.tables.items() if t.trainable and n in newest.tables]
        same = any(kinds[name] == newest.tables[name].optimizer for name in trained)
        train_state.optimizers.set_table_steps(int(train_state.optimizers.table_steps) if same else 0)

    def load() -> None:
        for manifest in manifests:
            if optimizer and manifest.state_decay != 1:
                for table in tables.values():
                    decay_state(table, manifest.state_decay)
            for name, table in tables.items():
                if name in newest.tables and name in manifest.tables:
                    with_state = optimizer and newest.tables[name].optimizer == kinds[name]
                    copies = newest.tables[name].id_space == "hash"
                    _load_table(store, manifest, table, copies, with_state)

    all_gather_or_raise(group, load)
    return LoadedVersion(newest, notes)


def check_fits(config: Config, store: Store, version: Manifest) -> None:
    """Raise VersionError if the model of `config` cannot start from a version: the same comparison, without the model."""
    _compare_tables(config.tables, version)
    if (entries := model_entries(config)) is not None:
        saved = _tensors(store, version.id, DENSE)
        maps = Maps.of(config, version)
        dense, here = ({k: v for k, v in maps.kept(some).items() if k.startswith("head.")} for some in (saved, entries))
        _compare_dense(dense, here, version.id)


def _check_files(store: Store, manifests: list[Manifest], group: dist.ProcessGroup) -> None:
    """Verify the hash of every file, largest first, spread over the workers."""
    files = sorted(((m.id, f) for m in manifests for f in m.all_files), key=lambda item: -item[1].bytes)
    own = files[dist.get_rank(group) :: dist.get_world_size(group)]
    found = all_gather_or_raise(group, lambda: [fault for item in own if (fault := file_fault(store, *item))])
    if faults := [fault for part in found for fault in part]:
        more = f" (and {count_of(len(faults) - 1, 'more fault')} of its files)" if len(faults) > 1 else ""
        raise VersionError(
            f"{faults[0]}{more}; nothing was loaded: run `raymtl versions rollback`, or restore the file from a copy"
        )


def _compare_tables(tables: dict[str, Table], version: Manifest) -> list[str]:
    """Notes on tables that are not loaded unchanged; VersionError if a table cannot be loaded."""
    notes = []
    for name, table in tables.items():
        saved = version.tables.get(name)
        if saved is None:
            notes.append(f"table `{name}` is not in version {version.id} and starts fresh")
            continue
        for key, now, before in (("dim", table.dim, saved.dim), ("id_space", table.id_space, saved.id_space)):
            if now != before:
                raise VersionError(
                    f"tables.{name}.{key} is {now} and version {version.id} has {before}, so its rows cannot be loaded; set it "
                    f"back to {before}, or give the table another name to start it fresh"
                )
        if table.rows == saved.rows:
            continue
        if table.id_space == "hash":
            if table.rows % saved.rows:
                raise VersionError(
                    f"tables.{name}.rows is {table.rows:,} and version {version.id} has {saved.rows:,}; the row of an ID in a "
                    f"`hash` table is its hash modulo the rows, so nearly every ID would get another ID's row: set rows back "
                    f"to {saved.rows:,} or to a multiple of it, or give the table another name to start it fresh"
                )
            notes.append(
                f"table `{name}` grew from {saved.rows:,} to {table.rows:,} rows; each new row starts as a copy of the row that "
                f"its IDs had"
            )
        elif table.rows < saved.rows:
            raise VersionError(
                f"tables.{name}.rows is {table.rows:,} and version {version.id} has {saved.rows:,} rows, some of which would be "
                f"lost; set rows to {saved.rows:,} or more, or give the table another name to start it fresh"
            )
        else:
            notes.append(f"table `{name}` grew from {saved.rows:,} to {table.rows:,} rows; the new ones start fresh")
    if extra := [name for name in version.tables if name not in tables]:
        notes.append(f"version {version.id} has tables that this model lacks; they are ignored: {', '.join(extra)}")
    return notes


def _compare_optimizer(version: Manifest, kinds: Mapping[str, str]) -> list[str]:
    changes = {(t.optimizer, kinds[n]) for n, t in version.tables.items() if n in kinds and kinds[n] != t.optimizer}
    return [
        f"the tables' optimizer was {before} in version {version.id} and is now {now}; its state starts fresh"
        for before, now in sorted(changes)
    ]


def _tensors(store: Store, version: str, path: str) -> dict[str, torch.Tensor]:
    data = store.read(f"{folder_of(version)}/{path}")
    if data is None:
        raise missing(store, version, path)
    return safetensors.torch.load(data)


def _compare_dense(saved: dict[str, torch.Tensor], here: dict[str, torch.Tensor], version: str) -> None:
    advice = f"use the configuration of the version (`raymtl versions show {version}`), or train a new model"
    for name in [*here, *saved]:
        if name not in saved:
            raise VersionError(f"version {version} is of another model: it has no `{name}`; {advice}")
        if name not in here:
            raise VersionError(f"version {version} is of another model: it has `{name}`; {advice}")
        if saved[name].shape != here[name].shape:
            raise VersionError(
                f"version {version} is of another model: `{name}` has shape {list(saved[name].shape)} there and "
                f"{list(here[name].shape)} here; {advice}"
            )


def _load_optimizer(saved: dict[str, torch.Tensor], here: dict[str, torch.Tensor], version: str) -> list[str]:
    """Copy the states that both have; the others stay as `materialize_dense_state` left them."""
    both = {k: v for k, v in saved.items() if k in here and here[k].shape == v.shape}
    _copy(both, here)
    if missing := [k for k in here if k not in both]:
        return [
            f"the dense optimizer has {count_of(len(missing), 'state')} that version {version} lacks, such as `{missing[0]}`; "
            f"they start fresh"
        ]
    return []


def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)


@dataclass(frozen=True)
class _RowRange:
    """Rows [`first`, `last`) of the version, and the shard that takes them, shifted by `shift` rows."""

    shard: LocalShard
    first: int
    last: int
    shift: int


def _row_ranges(table: TableRows, rows: int) -> list[_RowRange]:
    """The rows that this worker's shards need from a table with `rows` rows in the version.

    A table that is k times as large takes the same rows k times: with row = hash mod rows, the IDs of the rows r, r + rows,
    r + 2·rows … of the larger table are those of row r. (Other tables that grew take only the existing rows.)
    """
    found = []
    for shard in table.local:
        begin, end = shard.place.first_row, shard.place.first_row + shard.place.rows
        for shift in range(begin // rows * rows, end, rows):
            first, last = max(begin, shift), min(end, shift + rows)
            found.append(_RowRange(shard, first - shift, last - shift, shift))
    return found


def _load_table(store: Store, version: Manifest, table: TableRows, copies: bool, with_state: bool) -> None:
    entry = version.tables[table.name]
    wanted = [r for r in _row_ranges(table, entry.rows) if copies or r.shift == 0]
    state = list(entry.state) if with_state else []
    for file in entry.files:
        ranges = [(r.first, r.last) for r in wanted]
        for batch in row_groups(store, version.id, file, [KEY, WEIGHT, *state], ranges):
            keys = batch.column(KEY).to_numpy()
            values = {name: numbers(batch.column(name)) for name in (WEIGHT, *state)}
            for span in wanted:
                a, b = np.searchsorted(keys, [span.first, span.last])
                rows = {name: value[a:b] for name, value in values.items()}
                fill(span.shard, keys[a:b] + span.shift, rows.pop(WEIGHT), rows)
