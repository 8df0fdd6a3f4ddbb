"""Inputs of rows that share the user's side of their request, and their x: what depends on the user alone is computed once.

The first layers above x are linear, W x = W_user x_user + W_item x_item, so the user's share of their products is computed once
per request too. Autograd sums the gradients of the rows.

Shapes: B rows, U requests; d_u + d_i = d the columns of x that depend on the user alone, and the others.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.precomputed import PrecomputedInput, X
from raymtl.models.slots import InputSlot, SequenceSlot, TargetAwareSequenceSlot

Encode = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""Pooled features [N, D] and dense ones [N] by name -> what slots read of them."""


class NamedInput(ModelInput):
    """Inputs that are held feature by feature; what a slot reads is put together when it is read. Missing features are zeros."""

    by_name = True

    def __init__(
        self,
        spec: InputSpec,
        some: Tensor,
        pooled: Mapping[str, Tensor],
        dense: Mapping[str, Tensor],
        sequences: Mapping[str, tuple[Tensor, Tensor]],
        ids: Mapping[str, Tensor] | None = None,
    ):
        """`some` is any tensor with a row for each of N rows; pooled [N, D] each, dense [N, 1] each, sequences and IDs as in
        `ModelInput`."""
        self.spec, self._some, self._pooled, self._dense = spec, some, pooled, dense
        self._sequences, self._ids = dict(sequences), dict(ids or {})
        self.bias = self.bias_present = self.scenario = None

    def value(self, name: str) -> Tensor:
        """A pooled feature [N, D] or a dense one [N, 1]."""
        found = self._pooled.get(name, self._dense.get(name))
        if found is None:
            found = self._some.new_zeros(len(self._some), self.spec.pooled.get(name, 1), dtype=torch.float32)
        return found

    @property
    def pooled(self) -> Tensor:  # type: ignore[override]
        return self._joined(list(self.spec.pooled))

    @property
    def dense(self) -> Tensor:  # type: ignore[override]
        return self._joined(list(self.spec.dense))

    @property
    def sequences(self) -> dict[str, tuple[Tensor, Tensor]]:  # type: ignore[override]
        return self._sequences

    @property
    def ids(self) -> dict[str, Tensor]:  # type: ignore[override]
        return self._ids

    def plain(self) -> ModelInput:
        """All of it in tensors."""
        return ModelInput(
            self.pooled, self.dense, self.sequences, self.bias, self.bias_present, self.scenario, self.ids
        )

    def _joined(self, names: Sequence[str]) -> Tensor:
        if not names:
            return self._some.new_zeros(len(self._some), 0, dtype=torch.float32)
        return torch.cat([self.value(name) for name in names], 1)


class RequestInput(NamedInput):
    """The inputs of B rows; the user's features are repeated for the rows only where a slot reads them."""

    def __init__(
        self,
        users: NamedInput,
        rows: NamedInput,
        request: Tensor,
        scenario: Tensor | None,
        bias: Tensor | None,
        bias_present: Tensor | None,
    ):
        """`request` [B] int64 is the place of each row's request in `users`."""
        self.users, self.rows, self.request = users, rows, request
        self.of_users = frozenset((*users._pooled, *users._dense, *users.sequences))
        super().__init__(users.spec, request, rows._pooled, rows._dense, {})
        self.scenario, self.bias, self.bias_present = scenario, bias, bias_present
        self._repeated: dict[str, Tensor] = {}
        self._repeated_sequences: dict[str, tuple[Tensor, Tensor]] | None = None

    def value(self, name: str) -> Tensor:
        if name not in self.of_users:
            return self.rows.value(name)
        if name not in self._repeated:
            self._repeated[name] = self.users.value(name).index_select(0, self.request)
        return self._repeated[name]

    @property
    def sequences(self) -> dict[str, tuple[Tensor, Tensor]]:  # type: ignore[override]
        if self._repeated_sequences is None:
            self._repeated_sequences = dict(self.rows.sequences)
            for name, (steps, lengths) in self.users.sequences.items():
                repeated = steps.index_select(0, self.request), lengths.index_select(0, self.request)
                self._repeated_sequences[name] = repeated
        return self._repeated_sequences

    @property
    def ids(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: self.ids_of(name) for name in (*self.users.ids, *self.rows.ids)}

    def ids_of(self, name: str) -> Tensor:
        own = self.rows.ids.get(name)
        return self.users.ids[name].index_select(0, self.request) if own is None else own

    def encoded(self, spec: InputSpec, encode: Encode) -> "RequestInput":
        """The same with the features of each side as `encode` makes them; `spec` describes those."""
        sides = []
        for side in (self.users, self.rows):
            pooled, dense = encode(side._pooled, {name: value.squeeze(1) for name, value in side._dense.items()})
            numbers = {name: value.unsqueeze(1) for name, value in dense.items()}
            sides.append(NamedInput(spec, side._some, pooled, numbers, side.sequences, side.ids))
        users, rows = sides
        return RequestInput(users, rows, self.request, self.scenario, self.bias, self.bias_present)

    def looked_up(self) -> list[Tensor]:
        found = []
        for side in (self.users, self.rows):
            found += [*side._pooled.values(), *(steps for steps, _ in side.sequences.values())]
        return found if self.bias is None else [*found, self.bias]


