"""The ranker split in two: what depends only on the user side, and the rest for each candidate.

Shapes: U users, B candidates, N rows of either, F dense features, o outputs of all layers that read x.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.precomputed import PrecomputedInput
from raymtl.models.ranker import Ranker, concat_sequence
from raymtl.models.slots import TargetAwareSequenceSlot

State = dict[str, Tensor]
"""The user part's result for the item part, each tensor [U, ...]."""

_READ = ("pooled", "dense", "scenario", "sequences", "ids")
"""The inputs that a slot may read besides x."""
_STEPS = 2
"""Length of the sequences in the trial run of the ranker; arbitrary."""


@dataclass
class Features:
    """Features after the table lookup, by name, of one or both sides."""

    pooled: dict[str, Tensor]
    """[N, D] each."""
    dense: dict[str, Tensor]
    """[N] each."""
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Embeddings [N, L, D], zero beyond the end, and lengths [N]."""
    scenario: Tensor | None = None
    """[N] int64."""
    ids: dict[str, Tensor] = field(default_factory=dict)
    """As in `ModelInput`."""

    def any_tensor(self) -> Tensor:
        """A tensor with N rows."""
        lengths = [lengths for _, lengths in self.sequences.values()]
        own = [*self.pooled.values(), *self.dense.values(), *lengths]
        found = own[0] if own else self.scenario
        assert found is not None
        return found


def to_model_input(spec: InputSpec, features: Features) -> ModelInput:
    """The model's input; missing features are zeros, missing sequences are left out."""
    some = features.any_tensor()
    pooled = [
        features.pooled[n] if n in features.pooled else some.new_zeros(some.shape[0], d, dtype=torch.float32)
        for n, d in spec.pooled.items()
    ]
    dense = [
        features.dense[n] if n in features.dense else some.new_zeros(some.shape[0], dtype=torch.float32)
        for n in spec.dense
    ]
    empty = some.new_zeros(some.shape[0], 0, dtype=torch.float32)
    return ModelInput(
        torch.cat(pooled, 1) if pooled else empty,
        torch.stack(dense, 1) if dense else empty,
        {n: features.sequences[n] for n in spec.sequences if n in features.sequences},
        scenario=features.scenario,
        ids=features.ids,
    )


