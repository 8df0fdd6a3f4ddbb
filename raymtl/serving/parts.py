"""The modules that are exported: the full model, and its user part and item part.

Each is two steps, so that the tables can also lie outside: the rules, from raw features to rows of tables, and the model, which
looks the rows up. Where the tables are files, the model takes the looked-up vectors in place of the rows.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raymtl.serving.model import Raw, ServedModel
from raymtl.serving.rules import Rules
from raymtl.serving.split import State

_CROSSED = "crossed."
"""Prefix of the user's IDs in the state that crosses with those of items need."""


class FullModel(nn.Module):
    """Raw features of both sides, one row per candidate -> predictions and scores [B, P + S]."""

    def __init__(self, model: ServedModel, rules: Mapping[str, Rules]):
        super().__init__()
        self.rows = Rows(model, rules["user"], rules["item"])
        self.model = _Predictions(model)

    def forward(self, features: Raw) -> Tensor:
        return self.model(self.rows(features))


class UserPart(nn.Module):
    """Raw user-side features, one row per user -> the state for the item part, tensors [U, ...]."""

    def __init__(self, model: ServedModel, rules: Mapping[str, Rules]):
        super().__init__()
        self.rows = Rows(model, rules["user"])
        self.model = _UserState(model, rules["user"])

    def forward(self, features: Raw) -> State:
        return self.model(self.rows(features))


class ItemPart(nn.Module):
    """The user part's state, each candidate's index in it [B] int64, and raw item-side features -> [B, P + S]."""

    def __init__(self, model: ServedModel, rules: Mapping[str, Rules]):
        super().__init__()
        self.rows = _ItemRows(model, rules["item"])
        self.model = _ItemPredictions(model)

    def forward(self, state: State, user: Tensor, features: Raw) -> Tensor:
        return self.model(state, user, self.rows(state, user, features))


class Rows(nn.Module):
    """Raw features -> what the model reads: rows for IDs, and scaled numbers.

    The rows of features whose IDs the model compares are there twice: as `<name>`, in whose place looked-up vectors may come, and
    as `<name>.rows`.
    """

    def __init__(self, model: ServedModel, *rules: Rules):
        super().__init__()
        self.rules = nn.ModuleList(rules)
        self._compared = [name for name in model.ranker.sequence.compares if any(name in own.tables for own in rules)]

    def forward(self, features: Raw) -> Raw:
        for rules in self.rules:
            features = rules(features)
        return features | {f"{name}.rows": features[name].clone() for name in self._compared}


class _ItemRows(Rows):
    def __init__(self, model: ServedModel, rules: Rules):
        super().__init__(model, rules)
        self._needed = rules.needed

    def forward(self, state: State, user: Tensor, features: Raw) -> Raw:  # type: ignore[override]
        of_user = {key: state[f"{_CROSSED}{key}"].index_select(0, user) for key in _keys(self._needed)}
        return super().forward({**features, **of_user})


class _Predictions(nn.Module):
    def __init__(self, model: ServedModel):
        super().__init__()
        self.model = model

    def forward(self, features: Raw) -> Tensor:
        return self.model.predict(features)


class _UserState(nn.Module):
    def __init__(self, model: ServedModel, rules: Rules):
        super().__init__()
        self.model, self._handed_on = model, _keys(rules.handed_on)

    def forward(self, features: Raw) -> State:
        return self.model.user(features) | {f"{_CROSSED}{key}": features[key] for key in self._handed_on}


class _ItemPredictions(nn.Module):
    def __init__(self, model: ServedModel):
        super().__init__()
        self.model = model

    def forward(self, state: State, user: Tensor, features: Raw) -> Tensor:
        return self.model.item(state, user, features)


class GivenVectors(nn.Module):
    """In place of a table: the lookups [N, D] came with the features."""

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


def _keys(names: list[str]) -> list[str]:
    """The IDs of some features for the crosses of the other side, in its rules' inputs and results."""
    return [f"{name}.{part}" for name in names for part in ("id", "present")]


def vectors_for(rows: Raw, lookups: Mapping[str, int]) -> Raw:
    """`rows` with zeros in place of the vectors that `lookups`, width by feature, would give: inputs for tracing."""
    return {n: torch.zeros(len(v), lookups[n]) if n in lookups else v for n, v in rows.items()}
