"""The batch of a training step, and its collation from blocks.

Shapes: B rows, T tasks, F dense features, L values of a jagged feature; U requests in the batch, if it has any.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from raymtl.config.features import (
    BiasFeature,
    DenseFeature,
    SequenceDenseFeature,
    SequenceFeature,
    SingleId,
    Tableless,
    VectorFeature,
    weighted,
)
from raymtl.config.root import Config
from raymtl.config.wiring import compared_lists
from raymtl.data.requests import first_of_runs, split_requests
from raymtl.data.rules import whole


@dataclass
class Batch(Pipelineable):
    """One step's rows on one worker, always `B = ceil(train.batch_size / workers)`: padding rows look up nothing and have
    weight 0, so that all workers and all steps have the same shapes.

    With `data.request` the features of the user have U values instead of B. No other worker needs to know U."""

    ids: KeyedJaggedTensor
    """Rows of the pooled tables: kinds id, bucket, cross, bias, ids; keys in the order of `Collator.pooled`."""
    sequences: KeyedJaggedTensor
    """Rows of the tables that are looked up unpooled; keys in the order of `Collator.unpooled`. Those of a user
    feature are in the first U of the B places."""
    id_weights: KeyedJaggedTensor
    """The weight of each ID in `sequences` of the features that have weights, float32."""
    dense: Tensor
    """[B, F] float32."""
    vectors: Tensor
    """[B, ΣW] float32, those of all features of kind vector side by side, in the order of `Collator.vectors`."""
    user_dense: Tensor
    """[U, F] float32, those of the user; [B, 0] if no rows share any."""
    user_vectors: Tensor
    """[U, ΣW] float32, as `vectors`."""
    step_numbers: Tensor
    """[B, ΣL] float32, numbers of the steps of histories side by side, zeros beyond their ends; in the order of
    `Collator.step_numbers`."""
    user_step_numbers: Tensor
    """[U, ΣL] float32, as `step_numbers`."""
    request: Tensor
    """[B] int64, place of each row's request among the U, ascending; 0 for padding. Empty without requests, and if each row is a
    request: such a batch is like one of flat rows, with U = B."""
    labels: Tensor
    """[B, T] float32, 0 where not observed."""
    observed: Tensor
    """[B, T] bool."""
    weight: Tensor
    """[B] float32, 0 for padding; [B, T] if a task has weights of its own."""
    row_weight: Tensor
    """[B] float32, the weight for all tasks, without their own; or empty in training."""
    valid: Tensor
    """[B] bool, false for padding."""
    scenario: Tensor
    """[B] int64."""
    lists: Tensor
    """[B, W] int64, for each of the W entries of `Config.list_columns`, an ID of the list that a row belongs to."""
    group: Tensor
    """[B] int64, or empty in training."""
    request_id: Tensor
    """[B] int64, or empty in training."""
    truth: Tensor
    """[B, T] float32, NaN where unknown, or empty in training."""
    totals: Tensor
    """[T + C + 1] float64: over all workers, the number of labels of each task with a weight above 0, then for each of the C
    entries of `compared_lists` that of the rows of comparable lists, then the number of valid rows."""
    replicated: list["ReplicatedLookup"] | None = None
    """The lookups in each group of replicated tables, once they are prepared (`embeddings/touched_rows.py`)."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return self._each(lambda value: value.to(device=device, non_blocking=non_blocking))

    def record_stream(self, stream: Any) -> None:
        self._each(lambda value: value.record_stream(stream))

    def pin_memory(self) -> "Batch":
        return self._each(lambda value: value.pin_memory())

    def _each(self, change: Callable[[Any], Any]) -> "Batch":
        """The batch with every value changed."""
        changed = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name != "replicated"}
        lookups = self.replicated
        if lookups is not None:
            lookups = [ReplicatedLookup(**{k: change(v) for k, v in vars(lookup).items()}) for lookup in lookups]
        return Batch(**changed, replicated=lookups)


