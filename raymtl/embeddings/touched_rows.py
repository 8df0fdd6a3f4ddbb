"""The rows of replicated tables that a step touches, found in the loader's thread: those of all workers, and the place of each
lookup among them.

The cost depends on the batch alone: duplicates are found through a scratch array with a place for each row, of which only the
places of the batch are written and read. The workers exchange the rows of several batches at once.

Shapes: B rows of a batch, R requests (R = B without requests), L lookups, U touched rows, W workers.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from raymtl.config.features import IdsFeature, SequenceFeature, Tableless
from raymtl.config.root import Config
from raymtl.config.train import SparseOptimizer
from raymtl.data.batch import Batch, ReplicatedLookup
from raymtl.embeddings.tables import Lookup

_Rows = NDArray[np.int64]
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TableGroup:
    """Replicated tables of one width and one optimizer, one after the other in one matrix of weights."""

    dim: int
    optimizer: SparseOptimizer
    first_rows: dict[str, int]
    """First row of each table in the matrix."""
    rows: int
    singles: dict[str, int]
    """Features with one ID per row, and the first row of their table; they are looked up first, [B, features], and then
    [R, features] of the requests."""
    sequences: dict[str, tuple[int, int]]
    """Sequence features, looked up next, [B or R, maximum length] each: that length, and the first row of their table."""
    bags: dict[str, tuple[bool, int]]
    """Features with several IDs per row, looked up last: whether their mean is taken, and the first row of their table."""
    of_requests: frozenset[str] = frozenset()
    """Features with a value per request instead of one per row."""

    def parts(self, features: Iterable[str], shared: bool) -> tuple[list[str], list[str]]:
        """Those with a value per row, and those with one per request if rows of the batch are `shared` by requests."""
        names = list(features)
        if not shared:
            return names, []
        return [n for n in names if n not in self.of_requests], [n for n in names if n in self.of_requests]


def group_tables(config: Config, lookup: Lookup, names: Sequence[str]) -> list[TableGroup]:
    """The groups of the tables `names`."""
    together: dict[tuple[int, str, float], list[str]] = {}
    optimizer = config.train.sparse_optimizer
    for name in names:
        table = lookup.tables[name]
        own = optimizer.of_table(table)
        together.setdefault((table.dim, own.type, own.lr), []).append(name)
    groups = []
    for (dim, _, _), members in together.items():
        ends = np.cumsum([lookup.tables[name].rows for name in members]).tolist()
        first = dict(zip(members, [0, *ends], strict=False))
        singles: dict[str, int] = {}
        sequences: dict[str, tuple[int, int]] = {}
        bags: dict[str, tuple[bool, int]] = {}
        for feature, (name, spec) in _looked_up(config).items():
            if name not in first:
                continue
            if isinstance(spec, SequenceFeature):
                sequences[feature] = spec.max_length, first[name]
            elif isinstance(spec, IdsFeature):
                bags[feature] = lookup.tables[name].pooling == "mean", first[name]
            else:
                singles[feature] = first[name]
        of_requests = frozenset(config.request_features())
        update = optimizer.of_table(lookup.tables[members[0]])
        groups.append(TableGroup(dim, update, first, ends[-1], singles, sequences, bags, of_requests))
    return groups


def _looked_up(config: Config) -> dict[str, tuple[str, object]]:
    return {n: (config.table_of(n), f) for n, f in config.features.items() if not isinstance(f, Tableless)}


class TouchedRows:
    """Prepares batches for the lookup in the replicated tables."""

    def __init__(self, groups: Sequence[TableGroup]):
        self._groups = groups
        # Each group has a last row of its own for "looks up nothing"
        ends = np.cumsum([group.rows + 1 for group in groups]).tolist()
        self._first, self._rows = [0, *ends[:-1]], ends[-1]
        self._scratch = np.zeros(self._rows, np.int32)
        self._lock = threading.Lock()  # the training loader reads on while the evaluation loader works

    def prepare(self, batches: Sequence[Batch], group: dist.ProcessGroup | None) -> list[Batch]:
        """The batches with their lookups in the replicated tables, in host memory.

        `group`: all workers, over gloo, each of which calls this with the batches of the same steps; None: the rows are those
        of this worker alone, as it is for evaluation.
        """
        features = [(_features(batch), _weights(batch)) for batch in batches]
        found = [
            [_lookups(tables, *some, len(batch.valid), len(batch.user_dense)) for tables in self._groups]
            for batch, some in zip(batches, features, strict=True)
        ]
        with self._lock:
            touched = [
                self._distinct([first + lookup.rows for first, lookup in zip(self._first, of, strict=True)])
                for of in found
            ]
        if group is not None and dist.get_world_size(group) > 1:
            touched = self._union(touched, group)
        return [
            replace(batch, replicated=self._placed(rows, of))
            for batch, rows, of in zip(batches, touched, found, strict=True)
        ]

    def _distinct(self, parts: Sequence[_Rows]) -> _Rows:
        """The distinct rows, without those for "looks up nothing"."""
        rows = np.concatenate(parts)
        order = np.arange(len(rows), dtype=np.int32)
        self._scratch[rows] = order
        rows = rows[self._scratch[rows] == order]
        for first, group in zip(self._first, self._groups, strict=True):
            rows = rows[rows != first + group.rows]
        return rows

    def _union(self, touched: list[_Rows], group: dist.ProcessGroup) -> list[_Rows]:
        """For each batch the rows of all workers, in the same order on all of them."""
        own = torch.tensor([len(rows) for rows in touched])
        sizes = _all_gathered(own, group)
        # Row numbers, or bits of all rows where those are fewer bytes: with many workers
        map_bytes = -(-self._rows // 8)
        if 4 * int(sizes.sum()) > 2 * map_bytes * len(touched):
            return self._union_of_bits(touched, map_bytes, group)
        width = int(sizes.sum(1).max())
        mine = torch.zeros(width, dtype=torch.int32)
        mine[: int(own.sum())] = torch.from_numpy(np.concatenate(touched))
        ends = sizes.cumsum(1).tolist()
        parts = [np.split(row.numpy(), at) for row, at in zip(_all_gathered(mine, group), ends, strict=True)]
        with self._lock:
            return [self._distinct([part[n].astype(np.int64) for part in parts]) for n in range(len(touched))]

    def _union_of_bits(self, touched: list[_Rows], map_bytes: int, group: dist.ProcessGroup) -> list[_Rows]:
        bits = np.zeros((len(touched), map_bytes), np.uint8)
        for n, rows in enumerate(touched):
            marks = np.zeros(self._rows, bool)
            marks[rows] = True
            bits[n] = np.packbits(marks)
        dist.all_reduce(torch.from_numpy(bits), op=dist.ReduceOp.BOR, group=group)
        return [np.flatnonzero(np.unpackbits(row, count=self._rows)) for row in bits]

    def _placed(self, touched: _Rows, found: Sequence["_Lookups"]) -> list[ReplicatedLookup]:
        lookups = []
        for first, group, lookup in zip(self._first, self._groups, found, strict=True):
            own = touched
            if len(self._groups) > 1:
                own = touched[(touched >= first) & (touched < first + group.rows)]
            own = own - first
            with self._lock:
                places = self._scratch[first : first + group.rows + 1]
                places[own] = np.arange(len(own), dtype=np.int32)
                places[group.rows] = len(own)
                placed = places[lookup.rows].astype(np.int64)
            arrays = (own, placed, lookup.bags, lookup.weights, lookup.scale)
            lookups.append(ReplicatedLookup(*map(torch.from_numpy, arrays)))
        return lookups


def _all_gathered(own: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[W, …]."""
    workers = dist.get_world_size(group)
    found = own.new_empty(workers * len(own))
    dist.all_gather_into_tensor(found, own, group=group)
    return found.view(workers, -1)


