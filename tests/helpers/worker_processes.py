"""Several processes over gloo under a hard time limit, and small models and batches for them."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator

TIME_LIMIT_S = 120

# A process that is spawned imports torch and TorchRec first, which takes it longer than all that the tests let it do. So
# they are forked from one that has imported them and does nothing else: it holds no model, no process group, no thread.
multiprocessing.set_forkserver_preload(
    ["raymtl.training.build", "raymtl.training.checkpoint", "raymtl.model_store.loader"]
)


def _child(rank: int, work: Callable[..., Any], workers: int, folder: str, arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_WORLD_SIZE=str(workers), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    torch.save(work(rank, workers, *arguments), f"{folder}/answer-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def several(
    workers: int, folder: Path, work: Callable[..., Any], *arguments: Any, limit_s: float = TIME_LIMIT_S
) -> list[Any]:
    """What `work(rank, workers, *arguments)` returned on each of `workers` processes; a hang fails after the time limit."""
    folder.mkdir(parents=True)
    children = mp.start_processes(
        _child, args=(work, workers, str(folder), arguments), nprocs=workers, join=False, start_method="forkserver"
    )
    limit = time.monotonic() + limit_s
    try:
        while not children.join(timeout=1):
            assert time.monotonic() < limit, f"{workers} processes did not finish within {limit_s} s"
    finally:
        for process in children.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"answer-{rank}.pt", weights_only=False) for rank in range(workers)]


def mixed_config(
    sharding: list[str | None], optimizer: str = "rowwise_adagrad", rows: int = 24, **train: Any
) -> Config:
    """Every kind of lookup: single IDs, a pooled list, and a table shared by an ID and a sequence; no data behind it."""
    kinds = [sharding[n % len(sharding)] for n in range(5)]
    return config_from_dict(
        {
            "data": {"path": "/nowhere", "train": {"start": "2026-01-01", "end": "2026-01-01"}},
            "features": {
                "user": {"kind": "id"},
                "city": {"kind": "id"},
                "tags": {"kind": "ids"},
                "item": {"kind": "id"},
                "history": {"kind": "sequence", "table": "item", "max_length": 5},
                "age": {"kind": "dense"},
            },
            "table_defaults": {"dim": 16},
            "tables": {
                "user": {"rows": 51, "sharding": kinds[0]},
                "city": {"rows": 30, "sharding": kinds[1]},
                "tags": {"rows": 40, "pooling": "mean", "sharding": kinds[2]},
                "item": {"rows": 61, "sharding": kinds[3]},
            },
            "tasks": {"click": {}, "buy": {"parent": "click"}},
            "model": {
                "preset": "mmoe",
                "trunk": {"experts": 2, "hidden": [16]},
                "towers": {"hidden": [8]},
                "sequence": {"type": "pooled"},
                "order_loss": {"alpha": 0.5},
            },
            "train": {
                "batch_size": rows,
                "precision": "fp32",
                "dense_optimizer": {"lr": 0.001},
                "sparse_optimizer": {"type": optimizer, "lr": 0.1},
                **train,
            },
        }
    )


def mixed_block(config: Config, rows: int, seed: int, unit: int = 0) -> pa.Table:
    """A block of random rows with missing labels and missing IDs."""
    random = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {}
    for name, feature in config.features.items():
        if feature.kind == "dense":
            columns[f"dense:{name}"] = pa.array(random.normal(size=rows).astype(np.float32))
            continue
        if feature.kind == "sequence_dense":
            columns[f"numbers:{name}"] = _beside(columns[f"ids:{feature.of}"], random.normal)
            continue
        table_rows = config.tables[config.table_of(name)].rows
        if feature.kind in ("id", "bias"):
            columns[f"id:{name}"] = pa.array(random.integers(0, table_rows, rows), mask=random.random(rows) < 0.1)
        else:
            longest = feature.max_length or 5
            lists = [random.integers(0, table_rows, random.integers(0, 6)).tolist()[:longest] for _ in range(rows)]
            columns[f"ids:{name}"] = pa.array(lists, pa.list_(pa.int64()))
            if getattr(feature, "weights", None) is not None:
                columns[f"weights:{name}"] = _beside(
                    columns[f"ids:{name}"], lambda size: random.integers(0, 4, size) / 3
                )
    for name in config.tasks:
        labels = (random.random(rows) < 0.4).astype(np.float32)
        labels[random.random(rows) < 0.4] = np.nan
        columns[f"label:{name}"] = pa.array(labels)
    if config.data.weight:
        columns["weight"] = pa.array(random.random(rows).astype(np.float32))
    if config.data.scenario:
        columns["scenario"] = pa.array(random.integers(0, len(config.data.scenario.values) + 1, rows))
    columns["unit"] = pa.array(np.full(rows, unit, np.int32))
    return pa.table(columns)


def _beside(lists: pa.Array, numbers: Callable[..., np.ndarray]) -> pa.Array:
    """A number for each element of some lists."""
    return pa.ListArray.from_arrays(lists.offsets, pa.array(numbers(size=len(lists.flatten())).astype(np.float32)))


def share(config: Config, rank: int, workers: int, seed: int) -> Batch:
    """One worker's part of a global batch; the totals are those of the whole batch."""
    rows = config.train.batch_size
    block = mixed_block(config, rows, seed)
    batch = Collator(config, rows // workers, False)([block.slice(rank * rows // workers, rows // workers)])
    batch.totals = Collator(config, rows, False)([block]).totals
    return batch
