"""The model of a version in plain torch for inference: as one model, and split into user part and item part.

Inputs are dictionaries: `<name>` [N] int64 for a feature with one ID (with `<name>.present` [N] bool if some are null), `<name>`
[V] int64 and `<name>.lengths` [N] int64 for a list, with `<name>.weights` [V] float32 if its IDs have weights, `<name>` [V]
float32 for numbers of the steps of a list, `<name>` [N] float32 for a number, `<name>` [N, W] float32 for a vector, and
`data.scenario` [N] int64. Where a table's module takes looked-up vectors, `<name>` has those, and `<name>.rows` the rows of
features whose IDs the sequence slot compares.
Shapes: U users, B candidates, N rows of either, V values of a list, D width of a table, O outputs, P predictions, S scores.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raymtl.config.features import (
    BiasFeature,
    DenseFeature,
    IdsFeature,
    SequenceDenseFeature,
    SequenceFeature,
    SingleId,
    Tableless,
    VectorFeature,
)
from raymtl.config.root import Config
from raymtl.embeddings.names import module_name
from raymtl.embeddings.spec import input_spec
from raymtl.errors import VersionError
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.objectives.fusion import Fusion
from raymtl.serving.split import Features, SplitRanker, State, to_model_input

SCENARIO = "data.scenario"
"""Name of the input with the scenario's index."""
_RANKER = "head.ranker."

Raw = dict[str, Tensor]


class ServedModel(nn.Module):
    """Predictions of a version, without the position tower and without randomness."""

    def __init__(self, config: Config, ranker: Ranker, tables: Mapping[str, nn.Module]):
        """`tables` has a module for every table that `served_tables` names: rows [N] -> embeddings [N, D]."""
        super().__init__()
        self.spec = input_spec(config)
        self.sides = feature_sides(config)
        compared = ranker.sequence.compares
        self.lookups = nn.ModuleDict({s: Lookup(config, names, tables, compared) for s, names in self.sides.items()})
        self.ranker = ranker.eval()
        self.split = SplitRanker(ranker, ranker.encoding.spec, self.sides["user"]) if can_split(config) else None
        self.fusion = None if config.score is None else Fusion(config.score.formulas, self.outputs)

    @property
    def outputs(self) -> list[str]:
        """Names of the predictions: the tasks, the coupler's derived outputs, then the parts of the tasks."""
        return self.ranker.outputs.names

    @property
    def scores(self) -> list[str]:
        """Names of the formulas."""
        return [] if self.fusion is None else self.fusion.names

    def predict(self, raw: Raw) -> Tensor:
        """Predictions and then scores [B, P + S] from the features of both sides, each given for every row."""
        return self._with_scores(self._ranked(raw), raw.get(SCENARIO))

    def logits(self, raw: Raw) -> Tensor:
        """Logits [B, O] from the same, as metrics read them."""
        return self.ranker.corrected(self._ranked(raw), raw.get(SCENARIO))

    def _ranked(self, raw: Raw) -> Tensor:
        user, item = (lookup(raw) for lookup in (self.lookups["user"], self.lookups["item"]))
        both = Features(
            user.pooled | item.pooled,
            user.dense | item.dense,
            user.sequences | item.sequences,
            raw.get(SCENARIO),
            user.ids | item.ids,
        )
        return self.ranker(to_model_input(self.spec, both))

    def user(self, raw: Raw) -> State:
        """The user state for the item part of U users, from the user-side features and the scenario."""
        assert self.split is not None
        features = self._encoded("user", raw)
        features.scenario = raw.get(SCENARIO)
        state = self.split.user(features)
        return state | {SCENARIO: raw[SCENARIO]} if self._maps_scenarios else state

    def item(self, state: State, index: Tensor, raw: Raw) -> Tensor:
        """Predictions and scores from the features of the item's side; `index` [B] int64 is each candidate's user in `state`."""
        assert self.split is not None
        scenario = state[SCENARIO].index_select(0, index) if self._maps_scenarios else None
        return self._with_scores(self.split.item(state, index, self._encoded("item", raw)), scenario)

    def _with_scores(self, logits: Tensor, scenario: Tensor | None) -> Tensor:
        predictions = self.ranker.predictions(logits, scenario)
        return predictions if self.fusion is None else torch.cat((predictions, self.fusion(predictions)), 1)

    @property
    def _maps_scenarios(self) -> bool:
        """Whether predictions are recalibrated by scenario."""
        return self.ranker.calibrator is not None and self.ranker.calibrator.by_scenario

    def _encoded(self, side: str, raw: Raw) -> Features:
        found = self.lookups[side](raw)
        found.pooled, found.dense = self.ranker.encoding.by_name(found.pooled, found.dense)
        return found


