"""Write a version: every worker its own rows of every table, the first worker the other files and, last, the manifest."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist

from raymtl.config.load import config_hash
from raymtl.data.ids.id_map import IdMap
from raymtl.dependencies import package_versions
from raymtl.embeddings.names import table_of
from raymtl.embeddings.rows import row_chunks, table_rows
from raymtl.errors import UserError
from raymtl.model_store.commit_log import utc_now
from raymtl.model_store.delta import changed_rows, check_base, write_expired
from raymtl.model_store.draft import Draft
from raymtl.model_store.manifest import DENSE, NAME, OPTIMIZER, TABLE_STEPS, FileEntry, Manifest, TableEntry
from raymtl.model_store.row_ids import RowIds
from raymtl.model_store.store import clear, folder_of, show
from raymtl.model_store.table_writer import CHUNK_BYTES, FILE_BYTES, TableWriter, parquet_schema, rows_per_chunk
from raymtl.storage.object_store import Store
from raymtl.training.build import TrainState
from raymtl.training.distributed import all_gather_or_raise


@dataclass(frozen=True)
class Delta:
    """How a version differs from its base."""

    base: str
    """The published version that has all other rows."""
    rows: Mapping[str, np.ndarray]
    """By table, the row numbers changed since the base, in any order; each worker names the rows it knows of."""
    expired: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By table, the evicted IDs, [N] int64; the same on every worker."""
    state_decay: float = 1.0
    """Factor on the optimizer state of all rows, applied before those rows changed."""


def write_version(
    train_state: TrainState,
    store: Store,
    draft: Draft,
    group: dist.ProcessGroup,
    *,
    maps: Mapping[str, IdMap] | None = None,
    delta: Delta | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    file_bytes: int = FILE_BYTES,
) -> Manifest:
    """Write a full version, or with `delta` only its changed rows; called by all workers of `group` (over gloo) together.

    `maps` hold the IDs of the rows of each `map` table. Returns the manifest on all workers. The version is invisible before
    `store.publish`. Files that a killed writer left under that name are removed first. An error of one worker is raised on all.
    """
    rank = dist.get_rank(group)
    all_gather_or_raise(group, lambda: clear(store, draft.id) if rank == 0 else None)
    tables = table_rows(train_state.model, group)
    optimizer = draft.config.train.sparse_optimizer
    kinds = {name: optimizer.of_table(table).type for name, table in train_state.lookup.tables.items()}
    spaces = {name: table.id_space for name, table in train_state.lookup.tables.items()}
    changed: dict[str, np.ndarray] = {}
    if delta is not None:
        base: Manifest = all_gather_or_raise(group, lambda: show(store, delta.base) if rank == 0 else None)[0]
        all_gather_or_raise(group, lambda: check_base(base, tables, spaces, kinds))
        changed = changed_rows(all_gather_or_raise(group, lambda: delta.rows), base, tables)
    parts: dict[str, list[FileEntry]] = {}
    errors: list[UserError] = []
    for name, table in tables.items():
        owners = RowIds(maps[name]) if maps and name in maps else None
        writer = TableWriter(store, draft.id, table, owners, rank, file_bytes)
        for chunk in row_chunks(table, rows_per_chunk(table, chunk_bytes), group, changed.get(name)):
            writer.write(chunk)
        parts[name] = writer.close()
        errors += [writer.error] if writer.error else []
    all_parts: list[Any] = all_gather_or_raise(group, lambda: _unless(errors, parts))
    others: list[Any] = all_gather_or_raise(
        group, lambda: _other_files(train_state, store, draft.id, delta) if rank == 0 else []
    )
    config = draft.config
    manifest = Manifest(
        id=draft.id,
        parent=draft.parent,
        base=delta.base if delta else None,
        state_decay=delta.state_decay if delta else 1.0,
        created=utc_now().replace(microsecond=0),
        code=package_versions(),
        config=config.model_dump(mode="json"),
        config_hash=config_hash(config),
        data_range=draft.data_range,
        snapshots=draft.snapshots,
        counts=draft.counts,
        metrics=draft.metrics,
        base_rates=draft.base_rates,
        tables={
            name: TableEntry(
                rows=table.rows,
                dim=table.dim,
                id_space=spaces[name],
                optimizer=kinds[name],
                state=table.state_dims,
                columns=parquet_schema(table, bool(maps and name in maps)).names,
                files=sorted((f for p in all_parts for f in p[name]), key=lambda f: (f.first, f.path)),
            )
            for name, table in tables.items()
        },
        files=others[0],
    )
    manifests = all_gather_or_raise(group, lambda: _written(store, manifest) if rank == 0 else None)
    return manifests[0]


def dense_weights(train_state: TrainState) -> dict[str, torch.Tensor]:
    """The model's state except the tables, by name; the tensors are the model's own memory."""
    return {key: value for key, value in train_state.model.state_dict().items() if table_of(key) is None}


def dense_optimizer(train_state: TrainState) -> dict[str, torch.Tensor]:
    """State of the dense optimizer, by `<weight>.<state>`; the tensors are the optimizer's own memory."""
    states = train_state.optimizers.combined.state_dict()["state"]
    return {
        f"{key.removeprefix('dense.')}.{name}": value
        for key, state in states.items()
        if key.startswith("dense.")
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def optimizer_state(train_state: TrainState) -> dict[str, torch.Tensor]:
    """State of the dense optimizer, and the steps of the tables' one, whose other state is in the tables' files."""
    return {TABLE_STEPS: train_state.optimizers.table_steps, **dense_optimizer(train_state)}


def _other_files(train_state: TrainState, store: Store, version: str, delta: Delta | None) -> list[FileEntry]:
    files = []
    for path, tensors in ((DENSE, dense_weights(train_state)), (OPTIMIZER, optimizer_state(train_state))):
        # a copy of each: the format refuses tensors that share memory
        data = safetensors.torch.save({k: v.detach().cpu().clone() for k, v in tensors.items()})
        store.write(f"{folder_of(version)}/{path}", data)
        files.append(FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    for table, ids in (delta.expired if delta else {}).items():
        if len(ids):
            files.append(write_expired(store, version, table, ids))
    return files


def _written(store: Store, manifest: Manifest) -> Manifest:
    store.write(f"{folder_of(manifest.id)}/{NAME}", manifest.dump())
    return manifest


def _unless(errors: list[UserError], value: Any) -> Any:
    if errors:
        raise errors[0]
    return value
