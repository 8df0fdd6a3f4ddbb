"""The embedding tables of a configuration as TorchRec modules, and a lookup whose output order never changes.

Tables that some `sequence` feature or one with weights reads are looked up unpooled (`EmbeddingCollection`), all others pooled
(`EmbeddingBagCollection`): TorchRec keeps the two kinds in different modules, so a table is in exactly one of them.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from raymtl.config.features import (
    BiasFeature,
    IdsFeature,
    SequenceDenseFeature,
    SequenceFeature,
    SingleId,
    Table,
    Tableless,
    VectorFeature,
    weighted,
)
from raymtl.config.root import Config
from raymtl.data.batch import Batch, unpooled_tables
from raymtl.embeddings.names import module_name
from raymtl.embeddings.spec import input_spec
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.requests import NamedInput, RequestInput


@dataclass(frozen=True)
class Lookup:
    """Which feature reads which table, and in which module."""

    spec: InputSpec
    """Widths that the model sees, features in the order of the configuration."""
    tables: dict[str, Table]
    """Every table."""
    unpooled: frozenset[str]
    """Names of the tables that are looked up unpooled."""
    features: dict[str, list[str]]
    """Features of each table."""
    lengths: dict[str, list[float]]
    """Maximum IDs per row of each of those features, of a feature of requests divided by the rows of a request; an `ids` feature
    without `max_length`, whose maximum is unknown, counts as 1."""

    def without(self, tables: Collection[str]) -> "Lookup":
        """The lookup in the other tables."""
        return replace(self, tables={name: table for name, table in self.tables.items() if name not in tables})


def describe_lookup(config: Config, request_rows: float = 1.0) -> Lookup:
    """The lookup of a configuration; `request_rows`: rows per request, where that matters for its lengths."""
    features: dict[str, list[str]] = {name: [] for name in config.tables}
    lengths: dict[str, list[float]] = {name: [] for name in config.tables}
    of_requests = set(config.request_features())
    for name, feature in config.features.items():
        if isinstance(feature, Tableless):
            continue
        table = config.table_of(name)
        features[table].append(name)
        longest = feature.max_length if isinstance(feature, IdsFeature | SequenceFeature) else None
        lengths[table].append((longest or 1) / (request_rows if name in of_requests else 1))
    return Lookup(input_spec(config), dict(config.tables), frozenset(unpooled_tables(config)), features, lengths)


@dataclass
class LookedUp:
    """Vectors from the replicated tables."""

    pooled: list[KeyedTensor]
    """Features with one vector per row."""
    sequences: dict[str, Tensor]
    """[B, maximum length, D], zeros where a sequence has ended."""


def _leave_as_is(weight: Tensor) -> None:
    """The rows are filled after sharding (`initialisation.py`), the same for every sharding plan."""


def pooled_module(lookup: Lookup) -> EmbeddingBagCollection | None:
    """The pooled tables on the meta device: they get memory when they are sharded."""
    configs = [
        EmbeddingBagConfig(
            name=module_name(name),
            embedding_dim=table.dim,
            num_embeddings=table.rows,
            feature_names=lookup.features[name],
            pooling=PoolingType.MEAN if table.pooling == "mean" else PoolingType.SUM,
            init_fn=_leave_as_is,
        )
        for name, table in lookup.tables.items()
        if name not in lookup.unpooled
    ]
    return EmbeddingBagCollection(tables=configs, device=torch.device("meta")) if configs else None


def unpooled_module(lookup: Lookup) -> EmbeddingCollection | None:
    """The unpooled tables on the meta device."""
    configs = [
        EmbeddingConfig(
            name=module_name(name),
            embedding_dim=table.dim,
            num_embeddings=table.rows,
            feature_names=lookup.features[name],
            init_fn=_leave_as_is,
        )
        for name, table in lookup.tables.items()
        if name in lookup.unpooled
    ]
    return EmbeddingCollection(tables=configs, device=torch.device("meta")) if configs else None


class InputAssembler(nn.Module):
    """Puts looked-up embeddings into the model's order.

    A sharded module outputs its features in the order of its sharding groups, so the order of the concatenated widths changes
    with the plan; a model trained under one plan and loaded under another would read permuted inputs. So the order here is
    always that of the configuration. A batch and its embeddings become the model's input.
    """

    def __init__(self, config: Config, lookup: Lookup, compared: Iterable[str] = ()):
        """`compared` names the features for `ModelInput.ids`."""
        super().__init__()
        self._compared = frozenset(compared)
        self._pooled = list(lookup.spec.pooled)
        self._bias = list(lookup.spec.bias)
        self._sequences = {n: f.max_length for n, f in config.features.items() if isinstance(f, SequenceFeature)}
        self._of_requests = frozenset(config.request_features())
        self._vectors = {n: f.width for n, f in config.features.items() if isinstance(f, VectorFeature)}
        self._numbers = {n: f.of for n, f in config.features.items() if isinstance(f, SequenceDenseFeature)}
        self._weighted = frozenset(weighted(config.features))
        self._spec = lookup.spec
        self._mean = {
            n: config.tables[config.table_of(n)].pooling == "mean"
            for n, f in config.features.items()
            if isinstance(f, SingleId | IdsFeature | BiasFeature) and config.table_of(n) in lookup.unpooled
        }

    def forward(
        self,
        pooled: KeyedTensor | None,
        unpooled: dict[str, JaggedTensor] | None,
        batch: Batch,
        replicated: LookedUp | None = None,
    ) -> ModelInput:
        replicated = replicated or LookedUp([], {})
        parts = [*([] if pooled is None else [pooled]), *replicated.pooled]
        shared = bool(self._of_requests) and len(batch.request) > 0
        sequences = self._padded(unpooled, replicated.sequences, batch)
        self._add_numbers(sequences, batch, shared)
        ids = self._ids(batch) if self._compared else {}
        if not self._bias and not shared and len(parts) == 1 and list(parts[0].keys()) == self._pooled:
            return ModelInput(parts[0].values(), batch.dense, sequences, scenario=batch.scenario, ids=ids)
        vectors: dict[str, Tensor] = {}
        for part in parts:
            vectors.update(zip(part.keys(), torch.split(part.values(), part.length_per_key(), dim=1), strict=True))
        for of_user, values in ((False, batch.vectors), (True, batch.user_vectors)):
            widths = {n: w for n, w in self._vectors.items() if (shared and n in self._of_requests) == of_user}
            if widths:
                vectors.update(zip(widths, values.split(list(widths.values()), 1), strict=True))
        for name, mean in self._mean.items():
            if name not in vectors:
                assert unpooled is not None
                weights = batch.id_weights[name].values() if name in self._weighted else None
                vectors[name] = _pool(self._of_places(name, unpooled[name], batch), mean, weights)
        bias = torch.cat([vectors[n] for n in self._bias], dim=1) if self._bias else None
        bias_present = self._present(batch) if self._bias else None
        if shared:
            return self._by_request(vectors, sequences, ids, batch, bias, bias_present)
        return ModelInput(
            pooled=torch.cat([vectors[n] for n in self._pooled], dim=1) if self._pooled else batch.labels[:, :0],
            dense=batch.dense,
            sequences=sequences,
            bias=bias,
            bias_present=bias_present,
            scenario=batch.scenario,
            ids=ids,
        )

    def _by_request(
        self,
        vectors: dict[str, Tensor],
        sequences: dict[str, tuple[Tensor, Tensor]],
        ids: dict[str, Tensor],
        batch: Batch,
        bias: Tensor | None,
        bias_present: Tensor | None,
    ) -> RequestInput:
        sides: list[NamedInput] = []
        for of_user, numbers in ((True, batch.user_dense), (False, batch.dense)):
            names = [n for n in self._spec.dense if (n in self._of_requests) == of_user]
            dense = dict(zip(names, numbers.split(1, 1), strict=True)) if names else {}
            pooled = {n: vectors[n] for n in self._pooled if (n in self._of_requests) == of_user}
            own = {n: steps for n, steps in sequences.items() if (n in self._of_requests) == of_user}
            own_ids = {n: rows for n, rows in ids.items() if (n in self._of_requests) == of_user}
            sides.append(NamedInput(self._spec, numbers, pooled, dense, own, own_ids))
        users, rows = sides
        return RequestInput(users, rows, batch.request, batch.scenario, bias, bias_present)

    def _ids(self, batch: Batch) -> dict[str, Tensor]:
        """`ModelInput.ids`, of a feature of requests with U rows."""
        found = {}
        for rows in (batch.ids, batch.sequences):
            # From the lengths of all features at once: `rows[name]` would synchronize with the device.
            lengths = rows.lengths().view(-1, len(batch.valid))
            ends = rows.lengths().cumsum(0).view_as(lengths)
            values = nn.functional.pad(rows.values(), (0, 1), value=-1)
            for n, name in enumerate(rows.keys()):
                if name in self._compared:
                    count = len(batch.user_dense) if name in self._of_requests else len(batch.valid)
                    own, end = lengths[n, :count].unsqueeze(1), ends[n, :count].unsqueeze(1)
                    step = torch.arange(self._sequences.get(name, 1), device=values.device)
                    places = torch.where(step < own, end - own + step, len(values) - 1)
                    ids = values[places]
                    found[name] = ids if name in self._sequences else ids.squeeze(1)
        return found

    def _of_places(self, name: str, jagged: JaggedTensor, batch: Batch) -> JaggedTensor:
        """The vectors of a feature, for a feature of requests only those of the places that requests have."""
        if name not in self._of_requests or not len(batch.request):
            return jagged
        return JaggedTensor(jagged.values(), lengths=jagged.lengths()[: len(batch.user_dense)])

    def _present(self, batch: Batch) -> Tensor:
        """[B], whether the row has all its bias features."""
        # From the lengths of all features at once: `ids[name]` would synchronize with the device.
        held: list[Tensor] = []
        for ids in (batch.ids, batch.sequences):
            lengths = ids.lengths().view(len(ids.keys()), len(batch.valid))
            held += [lengths[n] for n, name in enumerate(ids.keys()) if name in self._bias]
        return torch.stack(held).all(0)

    def _padded(
        self, unpooled: dict[str, JaggedTensor] | None, replicated: dict[str, Tensor], batch: Batch
    ) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        for name, length in self._sequences.items():
            if name in replicated:
                lengths = batch.sequences.lengths().view(-1, len(batch.valid))
                found[name] = replicated[name], lengths[batch.sequences.keys().index(name), : len(replicated[name])]
            elif unpooled is not None:  # TorchRec's lazy mapping does not know `in`
                jagged = self._of_places(name, unpooled[name], batch)
                values = jagged.to_padded_dense(length).contiguous()
                found[name] = values.view(-1, length, jagged.values().shape[-1]), jagged.lengths()
        return found

    def _add_numbers(self, sequences: dict[str, tuple[Tensor, Tensor]], batch: Batch, shared: bool) -> None:
        """Add the numbers of the steps, [B, L, 1] each, with the lengths of the histories that they belong to."""
        for of_user, values in ((False, batch.step_numbers), (True, batch.user_step_numbers)):
            names = [n for n in self._numbers if (shared and n in self._of_requests) == of_user]
            if names:
                parts = values.split([self._sequences[self._numbers[n]] for n in names], 1)
                for name, part in zip(names, parts, strict=True):
                    sequences[name] = part.unsqueeze(2), sequences[self._numbers[name]][1]


def _pool(jagged: JaggedTensor, mean: bool, weights: Tensor | None = None) -> Tensor:
    """Sum or mean of each row's embeddings, [B, D]; with weights [V] Σ w e, or Σ w e / Σ w. A row without embeddings, or whose
    weights are all 0, gives zeros."""
    lengths = jagged.lengths()
    values = jagged.values()
    owner = torch.repeat_interleave(
        torch.arange(len(lengths), device=values.device), lengths, output_size=values.shape[0]
    )
    if weights is not None:
        values = values * weights.unsqueeze(1)
    pooled = values.new_zeros(len(lengths), values.shape[-1]).index_add(0, owner, values)
    if not mean:
        return pooled
    if weights is None:
        return pooled / lengths.clamp_min(1).unsqueeze(1)
    total = weights.new_zeros(len(lengths)).index_add(0, owner, weights)
    return pooled / torch.where(total > 0, total, 1.0).unsqueeze(1)