def _features(batch: Batch) -> dict[str, tuple[_Rows, NDArray[np.int32]]]:
    """The IDs of each feature and their number in each row."""
    found = {}
    for jagged in (batch.ids, batch.sequences):
        values, lengths = _host(jagged)
        lengths = lengths.reshape(len(jagged.keys()), len(batch.valid))
        ends = np.cumsum(lengths.sum(1)).tolist()
        for n, (name, end) in enumerate(zip(jagged.keys(), ends, strict=True)):
            found[name] = values[end - int(lengths[n].sum()) : end], lengths[n]
    return found


def _host(jagged: KeyedJaggedTensor) -> tuple[_Rows, NDArray[np.int32]]:
    return jagged.values().cpu().numpy(), jagged.lengths().cpu().numpy()


def _weights(batch: Batch) -> dict[str, _Floats]:
    """The weights of each feature that has them."""
    values, ends = batch.id_weights.values().cpu().numpy(), np.cumsum(batch.id_weights.length_per_key())
    return dict(zip(batch.id_weights.keys(), np.split(values, ends[:-1]), strict=True)) if len(ends) else {}


@dataclass(frozen=True)
class _Lookups:
    """A batch's lookups in one group."""

    rows: _Rows
    """[L], rows of the group's matrix (`TableGroup.rows`: none)."""
    bags: _Rows
    """[I], the bag of each ID of a bag."""
    weights: _Floats
    """[I], the weight of each of them; empty if all are 1."""
    scale: _Floats
    """[bags, 1], the factor on each sum; empty if all are 1."""