class SplitRanker(nn.Module):
    """A ranker for inference in two parts: `item(user(u), index, i)` are the logits of the candidates i of the users u[index].

    The slots' own declarations (`models/slots.py`) decide what is split. Columns of x that depend only on the user side, and the
    sequence slot if it reads only user-side features, are computed once per user; so are their products with the linear layers
    that read x. Other user inputs of a slot are repeated for the candidates.
    """

    def __init__(self, ranker: Ranker, spec: InputSpec, user: Collection[str]):
        """`user` names the user-side features; the scenario is always one. The weights must not change afterwards."""
        super().__init__()
        self.ranker = ranker.eval()
        self.spec = spec
        self.of_user = frozenset(user)
        slot = ranker.sequence
        reads_user = slot.width > 0 and slot.reads is not None and set(slot.reads) <= self.of_user
        self._is_target_aware = reads_user and isinstance(slot, TargetAwareSequenceSlot)
        self._encoded = reads_user and not self._is_target_aware
        columns = ranker.input.columns or [None] * ranker.input.width
        self._alone = None not in columns
        sides = [name in self.of_user for name in columns]
        self.register_buffer("_user_columns", _indices(sides, True), persistent=False)
        self.register_buffer("_item_columns", _indices(sides, False), persistent=False)
        sides += [self._encoded] * slot.width
        order = torch.cat((_indices(sides, True), _indices(sides, False)))
        self.register_buffer("_order", order.argsort(), persistent=False)
        self._sizes: list[int] | None = None
        """Widths of the products; None: x is per task, and no product is precomputed."""
        self._needs = set(_READ)
        with torch.no_grad():
            self._trace_inputs(sides)

    def user(self, features: Features) -> State:
        """The state of U users for the item part."""
        inputs = to_model_input(self.spec, features)
        encoded: tuple[Tensor, ...] = ()
        if self._is_target_aware:
            encoded = self.ranker.sequence.encode(inputs)
        elif self._encoded:
            encoded = (self.ranker.sequence(inputs),)
        state = dict(self._repeated(features))
        if self._is_target_aware or (self._encoded and self._sizes is None):
            state |= {f"encoded.{n}": value for n, value in enumerate(encoded)}
        if self._sizes is not None:
            x = self.ranker.input(inputs).index_select(1, self._user_columns)
            x = torch.cat((x, *encoded), 1) if self._encoded else x
            if self._sizes:
                state["products"] = F.linear(x, self._user_weight, self._bias)
            if "x" in self._needs:
                state["x"] = x
        return state

    def item(self, state: State, index: Tensor, features: Features) -> Tensor:
        """Logits of B candidates whose users are `index` [B] int64, as in `Ranker.forward`."""
        inputs = _Inputs(self, state, index, features)
        sequence = self._sequence(state, index, inputs)
        if self._sizes is None:
            return self.ranker.forward_from_x(concat_sequence(self.ranker.input(inputs), sequence), inputs)
        x = self.ranker.input(to_model_input(self.spec, features) if self._alone else inputs)
        x = x.index_select(1, self._item_columns)
        x = x if sequence is None else torch.cat((x, sequence), 1)
        products: list[Tensor] = []
        if self._sizes:
            # Each in its own memory: batched products are slow on slices of one wide result
            user_products = state["products"].split(self._sizes, 1)
            weights = self._item_weight.split(self._sizes)
            products = [
                product.index_select(0, index).addmm_(x, weight.t())
                for product, weight in zip(user_products, weights, strict=True)
            ]

        def materialize() -> Tensor:
            return torch.cat((state["x"].index_select(0, index), x), 1).index_select(1, self._order)

        return self.ranker.forward_from_x(PrecomputedInput(products, materialize, x.device), inputs)

    def _sequence(self, state: State, index: Tensor, inputs: ModelInput) -> Tensor | None:
        """The sequence slot's columns of x for each candidate; None if the products include them."""
        slot = self.ranker.sequence
        if self._is_target_aware:
            encoded = [value for name, value in state.items() if name.startswith("encoded.")]
            return slot.attend(tuple(encoded), index, inputs)
        if self._encoded:
            return state["encoded.0"].index_select(0, index) if self._sizes is None else None
        return slot(inputs) if slot.width else None

    def _repeated(self, features: Features) -> Iterator[tuple[str, Tensor]]:
        """The user features that are read for each candidate."""
        if "pooled" in self._needs and features.pooled:
            yield "pooled", torch.cat(list(features.pooled.values()), 1)
        if "dense" in self._needs and features.dense:
            yield "dense", torch.stack(list(features.dense.values()), 1)
        if "scenario" in self._needs and features.scenario is not None:
            yield "scenario", features.scenario
        if "sequences" in self._needs:
            for name, (steps, lengths) in features.sequences.items():
                yield f"steps.{name}", steps
                yield f"lengths.{name}", lengths
        if "ids" in self._needs:
            yield from ((f"ids.{name}", ids) for name, ids in features.ids.items())

    def _trace_inputs(self, sides: list[bool]) -> None:
        """Run the ranker once on zeros, to find which layers read x, and which user inputs it reads besides."""
        state = self.user(self._zeros(1, of_user=True))
        features, index = self._zeros(2, of_user=False), torch.zeros(2, dtype=torch.int64)
        inputs = _Inputs(self, state, index, features)
        sequence = self._sequence(state, index, inputs)
        per_task = sequence is not None and sequence.dim() == 3
        alone = self._alone and not per_task
        x = concat_sequence(self.ranker.input(to_model_input(self.spec, self._zeros(2)) if alone else inputs), sequence)
        if per_task:
            self.ranker.forward_from_x(x, inputs)
            self._needs = inputs.read
            return
        reader = _Reader(x)
        self.ranker.forward_from_x(reader, inputs)
        self._needs = inputs.read | ({"x"} if reader.read_x else set())
        self._sizes = [len(weight) for weight in reader.weights]
        if self._sizes:
            weight = torch.cat(reader.weights)
            self.register_buffer("_user_weight", weight[:, _indices(sides, True)], persistent=False)
            self.register_buffer("_item_weight", weight[:, _indices(sides, False)], persistent=False)
            self.register_buffer("_bias", torch.cat(reader.biases), persistent=False)

    def _zeros(self, rows: int, of_user: bool | None = None) -> Features:
        """Zeros for the features of one side, or of both."""

        def has(name: str) -> bool:
            return of_user is None or (name in self.of_user) == of_user

        lengths = torch.full((rows,), _STEPS)
        return Features(
            {n: torch.zeros(rows, d) for n, d in self.spec.pooled.items() if has(n)},
            {n: torch.zeros(rows) for n in self.spec.dense if has(n)},
            {n: (torch.zeros(rows, _STEPS, d), lengths) for n, d in self.spec.sequences.items() if has(n)},
            torch.zeros_like(lengths) if self.spec.scenarios and of_user is not False else None,
            {n: self._zero_ids(n, rows) for n in self.ranker.sequence.compares if has(n)},
        )

    def _zero_ids(self, name: str, rows: int) -> Tensor:
        return torch.zeros(rows, *[_STEPS] * (name in self.spec.sequences), dtype=torch.int64)


