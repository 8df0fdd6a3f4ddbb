"""The ranker cut in two: what depends on the user's side alone, and the rest for each candidate.

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
"""What the user part hands to the item part, each tensor [U, ...]."""

_READ = ("pooled", "dense", "scenario", "sequences")
"""What a slot may read of the inputs besides x."""
_STEPS = 2
"""Length of the sequences with which the ranker is tried once; any would do."""


@dataclass
class Features:
    """Features after the table lookup, by name; of one side, or of both."""

    pooled: dict[str, Tensor]
    """[N, D] each."""
    dense: dict[str, Tensor]
    """[N] each."""
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Embeddings [N, L, D], zero beyond the end, and lengths [N]."""
    scenario: Tensor | None = None
    """[N] int64."""

    def some(self) -> Tensor:
        """A tensor with N rows."""
        lengths = [lengths for _, lengths in self.sequences.values()]
        own = [*self.pooled.values(), *self.dense.values(), *lengths]
        found = own[0] if own else self.scenario
        assert found is not None
        return found


def arranged(spec: InputSpec, features: Features) -> ModelInput:
    """The model's input; features that are not given read as zeros, missing sequences are left out."""
    some = features.some()
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
    )


class SplitRanker(nn.Module):
    """A ranker in evaluation in two parts: `item(user(u), index, i)` are the logits of the candidates i of the users u[index].

    How deep the cut goes follows from what the slots say of themselves (`models/slots.py`). Columns of x that depend on the
    user's side alone, and the sequence slot where all that it reads is of that side, are made once per user; so are their
    products with the layers that read x, which are linear. What else a slot reads of the user is repeated for the candidates.
    """

    def __init__(self, ranker: Ranker, spec: InputSpec, user: Collection[str]):
        """`user` names the features of the user's side; the scenario always is. The weights are fixed from now on."""
        super().__init__()
        self.ranker = ranker.eval()
        self.spec = spec
        self.of_user = frozenset(user)
        slot = ranker.sequence
        reads_user = slot.width > 0 and slot.reads is not None and set(slot.reads) <= self.of_user
        self._asked = reads_user and isinstance(slot, TargetAwareSequenceSlot)
        self._encoded = reads_user and not self._asked
        columns = ranker.input.columns or [None] * ranker.input.width
        self._alone = None not in columns
        sides = [name in self.of_user for name in columns]
        self.register_buffer("_user_columns", _places(sides, True), persistent=False)
        self.register_buffer("_item_columns", _places(sides, False), persistent=False)
        sides += [self._encoded] * slot.width
        order = torch.cat((_places(sides, True), _places(sides, False)))
        self.register_buffer("_order", order.argsort(), persistent=False)
        self._sizes: list[int] | None = None
        """Widths of the products; None: x is per task, and no product is made ahead."""
        self._needs = set(_READ)
        with torch.no_grad():
            self._try(sides)

    def user(self, features: Features) -> State:
        """What the item part needs to know of U users."""
        inputs = arranged(self.spec, features)
        encoded: tuple[Tensor, ...] = ()
        if self._asked:
            encoded = self.ranker.sequence.encode(inputs)
        elif self._encoded:
            encoded = (self.ranker.sequence(inputs),)
        state = dict(self._repeated(features))
        if self._asked or (self._encoded and self._sizes is None):
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
        """Logits of B candidates, of which `index` [B] int64 names the users -> as `Ranker.forward`."""
        inputs = _Inputs(self, state, index, features)
        sequence = self._sequence(state, index, inputs)
        if self._sizes is None:
            return self.ranker.above(concat_sequence(self.ranker.input(inputs), sequence), inputs)
        x = self.ranker.input(arranged(self.spec, features) if self._alone else inputs)
        x = x.index_select(1, self._item_columns)
        x = x if sequence is None else torch.cat((x, sequence), 1)
        products: list[Tensor] = []
        if self._sizes:
            # Each into memory of its own: batched products are slow on slices of one wide result
            shares = state["products"].split(self._sizes, 1)
            weights = self._item_weight.split(self._sizes)
            products = [
                share.index_select(0, index).addmm_(x, weight.t())
                for share, weight in zip(shares, weights, strict=True)
            ]

        def materialize() -> Tensor:
            return torch.cat((state["x"].index_select(0, index), x), 1).index_select(1, self._order)

        return self.ranker.above(PrecomputedInput(products, materialize, x.device), inputs)

    def _sequence(self, state: State, index: Tensor, inputs: ModelInput) -> Tensor | None:
        """What the sequence slot adds to x for each candidate; None where the products have it."""
        slot = self.ranker.sequence
        if self._asked:
            encoded = [value for name, value in state.items() if name.startswith("encoded.")]
            return slot.attend(tuple(encoded), index, inputs)
        if self._encoded:
            return state["encoded.0"].index_select(0, index) if self._sizes is None else None
        return slot(inputs) if slot.width else None

    def _repeated(self, features: Features) -> Iterator[tuple[str, Tensor]]:
        """The user's own features, as far as something reads them for each candidate."""
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

    def _try(self, sides: list[bool]) -> None:
        """Run the ranker once on made-up rows: it tells which layers read x, and what it reads of the user besides."""
        state = self.user(self._made_up(1, of_user=True))
        features, index = self._made_up(2, of_user=False), torch.zeros(2, dtype=torch.int64)
        inputs = _Inputs(self, state, index, features)
        sequence = self._sequence(state, index, inputs)
        per_task = sequence is not None and sequence.dim() == 3
        alone = self._alone and not per_task
        x = concat_sequence(self.ranker.input(arranged(self.spec, self._made_up(2)) if alone else inputs), sequence)
        if per_task:
            self.ranker.above(x, inputs)
            self._needs = inputs.read
            return
        reader = _Reader(x)
        self.ranker.above(reader, inputs)
        self._needs = inputs.read | ({"x"} if reader.read_whole else set())
        self._sizes = [len(weight) for weight in reader.weights]
        if self._sizes:
            weight = torch.cat(reader.weights)
            self.register_buffer("_user_weight", weight[:, _places(sides, True)], persistent=False)
            self.register_buffer("_item_weight", weight[:, _places(sides, False)], persistent=False)
            self.register_buffer("_bias", torch.cat(reader.biases), persistent=False)

    def _made_up(self, rows: int, of_user: bool | None = None) -> Features:
        """Zeros for the features of one side, or of both."""

        def has(name: str) -> bool:
            return of_user is None or (name in self.of_user) == of_user

        lengths = torch.full((rows,), _STEPS)
        return Features(
            {n: torch.zeros(rows, d) for n, d in self.spec.pooled.items() if has(n)},
            {n: torch.zeros(rows) for n in self.spec.dense if has(n)},
            {n: (torch.zeros(rows, _STEPS, d), lengths) for n, d in self.spec.sequences.items() if has(n)},
            torch.zeros_like(lengths) if self.spec.scenarios and of_user is not False else None,
        )


