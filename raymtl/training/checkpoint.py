"""Checkpoints: everything to resume a run, with the same or another number of workers and under another sharding plan.

A checkpoint is a folder in the format of torch.distributed.checkpoint (tables as sharded tensors, written by all workers), with a
`progress.json` that holds the progress of the run.
"""

import json
import pickle
import warnings
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from raymtl.embeddings.names import table_name
from raymtl.errors import CheckpointError
from raymtl.training.build import TrainState
from raymtl.training.checkpoint_reader import Planner, Reader, read_index
from raymtl.training.progress import PROGRESS, Progress


def state_of(train_state: TrainState) -> dict[str, Any]:
    """Model and both optimizers, as torch.distributed.checkpoint takes them."""
    return {"model": train_state.model.state_dict(), **_optimizer_state(train_state)}


def _optimizer_state(train_state: TrainState) -> dict[str, Any]:
    optimizers = train_state.optimizers
    return {"optimizer": optimizers.combined.state_dict(), "table_steps": optimizers.table_steps}


def save(
    train_state: TrainState, progress: Progress, folder: str, group: dist.ProcessGroup, background: bool
) -> Future | None:
    """Write this worker's shards into `folder`; in the background, the state is copied first and the Future completes when it
    is written."""
    if dist.get_rank(group) == 0:
        Path(folder, PROGRESS).write_text(json.dumps(asdict(progress)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if background:
            answer = dcp.async_save(
                state_of(train_state), checkpoint_id=folder, process_group=group, async_stager=BlockingAsyncStager()
            )
            return answer if isinstance(answer, Future) else answer.upload_completion
        dcp.save(state_of(train_state), checkpoint_id=folder, process_group=group)
        return None


def load(train_state: TrainState, folder: str, *, model_only: bool, group: dist.ProcessGroup) -> None:
    """Load a checkpoint into the model (and the optimizers), whatever sharding it was written under.

    Raises CheckpointError with the first table or weight that is missing or has another shape.
    """
    if not model_only:
        train_state.optimizers.materialize_dense_state()
    state: dict[str, Any] = {"model": train_state.model.state_dict()}
    if not model_only:
        state |= _optimizer_state(train_state)
    saved = saved_entries(folder)
    compare(state["model"], saved, folder)
    flat, _ = flatten_state_dict(state)
    regrouped = {
        k: v
        for k, v in flat.items()
        if isinstance(v, ShardedTensor | torch.Tensor) and k in saved and saved[k].size != v.size()
    }
    _read({k: v for k, v in flat.items() if k not in regrouped}, folder, group)
    # All read together, and a worker without a shard of a table does not know of its state
    known: list[list[str]] = [[] for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(known, list(regrouped), group=group)
    for key in sorted({key for keys in known for key in keys}):
        full = torch.empty(saved[key].size)
        _read({key: full}, folder, group)
        if key in regrouped:
            regroup_rowwise_state(full, train_state.lookup.tables[table_name(key.split(".")[-2])].rows, regrouped[key])
    # The tensors were read in place, those of replicated tables too; this loads the rest
    replicated = set() if train_state.replicated is None else train_state.replicated.keys
    train_state.model.load_state_dict({k: v for k, v in state["model"].items() if k not in replicated})
    if not model_only:
        train_state.optimizers.combined.load_state_dict(state["optimizer"])
        train_state.optimizers.set_table_steps(int(train_state.optimizers.table_steps))


def regroup_rowwise_state(saved: torch.Tensor, rows: int, target: ShardedTensor | torch.Tensor) -> None:
    """Convert row-wise Adagrad's accumulator between different numbers of column shards, into `target` in place.

    Row-wise Adagrad keeps the mean square gradient of a row; under column-wise sharding each column shard keeps that of its
    own columns, one after the other: `saved` [shards · rows]. The mean over the (equally wide) shards is the accumulator of
    the complete row, and a complete row's accumulator is used for each of its shards.
    """
    full = saved.view(-1, rows).mean(0)
    if not isinstance(target, ShardedTensor):  # of a replicated table
        target.copy_(full)
        return
    for shard in target.local_shards():
        first = shard.metadata.shard_offsets[0] % rows
        shard.tensor.copy_(full[first : first + shard.tensor.numel()].view_as(shard.tensor))


def _read(state: dict[str, Any], folder: str, group: dist.ProcessGroup) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(state, storage_reader=Reader(folder), planner=Planner(), process_group=group)
    except (CheckpointException, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint `{folder}` cannot be read, a file is missing or damaged: {_first_line(error)}; "
            f"name another checkpoint of the run"
        ) from error


def saved_entries(folder: str) -> dict[str, Any]:
    """Name and metadata of everything in a checkpoint."""
    try:
        return dict(read_index(folder).state_dict_metadata)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"`{folder}` has no readable checkpoint ({_first_line(error)}); name another one"
        ) from error


def compare(model: dict[str, Any], saved: dict[str, Any], folder: str) -> None:
    """Raise CheckpointError if a model's entries differ from those of a checkpoint in names or shapes.

    Called before anything is loaded: the loader itself would stop halfway, with a message about keys.
    """
    known = {k.removeprefix("model.") for k in saved if k.startswith("model.")}
    if missing := sorted(set(model) - known, key=_tables_first):
        raise CheckpointError(
            f"the checkpoint `{folder}` is of another model: it has no `{missing[0]}`; use the config.yaml of its run"
        )
    if extra := sorted(known - set(model), key=_tables_first):
        raise CheckpointError(
            f"the checkpoint `{folder}` is of another model: it has `{extra[0]}`, which this configuration lacks; "
            f"use the config.yaml of its run"
        )
    for name, value in sorted(model.items(), key=lambda item: _tables_first(item[0])):
        shape, found = tuple(value.size()), tuple(getattr(saved[f"model.{name}"], "size", value.size()))
        if shape != found:
            raise CheckpointError(
                f"the checkpoint `{folder}` is of another model: `{name}` has shape {list(found)} there and {list(shape)} "
                f"here; use the config.yaml of its run, or start a new run under another name"
            )


def _tables_first(name: str) -> tuple[bool, str]:
    """Sort key that reports tables first: a changed table also changes the layers that depend on it."""
    return name.startswith("head."), name


def _first_line(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        failure = next(iter(error.failures.values()))
        error = failure[0] if isinstance(failure, tuple) else failure
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