@dataclass
class ReplicatedLookup:
    """A batch's lookups in one group of replicated tables: U touched rows, L lookups, the last I of which are IDs of bags."""

    rows: Tensor
    """[U] int64, rows of the group's weights: in training those that any worker looks up in this step."""
    places: Tensor
    """[L] int64, for each lookup its index in `rows`; U: it looks up nothing."""
    bags: Tensor
    """[I] int64, the bag of each ID: row · features + feature; after those of all rows come the bags of requests."""
    weights: Tensor
    """[I] float32, the weight of each ID; empty if all are 1."""
    scale: Tensor
    """[B · features, 1] float32, the factor on the sum of each bag, and of those of requests; empty if all are 1."""


def unpooled_tables(config: Config) -> set[str]:
    """Tables that some sequence feature reads, or one with weights, or some feature of a request.

    TorchRec keeps pooled and unpooled tables in different modules, so all features of such a table are looked up unpooled. A
    pooled lookup has as many vectors as rows, whatever it looks up; an unpooled one as many as IDs.
    """
    of_requests, with_weights = set(config.request_features()), weighted(config.features)
    return {
        config.table_of(n)
        for n, f in config.features.items()
        if f.kind == "sequence" or n in with_weights or (n in of_requests and not isinstance(f, Tableless))
    }