class _Inputs(ModelInput):
    """The inputs of both sides for the candidates; what nobody reads is not put together."""

    def __init__(self, split: SplitRanker, state: State, index: Tensor, features: Features):
        self._spec, self._of_user = split.spec, split.of_user
        self._state, self._index, self._features = state, index, features
        self.bias = self.bias_present = None
        self.read: set[str] = set()
        """Which of `_READ` were read."""

    def _of_users(self, name: str) -> Tensor:
        self.read.add(name.partition(".")[0].replace("steps", "sequences").replace("lengths", "sequences"))
        return self._state[name].index_select(0, self._index)

    @property
    def pooled(self) -> Tensor:  # type: ignore[override]
        parts = dict(self._features.pooled)
        own = {n: d for n, d in self._spec.pooled.items() if n in self._of_user}
        if own:
            parts.update(zip(own, self._of_users("pooled").split(list(own.values()), 1), strict=True))
        return arranged(self._spec, Features(parts, self._features.dense)).pooled

    @property
    def dense(self) -> Tensor:  # type: ignore[override]
        parts = dict(self._features.dense)
        if own := [n for n in self._spec.dense if n in self._of_user]:
            parts.update(zip(own, self._of_users("dense").unbind(1), strict=True))
        return arranged(self._spec, Features(self._features.pooled, parts)).dense

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


class _Reader(PrecomputedInput):
    """An x that makes the products itself, and remembers with what."""

    def __init__(self, x: Tensor):
        super().__init__((), lambda: x, x.device)
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.read_whole = False

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        self.weights.append(weight)
        self.biases.append(weight.new_zeros(len(weight)) if bias is None else bias)
        return F.linear(super().materialize(), weight, bias)

    def materialize(self) -> Tensor:
        self.read_whole = True
        return super().materialize()


def _places(sides: Sequence[bool], side: bool) -> Tensor:
    """Where `sides` is `side`, [n] int64."""
    return torch.tensor([place for place, own in enumerate(sides) if own == side], dtype=torch.int64)
