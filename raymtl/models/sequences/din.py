"""DIN: histories pooled by the candidate item, in full or only the steps that share an attribute with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.inputs import InputSpec, ModelInput, Pick
from raymtl.models.layers import MLP, full_precision, glorot_
from raymtl.models.registry import register
from raymtl.models.sequences.steps import Behaviours, in_chunks, rows_per_chunk, side_by_side
from raymtl.models.slots import Context, TargetAwareSequenceSlot

PRODUCT_SCALE = 20.0
"""Factor on the first weights of e ⊙ v. The rows of tables start with a deviation of 0.1, their products thus with 0.01: without
the factor the unit learns late which IDs are the same."""


@register("sequence", "din")
class DINSequence(TargetAwareSequenceSlot):
    """Histories -> [B, Σ heads · width of a step], one after the other: in each, the steps weighted by the candidate item
    (deep interest network; Zhou et al., KDD 2018, section 4.3).

    With e_i the steps of a history, v the target and a the history's `ActivationUnit`, head h gives

        Σ_i a_h(e_i, v) e_i                                     the weights as they are, so that many fitting steps count more
        Σ_i softmax_i(a_h(e_i, v)) e_i                          with `softmax`

    and zeros for a history without steps. The paper has one head and no softmax.

    A behaviour in `search` is reduced before: of its steps only the last `search_steps` with the same ID as the candidate in one
    attribute are attended to (hard search; Pi et al., CIKM 2020, section 3.1). Nothing else is computed for the others, whatever
    the length. IDs are compared as rows of the table that step and candidate share: two IDs that a `hash` table puts in one row
    are the same, as they are for the model.
    """

    def __init__(
        self,
        context: Context,
        *,
        behaviours: Mapping[str, Sequence[str]] | None = None,
        target: Sequence[str],
        hidden: Sequence[int],
        heads: int = 1,
        softmax: bool = False,
        search: Mapping[str, str] | None = None,
        search_steps: int = 50,
    ):
        super().__init__()
        spec = context.spec
        groups = Behaviours(spec, behaviours).groups
        self._target = Pick(spec, target)
        self._histories = [
            _History(name, features, spec, target, (search or {}).get(name)) for name, features in groups.items()
        ]
        self._search_steps = search_steps
        self.units = nn.ModuleList(
            ActivationUnit(h.width, self._target.width, h.compared, hidden, heads) for h in self._histories
        )
        self._softmax = softmax
        self.reads = tuple(name for h in self._histories for name in h.features)
        searched = [(h.attribute, h.candidate) for h in self._histories if h.attribute and h.candidate]
        self.compares = tuple(dict.fromkeys(name for pair in searched for name in pair))
        self.width = heads * sum(h.width for h in self._histories)

    def forward(self, inputs: ModelInput) -> Tensor:
        return self._attend(self.encode(inputs), None, inputs)

    def encode(self, inputs: ModelInput) -> tuple[Tensor, ...]:
        """Of each history the steps [U, L, D] and which are there [U, L]; of one to be searched the steps of each feature and the
        IDs [U, L]. Nothing is copied where a history is a single feature or searched."""
        encoded: list[Tensor] = []
        for history in self._histories:
            if history.attribute is None:
                encoded += side_by_side(inputs, history.features)
            else:
                encoded += [inputs.sequences[name][0] for name in history.features]
                encoded.append(inputs.ids_of(history.attribute))
        return tuple(encoded)

    def attend(self, encoded: tuple[Tensor, ...], user: Tensor, inputs: ModelInput) -> Tensor:
        return self._attend(encoded, user, inputs)

    def _attend(self, encoded: tuple[Tensor, ...], user: Tensor | None, inputs: ModelInput) -> Tensor:
        """`user` [B] as in `attend`; None: each row has its own history."""
        target, parts = self._target(inputs), iter(encoded)
        pooled = []
        for unit, history in zip(self.units, self._histories, strict=True):
            if history.attribute is None:
                chunks = _whole(next(parts), next(parts), user, target, unit.elements)
            else:
                assert history.candidate is not None
                steps = [next(parts) for _ in history.features]
                wanted = inputs.ids_of(history.candidate)
                owner = torch.arange(wanted.shape[0], device=wanted.device) if user is None else user
                chunks = _found(steps, next(parts), wanted, owner, target, self._search_steps, unit.elements)
            pooled.append(torch.cat([unit.pool(*chunk, self._softmax) for chunk in chunks]))
        return torch.cat(pooled, 1)


class _History:
    """The features of a behaviour, those that are compared with the target's first."""

    def __init__(
        self, name: str, features: Sequence[str], spec: InputSpec, target: Sequence[str], candidate: str | None
    ):
        ends, end = {}, 0
        for feature in target:
            ends[spec.tables.get(feature)] = end, feature
            end += spec.pooled[feature]
        own = {f: spec.tables[f] for f in features if f in spec.tables}  # numbers of the steps have no table
        partners = {f: ends[table] for f, table in own.items() if table in ends}
        if not partners:
            raise ConfigError(
                f"model.sequence is `din`, but no feature of the behaviour `{name}` reads the table of a feature in "
                "model.sequence.target; name the candidate's feature there, or set `table` of the history to its table"
            )
        self.features = [*partners, *(f for f in features if f not in partners)]
        self.width = sum(spec.sequences[f] for f in features)
        self.compared = [first + n for first, of in partners.values() for n in range(spec.pooled[of])]
        """Columns of the target that belong to the first columns of a step."""
        self.candidate = candidate
        """The candidate's feature whose ID the steps must have; None: all steps are attended to."""
        shared = [f for f, table in own.items() if candidate is not None and table == spec.tables[candidate]]
        self.attribute = shared[0] if shared else None
        """The feature of the steps with that ID."""