def inputs_for(slot: nn.Module, inputs: ModelInput) -> ModelInput:
    """The inputs as a slot may use them: one from outside of raymtl knows nothing of inputs that are held feature by feature."""
    outside = not type(slot).__module__.startswith("raymtl.")
    return inputs.plain() if outside and isinstance(inputs, NamedInput) else inputs


class Columns:
    """Which columns of x depend on the user alone."""

    def __init__(self, of_users: Sequence[bool]):
        self._runs = [(side, len(list(run))) for side, run in groupby(of_users)]
        self.sizes = {side: [size for own, size in self._runs if own == side] for side in (True, False)}

    def split(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [o, d] of x as those of the user's columns [o, d_u], and of the others [o, d_i]."""
        parts = weight.split([size for _, size in self._runs], 1)
        sides = [
            [part for part, (own, _) in zip(parts, self._runs, strict=True) if own == side] for side in (True, False)
        ]
        user, item = (torch.cat(side, 1) if side else weight[:, :0] for side in sides)
        return user, item

    def join(self, user: Tensor, item: Tensor) -> Tensor:
        """x [B, d] from its columns [B, d_u] and [B, d_i]."""
        parts = {True: iter(user.split(self.sizes[True], 1)), False: iter(item.split(self.sizes[False], 1))}
        return torch.cat([next(parts[side]) for side, _ in self._runs], 1)


class RequestX(PrecomputedInput):
    """x of rows that share their requests' columns."""

    def __init__(self, user: Tensor, item: Tensor, request: Tensor, columns: Columns):
        """The columns of the user [U, d_u] and the others [B, d_i]."""
        self._user, self._item, self._request, self._columns = user, item, request, columns
        super().__init__((), self._joined, item.device)
        self._x: Tensor | None = None

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_user, of_item = self._columns.split(weight)
        return F.linear(self._user, of_user, bias).index_select(0, self._request) + F.linear(self._item, of_item)

    def _joined(self) -> Tensor:
        if self._x is None:
            self._x = self._columns.join(self._user.index_select(0, self._request), self._item)
        return self._x

    def float(self) -> "RequestX":
        return RequestX(self._user.float(), self._item.float(), self._request, self._columns)

    def detach(self) -> "RequestX":
        return RequestX(self._user.detach(), self._item.detach(), self._request, self._columns)


def request_x(
    features: InputSlot, sequence: SequenceSlot, inputs: RequestInput, concat: Callable[[Tensor, Tensor | None], Tensor]
) -> X:
    """x of B rows from the input and sequence slots."""
    once = sequence.width > 0 and sequence.reads is not None and inputs.of_users.issuperset(sequence.reads)
    users, rows = inputs_for(sequence, inputs.users), inputs_for(sequence, inputs)
    of_user: Tensor | None = None
    of_row: Tensor | None = None
    if once and isinstance(sequence, TargetAwareSequenceSlot):
        of_row = sequence.attend(sequence.encode(users), inputs.request, rows)
    elif once:
        of_user = sequence(users)
    else:
        of_row = sequence(rows)
    columns = features.columns
    per_task = any(part is not None and part.dim() == 3 for part in (of_user, of_row))
    if per_task or columns is None or None in columns:
        if of_user is not None:
            of_row = of_user.index_select(0, inputs.request)
        return concat(features(inputs_for(features, inputs)), of_row)
    sides = [name in inputs.of_users for name in columns]
    user = features.part(inputs_for(features, inputs.users), True, sides)
    item = features.part(inputs_for(features, inputs.rows), False, sides)
    if of_user is not None:
        user = torch.cat((user, of_user), 1)
    if of_row is not None:
        item = torch.cat((item, of_row), 1)
    return RequestX(user, item, inputs.request, Columns([*sides, *[of_user is not None] * sequence.width]))