class _Inputs(ModelInput):
    """The inputs of both sides for the candidates, assembled only when read."""

    def __init__(self, split: SplitRanker, state: State, index: Tensor, features: Features):
        self._spec, self._of_user, self._compares = split.spec, split.of_user, split.ranker.sequence.compares
        self._state, self._index, self._features = state, index, features
        self.bias = self.bias_present = None
        self.read: set[str] = set()
        """Those of `_READ` that were read."""

    def _of_users(self, name: str) -> Tensor:
        self.read.add(name.partition(".")[0].replace("steps", "sequences").replace("lengths", "sequences"))
        return self._state[name].index_select(0, self._index)

    @property
    def pooled(self) -> Tensor:  # type: ignore[override]
        parts = dict(self._features.pooled)
        own = {n: d for n, d in self._spec.pooled.items() if n in self._of_user}
        if own:
            parts.update(zip(own, self._of_users("pooled").split(list(own.values()), 1), strict=True))
        return to_model_input(self._spec, Features(parts, self._features.dense)).pooled

    @property
    def dense(self) -> Tensor:  # type: ignore[override]
        parts = dict(self._features.dense)
        if own := [n for n in self._spec.dense if n in self._of_user]:
            parts.update(zip(own, self._of_users("dense").unbind(1), strict=True))
        return to_model_input(self._spec, Features(self._features.pooled, parts)).dense

    @property
    def scenario(self) -> Tensor | None:  # type: ignore[override]
        return self._of_users("scenario") if self._spec.scenarios else None

    @property
    def sequences(self) -> dict[str, tuple[Tensor, Tensor]]:  # type: ignore[override]
        found = dict(self._features.sequences)
        for name in self._spec.sequences:
            if name in self._of_user:
                found[name] = self._of_users(f"steps.{name}"), self._of_users(f"lengths.{name}")
        return found

    @property
    def ids(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: self.ids_of(name) for name in self._compares}

    def ids_of(self, name: str) -> Tensor:
        return self._of_users(f"ids.{name}") if name in self._of_user else self._features.ids[name]


class _Reader(PrecomputedInput):
    """An x that computes the products itself, and records their weights."""

    def __init__(self, x: Tensor):
        super().__init__((), lambda: x, x.device)
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.read_x = False

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        self.weights.append(weight)
        self.biases.append(weight.new_zeros(len(weight)) if bias is None else bias)
        return F.linear(super().materialize(), weight, bias)

    def materialize(self) -> Tensor:
        self.read_x = True
        return super().materialize()


def _indices(sides: Sequence[bool], side: bool) -> Tensor:
    """Indices where `sides` is `side`, [n] int64."""
    return torch.tensor([place for place, own in enumerate(sides) if own == side], dtype=torch.int64)
