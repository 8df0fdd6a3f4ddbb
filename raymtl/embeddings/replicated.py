"""Small tables of which every worker holds all rows.

Looking up needs no exchange. A step gathers the rows that any worker touches (`touched_rows.py`) into a small matrix, looks up in
that, and so gets the gradient of those rows alone. The optimizer averages it over the workers together with the dense
gradients, in one all-reduce, and every worker applies the same update to its replica: all replicas stay equal.

In checkpoints these tables have the names and shapes that TorchRec gives the sharded ones.

Shapes: B rows of a batch, U touched rows, D columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.sparse.jagged_tensor import KeyedTensor

from raymtl.config.root import Config
from raymtl.data.batch import Batch, ReplicatedLookup
from raymtl.embeddings.names import module_name, weight_key
from raymtl.embeddings.sparse_update import empty_state, update_rows
from raymtl.embeddings.tables import LookedUp, Lookup
from raymtl.embeddings.touched_rows import TableGroup, TouchedRows, group_tables


@dataclass(frozen=True)
class ReplicatedTable:
    """One table; its tensors are the model's own memory."""

    key: str
    """Name of its weights in a checkpoint."""
    weight: Tensor
    state: dict[str, Tensor]


@dataclass(frozen=True)
class _GatheredRows:
    """What a step gathered from a group's weights."""

    group: int
    rows: Tensor
    vectors: Tensor
    """[U + 1, D] that requires its gradient; the last row is zeros."""