class Collator:
    """Collates chunks of blocks into batches of a fixed number of rows."""

    def __init__(self, config: Config, rows: int, evaluation: bool):
        unpooled = unpooled_tables(config)
        lookups = [n for n, f in config.features.items() if not isinstance(f, Tableless)]
        self.pooled = [n for n in lookups if config.table_of(n) not in unpooled]
        """Features of the pooled lookup, in the order of its keys."""
        self.unpooled = [n for n in lookups if config.table_of(n) in unpooled]
        """Features of the unpooled lookup, in the order of its keys."""
        self.of_requests = frozenset(config.request_features())
        """Features with a value per request."""
        dense = [n for n, f in config.features.items() if isinstance(f, DenseFeature)]
        vectors = {n: f.width for n, f in config.features.items() if isinstance(f, VectorFeature)}
        self.dense, self.vectors = dense, vectors
        """Names of the numbers, and widths of the vectors by feature."""
        self.step_numbers = {
            n: of.max_length
            for n, f in config.features.items()
            if isinstance(f, SequenceDenseFeature) and isinstance(of := config.features[f.of], SequenceFeature)
        }
        """Maximum length of the numbers beside steps, by feature."""
        self.weighted = [n for n in self.unpooled if n in weighted(config.features)]
        """Features whose IDs have weights, in the order of the keys."""
        self.tasks = list(config.active_tasks())
        self._single = {n for n in lookups if isinstance(config.features[n], SingleId | BiasFeature)}
        self._truth = [n for n, t in config.active_tasks().items() if t.truth] if evaluation else []
        self._has_weight = config.data.has_weights
        self._task_weights = list(config.task_weights())
        self._lists = config.list_columns()
        compared = compared_lists(config.active_tasks())
        self._compared = [(self.tasks.index(task), self._lists.index(within)) for task, within in compared]
        self._other_scenario = len(config.data.scenario.values) if config.data.scenario else None
        self._has_group = evaluation and config.data.group is not None
        self._has_request_id = evaluation and config.data.by_request
        self._evaluation = evaluation
        self.rows = rows

    def __call__(self, chunks: Sequence[pa.Table]) -> Batch:
        """The batch of consecutive chunks of blocks, at most `rows` rows in total; without chunks a batch of padding."""
        rows, tasks = self.rows, len(self.tasks)
        filled = sum(len(p) for p in chunks)
        labels = np.full((rows, tasks), np.nan, np.float32)
        for t, name in enumerate(self.tasks):
            _fill(labels[:, t], chunks, f"label:{name}")
        observed = ~np.isnan(labels)
        np.nan_to_num(labels, copy=False, nan=0.0)
        request, users, requests = self._requests(chunks, filled)
        shared = self.of_requests if len(request) else frozenset()
        numbers = (*self.dense, *self.vectors, *self.step_numbers)
        sources = {n: users if n in self.of_requests else chunks for n in numbers}
        own_dense, user_dense = ([n for n in self.dense if (n in shared) == side] for side in (False, True))
        own_vectors, user_vectors = ([n for n in self.vectors if (n in shared) == side] for side in (False, True))
        own_steps, user_steps = ([n for n in self.step_numbers if (n in shared) == side] for side in (False, True))
        weight = np.zeros(rows, np.float32)
        if self._has_weight:
            _fill(weight, chunks, "weight")
        else:
            weight[:filled] = 1
        row_weight = weight if self._evaluation else weight[:0]
        weight = self._weights(weight, chunks)
        valid = np.zeros(rows, bool)
        valid[:filled] = True
        scenario = np.zeros(rows, np.int64)
        if self._other_scenario is not None:
            scenario[:] = self._other_scenario
            _fill(scenario, chunks, "scenario")
        lists = np.zeros((rows, len(self._lists)), np.int64)
        for n, within in enumerate(self._lists):
            _fill(lists[:, n], chunks, f"list:{within}")
        group = np.zeros(rows if self._evaluation else 0, np.int64)
        if self._has_group:
            _fill(group, chunks, "group")
        request_id = np.zeros(rows if self._evaluation else 0, np.int64)
        if self._has_request_id:
            _fill(request_id, chunks, "request_id")
        truth = np.full((rows if self._evaluation else 0, tasks), np.nan, np.float32)
        for name in self._truth:
            _fill(truth[:, self.tasks.index(name)], chunks, f"truth:{name}")
        # float64: a float32 count stops at 2^24 and a bfloat16 one at 256
        counted = observed & (weight.reshape(rows, -1) > 0)
        counts = np.empty(tasks + len(self._compared) + 1)
        np.sum(counted, axis=0, dtype=np.float64, out=counts[:tasks])
        for n, (task, way) in enumerate(self._compared):
            counts[tasks + n] = comparable_rows(lists[:, way], labels[:, task], counted[:, task])
        counts[-1] = filled
        return Batch(
            ids=self._jagged(chunks, users, self.pooled),
            sequences=self._jagged(chunks, users, self.unpooled),
            id_weights=self._jagged(chunks, users, self.weighted, "weights", np.float32),
            dense=_dense(sources, own_dense, rows),
            vectors=self._vectors(sources, own_vectors, rows),
            user_dense=_dense(sources, user_dense, requests),
            user_vectors=self._vectors(sources, user_vectors, requests),
            step_numbers=self._step_numbers(sources, own_steps, rows),
            user_step_numbers=self._step_numbers(sources, user_steps, requests),
            request=request,
            labels=torch.from_numpy(labels),
            observed=torch.from_numpy(observed),
            weight=torch.from_numpy(weight),
            row_weight=torch.from_numpy(row_weight),
            valid=torch.from_numpy(valid),
            scenario=torch.from_numpy(scenario),
            lists=torch.from_numpy(lists),
            group=torch.from_numpy(group),
            request_id=torch.from_numpy(request_id),
            truth=torch.from_numpy(truth),
            totals=torch.from_numpy(counts),
        )

    def _weights(self, of_rows: np.ndarray, chunks: Sequence[pa.Table]) -> np.ndarray:
        """`Batch.weight` from the weights [B] of rows for all tasks."""
        if not self._task_weights:
            return of_rows
        weight = np.repeat(of_rows[:, None], len(self.tasks), 1)
        own = np.zeros(self.rows, np.float32)
        for name in self._task_weights:
            _fill(own, chunks, f"weight:{name}")
            weight[:, self.tasks.index(name)] *= own
        return weight

    def _requests(self, chunks: Sequence[pa.Table], filled: int) -> tuple[Tensor, list[pa.Table], int]:
        """`Batch.request`, the user sides of the chunks, and U."""
        if not self.of_requests:
            return torch.empty(0, dtype=torch.int64), [], self.rows
        index = np.zeros(self.rows, np.int64)
        users, start, count = [], 0, 0
        for chunk in chunks:
            owner, sides = split_requests(chunk)
            index[start : start + len(chunk)] = owner + count
            users.append(sides)
            start, count = start + len(chunk), count + len(sides)
        if count == filled:  # each row is a request
            return torch.empty(0, dtype=torch.int64), users, self.rows
        return torch.from_numpy(index), users, count

    def _vectors(self, sources: Mapping[str, Sequence[pa.Table]], names: Sequence[str], rows: int) -> Tensor:
        ends = np.cumsum([0, *(self.vectors[name] for name in names)])
        vectors = np.zeros((rows, ends[-1]), np.float32)
        for n, name in enumerate(names):
            _fill(vectors[:, ends[n] : ends[n + 1]], sources[name], f"vector:{name}")
        return torch.from_numpy(vectors)

    def _step_numbers(self, sources: Mapping[str, Sequence[pa.Table]], names: Sequence[str], rows: int) -> Tensor:
        ends = np.cumsum([0, *(self.step_numbers[name] for name in names)])
        padded = np.zeros((rows, ends[-1]), np.float32)
        for n, name in enumerate(names):
            start, places = 0, np.arange(self.step_numbers[name])
            for chunk in sources[name]:
                lists = whole(chunk.column(f"numbers:{name}"))
                there = places < lists.value_lengths().to_numpy()[:, None]
                padded[start : start + len(chunk), ends[n] : ends[n + 1]][there] = lists.flatten().to_numpy()
                start += len(chunk)
        return torch.from_numpy(padded)

    def _jagged(
        self,
        of_rows: Sequence[pa.Table],
        of_users: Sequence[pa.Table],
        features: list[str],
        lists: str = "ids",
        kind: type[np.generic] = np.int64,
    ) -> KeyedJaggedTensor:
        """Values feature by feature, [F·B] lengths; a full batch of single IDs without nulls is one copy per feature."""
        rows = self.rows
        lengths = np.zeros((len(features), rows), np.int32)
        parts: list[np.ndarray] = []
        for f, name in enumerate(features):
            start = 0
            for chunk in of_users if name in self.of_requests else of_rows:
                if name in self._single:
                    column = whole(chunk.column(f"id:{name}"))
                    if column.null_count:
                        lengths[f, start : start + len(chunk)] = column.is_valid().to_numpy(zero_copy_only=False)
                        column = column.drop_null()
                    else:
                        lengths[f, start : start + len(chunk)] = 1
                    parts.append(column.to_numpy())
                else:
                    column = whole(chunk.column(f"{lists}:{name}"))
                    lengths[f, start : start + len(chunk)] = column.value_lengths().to_numpy()
                    parts.append(column.flatten().to_numpy())
                start += len(chunk)
        values = np.concatenate(parts) if parts else np.empty(0, kind)
        return KeyedJaggedTensor(
            keys=features,
            values=torch.from_numpy(values),
            lengths=torch.from_numpy(lengths.reshape(-1)),
            stride=rows,
            length_per_key=lengths.sum(1).tolist(),  # otherwise it is read from the device
        )


def comparable_rows(lists: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> int:
    """The number of the rows [B] in lists with two different labels, of those that are `counted` (bool): what the losses that
    compare rows are divided by (`docs/losses.md`)."""
    rows = np.flatnonzero(counted)
    rows = rows[np.argsort(lists[rows], kind="stable")]
    first = first_of_runs(lists[rows])
    if not len(first):
        return 0
    differs = np.maximum.reduceat(labels[rows], first) > np.minimum.reduceat(labels[rows], first)
    return int(np.diff(first, append=len(rows))[differs].sum())


def _dense(sources: Mapping[str, Sequence[pa.Table]], names: Sequence[str], rows: int) -> Tensor:
    dense = np.zeros((rows, len(names)), np.float32)
    for f, name in enumerate(names):
        _fill(dense[:, f], sources[name], f"dense:{name}")
    return torch.from_numpy(dense)


def _fill(target: np.ndarray, chunks: Sequence[pa.Table], name: str) -> None:
    start = 0
    for chunk in chunks:
        column = whole(chunk.column(name))
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        target[start : start + len(chunk)] = values.to_numpy(zero_copy_only=False).reshape(
            len(chunk), *target.shape[1:]
        )
        start += len(chunk)
