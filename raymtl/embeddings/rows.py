"""Rows of the tables: split into chunks to write, and filled from chunks that were read.

Shapes: N rows of a chunk, R rows of the table, D its width, C columns of a shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel

from raymtl.config.features import Init
from raymtl.embeddings.initialisation import drawn_rows
from raymtl.embeddings.names import table_of
from raymtl.embeddings.replicated import ReplicatedTable

_CHECKED_ROWS = 1 << 18


@dataclass(frozen=True)
class Shard:
    """Position of a shard in its table: rows and columns from (`first_row`, `first_column`), on worker `rank`."""

    rank: int
    first_row: int
    rows: int
    first_column: int
    columns: int


@dataclass(frozen=True)
class LocalShard:
    """A shard of this worker; its tensors are the model's own memory."""

    place: Shard
    weight: Tensor
    """[rows, columns]."""
    state: dict[str, Tensor]
    """Optimizer state by name: [rows] where the optimizer keeps one number per row, else [rows, columns]."""


@dataclass(frozen=True)
class TableRows:
    """One table with the state of its optimizer."""

    name: str
    rows: int
    dim: int
    state_dims: dict[str, int]
    """Numbers per row of each optimizer state: 1 or D."""
    shards: list[Shard]
    """All shards, in the same order on every worker."""
    local: list[LocalShard]
    """Those of this worker."""
    own: tuple[int, int] | None = None
    """Of a replicated table, whose one shard every worker holds: the rows that this worker yields, [first, last)."""


@dataclass(frozen=True)
class RowChunk:
    """Complete rows of a table, in host memory."""

    rows: np.ndarray
    """Row numbers, ascending, [N] int64."""
    weight: Tensor
    """[N, D]."""
    state: dict[str, Tensor]
    """[N], or [N, D]."""