class ReplicatedTables(nn.Module):
    """All replicated tables of a model, with the state of their optimizer."""

    def __init__(
        self,
        config: Config,
        lookup: Lookup,
        names: Sequence[str],
        device: torch.device,
        workers: dist.ProcessGroup | None = None,
    ):
        """`workers`: all workers, which exchange the touched rows of a batch that no loader has prepared."""
        super().__init__()
        self.groups = group_tables(config, lookup, names)
        self.touched_rows = TouchedRows(self.groups)
        self._workers = workers
        self.weights = nn.ParameterList(
            nn.Parameter(torch.zeros(g.rows, g.dim, device=device), requires_grad=False) for g in self.groups
        )
        self.states = [empty_state(g.optimizer.type, g.rows, g.dim, device) for g in self.groups]
        self._keys = {name: weight_key(name, unpooled=name in lookup.unpooled) for name in names}
        self._sizes = {name: lookup.tables[name].rows for name in names}
        self._pending: list[_GatheredRows] = []

    def tables(self) -> dict[str, ReplicatedTable]:
        """Every table by name."""
        found = {}
        for group, weight, state in zip(self.groups, self.weights, self.states, strict=True):
            for name, first in group.first_rows.items():
                rows = slice(first, first + self._sizes[name])
                kept = {key: value[rows] for key, value in state.items()}
                found[name] = ReplicatedTable(self._keys[name], weight.detach()[rows], kept)
        return found

    @property
    def keys(self) -> set[str]:
        """Names of the tables' weights in a checkpoint."""
        return set(self._keys.values())

    def forward(self, batch: Batch) -> LookedUp:
        """Look up all features of the replicated tables."""
        if batch.replicated is None:
            [batch] = self.touched_rows.prepare([batch], self._workers if self._trains() else None)
        lookups = batch.replicated
        assert lookups is not None
        result = LookedUp([], {})
        for n, (group, lookup) in enumerate(zip(self.groups, lookups, strict=True)):
            _add_looked_up(result, group, lookup, self._gathered(n, lookup), (len(batch.valid), len(batch.user_dense)))
        return result

    def _trains(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _gathered(self, group: int, lookup: ReplicatedLookup) -> Tensor:
        """[U + 1, D]; in training its gradient is kept for the next update."""
        weight = self.weights[group].detach()
        rows = lookup.rows.to(weight.device)
        vectors = weight.new_empty(len(rows) + 1, weight.shape[1])
        torch.index_select(weight, 0, rows, out=vectors[:-1])
        vectors[-1] = 0
        if self._trains() and self.groups[group].optimizer.lr:
            vectors.requires_grad_()
            self._pending.append(_GatheredRows(group, rows, vectors))
        return vectors

    # Training

    def zero_grad(self, set_to_none: bool = True) -> None:
        for touched in self._pending:
            touched.vectors.grad = None

    def gradients(self) -> list[Tensor]:
        """Gradients [U, D] of the rows that the backward passes since the last update reached, for `update`."""
        self._pending = [touched for touched in self._pending if touched.vectors.grad is not None]
        return [touched.vectors.grad[:-1] for touched in self._pending if touched.vectors.grad is not None]

    def update(self, gradients: Sequence[Tensor], rates: Sequence[float], step: int) -> None:
        """Apply `gradients()`, reduced over the workers, with the learning rate of each group; `step` counts from 1."""
        with torch.no_grad():
            for touched, gradient in zip(self._pending, gradients, strict=True):
                update_rows(
                    self.weights[touched.group],
                    self.states[touched.group],
                    touched.rows,
                    gradient,
                    self.groups[touched.group].optimizer,
                    lr=rates[touched.group],
                    step=step,
                )
        self._pending = []

    # Checkpoints

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save each table beside the sharded ones, under the name that it would have there."""
        outside = prefix.rpartition("replicated.")[0]
        destination.update({outside + table.key: table.weight for table in self.tables().values()})

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Without the entries of `ParameterList`, which hold several tables each."""
        destination: dict[str, Any] = kwargs.get("destination", {})
        self._save_to_state_dict(destination, kwargs.get("prefix", ""), kwargs.get("keep_vars", False))
        return destination


class ReplicatedOptimizer(KeyedOptimizer):
    """State and learning rates of replicated tables, in the form in which TorchRec has those of the sharded ones."""

    def __init__(self, tables: ReplicatedTables):
        self._tables = tables
        found = tables.tables()
        parameters = {table.key: table.weight for table in found.values()}
        state = {
            t.weight: {f"{module_name(name)}.{key}": value for key, value in t.state.items()}
            for name, t in found.items()
        }
        groups = [
            {"params": [found[name].weight for name in g.first_rows], "lr": g.optimizer.lr} for g in tables.groups
        ]
        super().__init__(parameters, state, groups)


def _add_looked_up(
    result: LookedUp, group: TableGroup, lookup: ReplicatedLookup, vectors: Tensor, sizes: tuple[int, int]
) -> None:
    """Look up the features of one group in the vectors that were gathered for it; `sizes` are the rows and the requests."""
    looked_up = _select(vectors, lookup.places)
    shared = sizes[0] != sizes[1]
    single, bags = group.parts(group.singles, shared), group.parts(group.bags, shared)
    lengths = {name: sizes[name in group.of_requests] for name in group.sequences}
    counts = [size * len(names) for names, size in zip(single, sizes, strict=True)]
    counts += [lengths[name] * longest for name, (longest, _) in group.sequences.items()] + [len(lookup.bags)]
    parts = list(torch.split(looked_up, counts))
    for names, size, part in zip(single, sizes, parts, strict=False):
        if names:
            result.pooled.append(_keyed(names, group.dim, part.view(size, -1)))
    for (name, (longest, _)), part in zip(group.sequences.items(), parts[2:], strict=False):
        result.sequences[name] = part.view(lengths[name], longest, group.dim)
    if group.bags:
        counts = [size * len(names) for names, size in zip(bags, sizes, strict=True)]
        in_bags = parts[-1] * lookup.weights.unsqueeze(1) if len(lookup.weights) else parts[-1]
        sums = in_bags.new_zeros(sum(counts), group.dim).index_add(0, lookup.bags, in_bags)
        pooled = sums * lookup.scale if len(lookup.scale) else sums
        for names, size, part in zip(bags, sizes, pooled.split(counts), strict=True):
            if names:
                result.pooled.append(_keyed(names, group.dim, part.view(size, -1)))


def _keyed(names: list[str], dim: int, values: Tensor) -> KeyedTensor:
    return KeyedTensor(names, [dim] * len(names), values)


def _select(vectors: Tensor, places: Tensor) -> Tensor:
    """[L, D]. On the CPU the gradient of an index_select is four times as fast as that of an embedding; on a GPU that of an
    embedding sums in a fixed order and without atomic operations."""
    if vectors.device.type == "cpu":
        return vectors.index_select(0, places)
    return nn.functional.embedding(places, vectors, padding_idx=len(vectors) - 1)