class ActivationUnit(nn.Module):
    """The weights of steps for a target, from a small MLP with ReLU: step e [d], target v [k] -> a(e, v) [heads].

    The MLP reads e, v and their elementwise product in the columns that they share. The difference e − v, which the authors'
    code adds, is linear in e and v, so the first layer has it already:

        W_1 [e ‖ v ‖ e ⊙ v] = (W_e + W_p diag(v)) e + W_v v

    Written as on the right, the first layer is one matrix per row and a product with its steps, and no tensor of the width of
    [e ‖ v ‖ e ⊙ v] exists for each step.
    """

    def __init__(self, width: int, target: int, compared: Sequence[int], hidden: Sequence[int], heads: int):
        super().__init__()
        first = hidden[0]
        joint = glorot_(torch.empty(first, width + target + len(compared)))
        of_step, of_target, of_product = joint.split([width, target, len(compared)], 1)
        self.step, self.target = nn.Parameter(of_step.clone()), nn.Parameter(of_target.clone())
        self.product = nn.Parameter(PRODUCT_SCALE * of_product)
        self.bias = nn.Parameter(torch.zeros(first))
        self.deeper = MLP(first, hidden[1:])
        self.out = nn.Linear(self.deeper.width, heads)
        glorot_(self.out.weight.data)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("_compared", torch.tensor(compared), persistent=False)
        self.elements = max(first, width)
        """Elements of the widest tensor for each step."""

    def forward(self, steps: Tensor, target: Tensor) -> Tensor:
        """Steps [B, L, d] and targets [B, k] -> [B, heads, L] in fp32."""
        factor = target.index_select(1, self._compared).unsqueeze(1)
        beyond = steps.shape[2] - factor.shape[2]
        matrix = self.step + nn.functional.pad(self.product * factor, (0, beyond))  # [B, first, d]
        constant = nn.functional.linear(target, self.target, self.bias).unsqueeze(1)
        hidden = (torch.bmm(steps, matrix.transpose(1, 2)) + constant).relu_()
        deep = self.deeper(hidden.flatten(0, 1))
        with full_precision(deep):
            return self.out(_wide(deep)).unflatten(0, hidden.shape[:2]).transpose(1, 2)

    def pool(self, steps: Tensor, there: Tensor, target: Tensor, softmax: bool) -> Tensor:
        """Steps [B, L, d], which of them are there [B, L] and targets [B, k] -> [B, heads · d] in fp32."""
        score, there = self(steps, target), there.unsqueeze(1)
        if softmax:
            score = score.masked_fill(~there, torch.finfo(score.dtype).min).softmax(2)
        with full_precision(steps):
            return torch.bmm(score * there, _wide(steps)).flatten(1)


def _wide(x: Tensor) -> Tensor:
    """x in fp32, or in fp64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _whole(
    steps: Tensor, there: Tensor, user: Tensor | None, target: Tensor, elements: int
) -> Iterable[tuple[Tensor, ...]]:
    """Steps, which are there and targets, for some rows at a time. The steps of a user are repeated for those rows alone."""
    rows = rows_per_chunk(target, steps.shape[1] * elements)
    if user is None:
        return in_chunks(rows, steps, there, target)
    return (
        (steps.index_select(0, own), there.index_select(0, own), some) for own, some in in_chunks(rows, user, target)
    )


def _found(
    steps: Sequence[Tensor], ids: Tensor, wanted: Tensor, user: Tensor, target: Tensor, most: int, elements: int
) -> Iterator[tuple[Tensor, ...]]:
    """The same for the last `most` steps with the wanted ID, of steps [U, L, d] of each feature."""
    flat = [part.flatten(0, 1) for part in steps]
    length = ids.shape[1]
    rows = rows_per_chunk(target, max(length, most * elements))
    for own, one, some in in_chunks(rows, user, wanted, target):
        place, there = last_matches(ids.index_select(0, own), one, most)
        places = (own.unsqueeze(1) * length + place).flatten()
        found = [part.index_select(0, places) for part in flat]
        yield torch.cat(found, 1).unflatten(0, place.shape), there, some


def last_matches(ids: Tensor, wanted: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where the last `most` of ids [B, L] are that equal wanted [B], newest first: places [B, K] with K = min(most, L), and which
    exist. A negative ID equals nothing."""
    step = torch.arange(ids.shape[1], device=ids.device)
    matches = (ids == wanted.unsqueeze(1)) & (ids >= 0)
    place = torch.where(matches, step, -1).topk(min(most, ids.shape[1]), 1).values
    return place.clamp(min=0), place >= 0