def _lookups(
    group: TableGroup,
    features: dict[str, tuple[_Rows, NDArray[np.int32]]],
    weights: dict[str, _Floats],
    rows: int,
    requests: int,
) -> _Lookups:
    parts = [
        _singles(group, names, features, size)
        for names, size in zip(group.parts(group.singles, rows != requests), (rows, requests), strict=True)
    ]
    for name, (longest, first) in group.sequences.items():
        size = requests if name in group.of_requests else rows
        ids, lengths = features[name]
        padded = np.full((size, longest), group.rows)
        padded[np.arange(longest) < lengths[:size, None]] = ids + first
        parts.append(padded.reshape(-1))
    bags: list[_Rows] = [np.empty(0, np.int64)]
    factors: list[_Floats] = [np.empty(0, np.float32)]
    scales: list[_Floats] = []
    before = 0
    for names, size in zip(group.parts(group.bags, rows != requests), (rows, requests), strict=True):
        scale = np.ones((size, len(names)), np.float32)
        for n, name in enumerate(names):
            mean, first = group.bags[name]
            ids, lengths = features[name]
            parts.append(ids + first)
            owner = np.repeat(np.arange(size), lengths[:size])
            bags.append(before + owner * len(names) + n)
            own = weights.get(name)
            factors.append(np.ones(len(ids), np.float32) if own is None else own)
            if mean:
                total = lengths[:size] if own is None else np.bincount(owner, own, size)
                scale[:, n] = 1 / np.where(total > 0, total, 1)
        scales.append(scale.reshape(-1, 1))
        before += size * len(names)
    return _Lookups(
        np.concatenate(parts),
        np.concatenate(bags),
        np.concatenate(factors if not weights.keys().isdisjoint(group.bags) else factors[:1]),
        np.concatenate(scales if any(mean for mean, _ in group.bags.values()) else [scale[:0] for scale in scales]),
    )


def _singles(
    group: TableGroup, names: Sequence[str], features: dict[str, tuple[_Rows, NDArray[np.int32]]], size: int
) -> _Rows:
    """Rows of features with one ID, [size · names]."""
    found = np.empty((len(names), size), np.int64)
    for rows, name in zip(found, names, strict=True):
        ids, lengths = features[name]
        if len(ids) == size:
            np.add(ids, group.singles[name], out=rows)
        else:
            rows[:] = group.rows
            rows[lengths[:size] > 0] = ids + group.singles[name]
    return found.T.reshape(-1)