def table_rows(model: DistributedModelParallel, group: dist.ProcessGroup) -> dict[str, TableRows]:
    """Every table of a model, by name; called by all workers of `group` (over gloo) together."""
    states = model.fused_optimizer.state_dict()["state"]
    replicas = {} if model.module.replicated is None else model.module.replicated.tables()
    found = {}
    for key, value in model.state_dict().items():
        name = table_of(key)
        if name is None:
            continue
        if name in replicas:
            found[name] = _replica(name, replicas[name], group)
            continue
        if not isinstance(value, ShardedTensor):
            raise NotImplementedError(f"table {name}: its sharding has no ShardedTensor as state")
        state = {k.rpartition(".")[2]: v for k, v in states.get(key, {}).items() if _is_by_row(v, value)}
        found[name] = _described(name, value, state)
    # A worker without a shard of a table does not know what the optimizer keeps for it
    known: list[dict[str, dict[str, int]]] = [{} for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(known, {name: table.state_dims for name, table in found.items()}, group=group)
    merged = {name: {n: d for other in known for n, d in other[name].items()} for name in found}
    return {name: replace(table, state_dims=merged[name]) for name, table in found.items()}


def row_chunks(
    table: TableRows, rows_per_chunk: int, group: dist.ProcessGroup, only: np.ndarray | None = None
) -> Iterator[RowChunk]:
    """Yield this worker's rows in ascending order; called by all workers of `group` (over gloo) together.

    Exactly one worker yields each row (with `only`, ascending row numbers, equal on all workers: each of those rows). Shards of
    complete rows stay where they are; a table sharded by columns is assembled chunk by chunk, on each worker in turn. A state of
    one number per row is then the mean over the column shards, weighted by their widths: for row-wise Adagrad the mean square
    of the complete row.
    """
    if all(shard.columns == table.dim for shard in table.shards):
        for shard in sorted(table.local, key=lambda s: s.place.first_row):
            first = shard.place.first_row
            begin, end = table.own or (first, first + shard.place.rows)
            for rows in _chunks(begin, end, rows_per_chunk, only):
                here = _where(rows, first, shard.weight.device)
                yield RowChunk(rows, _host(shard.weight[here]), {n: _host(v[here]) for n, v in shard.state.items()})
        return
    workers = dist.get_world_size(group)
    for number, rows in enumerate(_chunks(0, table.rows, rows_per_chunk, only)):
        chunk = _gathered(table, rows, number % workers, group)
        if chunk is not None:
            yield chunk


def fill(shard: LocalShard, rows: np.ndarray, weight: np.ndarray, state: dict[str, np.ndarray]) -> None:
    """Write rows into a local shard in place.

    `rows` [N] are ascending row numbers of the table inside the shard, `weight` is [N, D] and each state [N] or [N, D]:
    complete rows, of which the shard takes its columns. A state of one number per row goes to every column shard as it is.
    """
    if not len(rows):
        return
    place = shard.place
    columns = slice(place.first_column, place.first_column + place.columns)
    where = _where(rows, place.first_row, shard.weight.device)
    with torch.no_grad():
        shard.weight[where] = _like(weight[:, columns], shard.weight)
        for name, value in state.items():
            target = shard.state[name]
            target[where] = _like(value if target.dim() == 1 else value.reshape(len(rows), -1)[:, columns], target)


def decay_state(table: TableRows, factor: float) -> None:
    """Multiply the optimizer state of all rows of this worker's shards, in place."""
    with torch.no_grad():
        for shard in table.local:
            for value in shard.state.values():
                value.mul_(factor)


def reset_rows(table: TableRows, rows: np.ndarray, init: Init, seed: int) -> None:
    """Reset rows (ascending row numbers [N]) to their initial weights and an empty optimizer state, in this worker's shards."""
    with torch.no_grad():
        for shard in table.local:
            place = shard.place
            first, last = np.searchsorted(rows, [place.first_row, place.first_row + place.rows])
            if first == last:
                continue
            own = torch.from_numpy(rows[first:last]).to(shard.weight.device)
            where = own - place.first_row
            shard.weight[where] = drawn_rows(
                own, init, seed=seed, table=table.name, columns=(place.first_column, place.columns), dim=table.dim
            ).to(shard.weight.dtype)
            for value in shard.state.values():
                value[where] = 0


def weight_square_sum(table: TableRows) -> tuple[float, int]:
    """Sum of the squares of this worker's weights, and how many of its values (state included) are not finite; each row of a
    replicated table counts on one worker."""
    total, wrong = 0.0, 0
    for shard in table.local:
        own = slice(*table.own) if table.own else slice(None)
        for rows in shard.weight.detach()[own].split(_CHECKED_ROWS):
            total += float(rows.double().square().sum())
        for value in (shard.weight, *shard.state.values()):
            for part in value.detach()[own].split(_CHECKED_ROWS):
                wrong += int((~torch.isfinite(part)).sum())
    return total, wrong


def _is_by_row(state: object, weight: ShardedTensor) -> bool:
    """Whether a state has a value for every row; a counter of steps does not."""
    if not isinstance(state, ShardedTensor):
        return False
    size, full = tuple(state.metadata().size), tuple(weight.metadata().size)
    return size == full or (len(size) == 1 and size[0] % full[0] == 0)


def _replica(name: str, table: ReplicatedTable, group: dist.ProcessGroup) -> TableRows:
    """The replicated table on this worker: changed on all of them, and its rows split evenly to be read."""
    rows, dim = table.weight.shape
    rank, workers = dist.get_rank(group), dist.get_world_size(group)
    place = Shard(rank, 0, rows, 0, dim)
    dims = {key: 1 if value.dim() == 1 else dim for key, value in table.state.items()}
    own = rank * rows // workers, (rank + 1) * rows // workers
    return TableRows(name, rows, dim, dims, [place], [LocalShard(place, table.weight, table.state)], own)


def _described(name: str, weight: ShardedTensor, state: dict[str, ShardedTensor]) -> TableRows:
    rows, dim = weight.metadata().size
    metadata = weight.metadata().shards_metadata
    shards = [
        Shard(m.placement.rank(), m.shard_offsets[0], m.shard_sizes[0], m.shard_offsets[1], m.shard_sizes[1])
        for m in metadata
    ]
    held = {tuple(s.metadata.shard_offsets): s.tensor for s in weight.local_shards()}
    held_state = {n: {tuple(s.metadata.shard_offsets): s.tensor for s in v.local_shards()} for n, v in state.items()}
    # The state of a shard has the same index in its own metadata; a row-wise state under column-wise sharding has other offsets
    # than the weight, as it keeps the numbers of all column shards one after the other
    places = {n: [tuple(m.shard_offsets) for m in v.metadata().shards_metadata] for n, v in state.items()}
    local = [
        LocalShard(shards[i], held[offsets], {n: held_state[n][places[n][i]] for n in state})
        for i, m in enumerate(metadata)
        if (offsets := tuple(m.shard_offsets)) in held
    ]
    dims = {n: 1 if len(v.metadata().size) == 1 else dim for n, v in state.items()}
    return TableRows(name, rows, dim, dims, shards, local)


def _gathered(table: TableRows, rows: np.ndarray, writer: int, group: dist.ProcessGroup) -> RowChunk | None:
    """Rows assembled on worker `writer`; None on the others."""
    rank = dist.get_rank(group)
    local = {shard.place: shard for shard in table.local}
    weight = torch.empty(len(rows), table.dim)
    state = {n: torch.zeros(len(rows), *([d] if d > 1 else [])) for n, d in table.state_dims.items()}
    for place in table.shards:
        begin, end = np.searchsorted(rows, [place.first_row, place.first_row + place.rows])
        if begin == end or rank not in (place.rank, writer):
            continue
        there = slice(begin, end)
        columns = slice(place.first_column, place.first_column + place.columns)
        own = local.get(place)
        sizes = {"": place.columns} | {n: place.columns if d > 1 else 1 for n, d in table.state_dims.items()}
        for name, width in sizes.items():
            if own is not None:
                here = _where(rows[there], place.first_row, own.weight.device)
                source = _host(own.state[name][here] if name else own.weight[here]).reshape(-1, width)
            else:
                source = torch.empty(end - begin, width)
            if place.rank != writer:
                if rank == writer:
                    dist.recv(source, place.rank, group=group)
                else:
                    dist.send(source.contiguous(), writer, group=group)
            if rank != writer:
                continue
            if not name:
                weight[there, columns] = source
            elif table.state_dims[name] > 1:
                state[name][there, columns] = source
            else:
                state[name][there] += source[:, 0] * (place.columns / table.dim)
    return RowChunk(rows, weight, state) if rank == writer else None


def _chunks(begin: int, end: int, step: int, only: np.ndarray | None) -> Iterator[np.ndarray]:
    """The rows of [begin, end), or those of `only` in it, at most `step` at a time."""
    if only is None:
        for start in range(begin, end, step):
            yield np.arange(start, min(start + step, end))
        return
    first, last = np.searchsorted(only, [begin, end])
    for start in range(first, last, step):
        yield only[start : min(start + step, last)]


def _where(rows: np.ndarray, first_row: int, device: torch.device) -> slice | Tensor:
    """Index of rows in a shard that begins with `first_row`; a slice if they are consecutive."""
    first, last = int(rows[0]) - first_row, int(rows[-1]) - first_row
    if last - first + 1 == len(rows):
        return slice(first, last + 1)
    return torch.from_numpy(rows - first_row).to(device)


def _host(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32)


def _like(value: np.ndarray, target: Tensor) -> Tensor:
    # copies memory that Arrow owns, which torch must not write to
    return torch.from_numpy(np.require(value, requirements=["C", "W"])).to(target.device, target.dtype)