class Lookup(nn.Module):
    """Some features by name -> their embeddings and numbers; lists are truncated to `max_length` here."""

    def __init__(
        self, config: Config, names: Sequence[str], tables: Mapping[str, nn.Module], compared: Sequence[str] = ()
    ):
        super().__init__()
        self._compared = frozenset(compared)
        self._features = {name: config.features[name] for name in names}
        self._longest = {n: f.max_length for n, f in self._features.items() if isinstance(f, SequenceFeature)}
        self._table = {n: config.table_of(n) for n, f in self._features.items() if not isinstance(f, Tableless)}
        self._mean = {n: config.tables[table].pooling == "mean" for n, table in self._table.items()}
        self.tables = nn.ModuleDict({module_name(name): tables[name] for name in sorted(set(self._table.values()))})

    def forward(self, raw: Raw) -> Features:
        found = Features({}, {})
        for name, feature in self._features.items():
            if isinstance(feature, DenseFeature):
                found.dense[name] = raw[name]
            elif isinstance(feature, VectorFeature):
                found.pooled[name] = raw[name]
            elif isinstance(feature, SingleId):
                vectors = self._vectors(name, raw[name])
                present = raw.get(f"{name}.present")
                found.pooled[name] = vectors if present is None else vectors * present.unsqueeze(1)
                if name in self._compared:
                    ids = _rows(raw, name)
                    found.ids[name] = ids if present is None else torch.where(present, ids, -1)
            elif isinstance(feature, IdsFeature):
                found.pooled[name] = self._bag(
                    name, feature, raw[name], raw[f"{name}.lengths"], raw.get(f"{name}.weights")
                )
            elif isinstance(feature, SequenceFeature):
                lengths = raw[f"{name}.lengths"]
                steps, there, kept = _steps(raw[name], lengths, feature.max_length)
                vectors = self._vectors(name, steps).unflatten(0, there.shape)
                found.sequences[name] = vectors * there.unsqueeze(2), kept
                if name in self._compared:
                    ids, _, _ = _steps(_rows(raw, name), lengths, feature.max_length)
                    found.ids[name] = torch.where(there, ids.unflatten(0, there.shape), -1)
            elif isinstance(feature, SequenceDenseFeature):
                numbers, there, kept = _steps(raw[name], raw[f"{feature.of}.lengths"], self._longest[feature.of])
                found.sequences[name] = numbers.view(there.shape).mul(there).unsqueeze(2), kept
        return found

    def _vectors(self, name: str, rows: Tensor) -> Tensor:
        return self.tables[module_name(self._table[name])](rows)

    def _bag(self, name: str, feature: IdsFeature, rows: Tensor, lengths: Tensor, weights: Tensor | None) -> Tensor:
        """Sum or mean of the first embeddings of each list, with their weights [V]: [N, D]."""
        ends = lengths.cumsum(0)
        place = torch.arange(rows.shape[0], device=rows.device)
        # The number of lists that end at or before each value; ONNX has no search in a tensor of any length
        marks = torch.zeros(rows.shape[0] + 1, dtype=torch.int64, device=rows.device)
        owner = marks.index_add(0, ends, torch.ones_like(ends)).cumsum(0).narrow(0, 0, rows.shape[0])
        vectors = self._vectors(name, rows)
        if feature.max_length is not None:
            kept = place - (ends - lengths).index_select(0, owner) < feature.max_length
            lengths = lengths.clamp(max=feature.max_length)
            if weights is None:
                vectors = vectors * kept.unsqueeze(1)
            else:
                weights = weights * kept
        if weights is not None:
            vectors = vectors * weights.unsqueeze(1)
        pooled = vectors.new_zeros(lengths.shape[0], vectors.shape[1]).index_add(0, owner, vectors)
        if not self._mean[name]:
            return pooled
        if weights is None:
            return pooled / lengths.clamp(min=1).unsqueeze(1)
        total = weights.new_zeros(lengths.shape[0]).index_add(0, owner, weights)
        return pooled / torch.where(total > 0, total, 1.0).unsqueeze(1)


def _steps(values: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last values of each list [N · L, …], anything beyond its end; which are there [N, L], and their number [N]."""
    kept = lengths.clamp(max=longest)
    step = torch.arange(longest, device=values.device)
    there = step < kept.unsqueeze(1)
    place = (lengths.cumsum(0) - kept).unsqueeze(1) + step
    # Missing steps read an arbitrary row, also if no list has one
    values = torch.cat((values, values.new_zeros(1, *values.shape[1:])))
    return values.index_select(0, torch.where(there, place, values.shape[0] - 1).flatten()), there, kept


def _rows(raw: Raw, name: str) -> Tensor:
    """The table rows of a feature, also where its vectors came in their place."""
    return raw.get(f"{name}.rows", raw[name])


def feature_sides(config: Config) -> dict[str, list[str]]:
    """Names of the served features by side, `user` and `item`; bias features are used for training alone."""
    user = config.user_features()
    served = [name for name, feature in config.features.items() if not isinstance(feature, BiasFeature)]
    return {"user": [n for n in served if n in user], "item": [n for n in served if n not in user]}


def can_split(config: Config) -> bool:
    """Whether both sides have features."""
    return all(feature_sides(config).values())


def served_tables(config: Config) -> list[str]:
    """Names of the tables that predictions need."""
    lookups = [n for names in feature_sides(config).values() for n in names]
    used = {config.table_of(n) for n in lookups if not isinstance(config.features[n], Tableless)}
    return [name for name in config.tables if name in used]


def load_ranker(config: Config, dense: Mapping[str, Tensor], version: str) -> Ranker:
    """The ranker of a configuration with the dense weights of a version. VersionError if they are of another model."""
    ranker = build_ranker(config.model, config.active_tasks(), input_spec(config), {}, config.calibration)
    weights = {key.removeprefix(_RANKER): value for key, value in dense.items() if key.startswith(_RANKER)}
    expected = ranker.state_dict()
    for name in [*expected, *weights]:
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape:
            found, wanted = (list(of[name].shape) if name in of else None for of in (weights, expected))
            raise VersionError(
                f"version {version}: the weight `{name}` has the shape {found} in dense.safetensors and {wanted} in the model of "
                "its manifest; use the raymtl version that wrote it, or, for a slot of `type: custom`, the class as it was then"
            )
    ranker.load_state_dict(weights)
    for parameter in ranker.parameters():
        parameter.requires_grad_(False)
    return ranker.eval()
