"""What happens to features before the slots: numbers become vectors, and vectors are projected.

Shapes: F numbers of one kind of embedding, H vectors of each, D elements of a number's vector.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.numbers import AutoDis, Piecewise
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.layers import glorot_
from raymtl.models.requests import RequestInput

_SKIP = 0.1


class PiecewiseLinear(nn.Module):
    """Numbers [B, F] -> [B, ΣT], T elements of each with the edges b_0 < … < b_T (Gorishniy et al. 2022, equation 1):

    e_t = (x - b_{t-1}) / (b_t - b_{t-1}),  at least 0 unless t = 1,  at most 1 unless t = T
    """

    def __init__(self, edges: Iterable[Sequence[float]]):
        super().__init__()
        ranges = [(place, [*pairwise(own)]) for place, own in enumerate(edges)]
        flat = [(place, low, 1 / (high - low)) for place, own in ranges for low, high in own]
        ends = [(t > 0, t < len(own) - 1) for _, own in ranges for t in range(len(own))]
        owner, low, scale = zip(*flat, strict=True)
        self.register_buffer("_owner", torch.tensor(owner), persistent=False)
        self.register_buffer("_low", torch.tensor(low), persistent=False)
        self.register_buffer("_scale", torch.tensor(scale), persistent=False)
        self.register_buffer("_least", torch.tensor([0.0 if low else -torch.inf for low, _ in ends]), persistent=False)
        self.register_buffer("_most", torch.tensor([1.0 if high else torch.inf for _, high in ends]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.index_select(1, self._owner) - self._low) * self._scale).clamp(self._least, self._most)


class AutoDiscretisation(nn.Module):
    """Numbers [B, F] -> [B, F·D], each a mixture of H vectors of its own (AutoDis; Guo et al., KDD 2021, section 3.2):

        h = LeakyReLU(w x + c)      z = W h + α h      e = Σ_k softmax(z / τ)_k M_k          w, c [H], W [H, H], M [H, D]

    The bias c is not in the paper: without it z is proportional to x on either side of 0, and with a small τ the sign of x alone
    would choose the vector. α, the weight of the skip connection, is 0.1; W can learn any other.
    """

    def __init__(self, numbers: int, section: AutoDis):
        super().__init__()
        vectors = section.buckets
        self.weight = nn.Parameter(torch.empty(numbers, 1, vectors).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(numbers, 1, vectors).uniform_(-1, 1))
        self.mix = nn.Parameter(glorot_(torch.empty(numbers, vectors, vectors)))
        self.vectors = nn.Parameter(glorot_(torch.empty(numbers, vectors, section.width)))
        self._temperature = section.temperature

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(x.t().unsqueeze(2) * self.weight + self.bias)
        z = torch.bmm(h, self.mix.transpose(1, 2)) + _SKIP * h
        mixture = (z.float() / self._temperature).softmax(2)
        return torch.bmm(mixture, self.vectors).transpose(0, 1).flatten(1)


class Encoding(nn.Module):
    """Applies `InputSpec.embed` and `InputSpec.project`.

    A null of an embedded number (NaN) has a learned vector with `learns_nulls`, else that of its fill."""

    def __init__(self, spec: InputSpec, learns_nulls: bool):
        super().__init__()
        self.given, self.spec = spec, spec.encoded()
        kinds: dict[tuple[float, ...], list[str]] = {}
        for name in spec.dense:
            if (embed := spec.embed.get(name)) is not None:
                own = (embed.width, embed.buckets, embed.temperature) if isinstance(embed, AutoDis) else ()
                kinds.setdefault(own, []).append(name)
        self._groups = [*kinds.values()]
        self._names = [name for names in self._groups for name in names]
        self._widths = [spec.embed[name].width for name in self._names]
        self.numbers = nn.ModuleList(_numbers(spec, names) for names in self._groups)
        self.projections = nn.ModuleList(nn.Linear(spec.pooled[n], w, bias=False) for n, w in spec.project.items())
        for projection in self.projections:
            glorot_(projection.weight.data)
        self.null: nn.Parameter | None = None
        if self._names:
            fills = dict(zip(spec.dense, spec.dense_fill, strict=True))
            self.register_buffer("_fill", torch.tensor([fills[n] for n in self._names]), persistent=False)
            self.null = nn.Parameter(torch.zeros(sum(self._widths))) if learns_nulls else None

    def forward(self, inputs: ModelInput) -> ModelInput:
        if not (self.given.embed or self.given.project):
            return inputs
        if isinstance(inputs, RequestInput):
            return inputs.encoded(self.spec, self.by_name)
        pooled = dict(zip(self.given.pooled, inputs.pooled.split([*self.given.pooled.values()], 1), strict=True))
        dense = dict(zip(self.given.dense, inputs.dense.unbind(1), strict=True))
        pooled, dense = self.by_name(pooled, dense)
        return replace(
            inputs,
            pooled=torch.cat([pooled[name] for name in self.spec.pooled], 1),
            dense=torch.stack([dense[n] for n in self.spec.dense], 1) if dense else inputs.dense[:, :0],
        )

    def by_name(
        self, pooled: Mapping[str, Tensor], dense: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The same for the features of one side: embeddings [N, D] and numbers [N] by name."""
        made = dict(pooled)
        for name, projection in zip(self.given.project, self.projections, strict=True):
            if name in pooled:
                made[name] = projection(pooled[name])
        if there := [name for name in self._names if name in dense]:
            # The numbers of the other side cost less as zeros than a module of their own
            x = torch.stack([dense.get(name, torch.zeros_like(dense[there[0]])) for name in self._names], 1)
            vectors = self._embedded(x)
            made |= {name: vectors[name] for name in there}
        return made, {name: value for name, value in dense.items() if name not in self.given.embed}

    def _embedded(self, x: Tensor) -> dict[str, Tensor]:
        """The vectors of all numbers [B, F], by name."""
        missing = x.isnan()
        x = torch.where(missing, self._fill, x)
        columns = x.split([len(names) for names in self._groups], 1)
        made = torch.cat([module(own) for own, module in zip(columns, self.numbers, strict=True)], 1)
        vectors = made.split(self._widths, 1)
        if self.null is not None:
            nulls = zip(missing.split(1, 1), self.null.split(self._widths), vectors, strict=True)
            vectors = tuple(torch.where(there, null, vector) for there, null, vector in nulls)
        return dict(zip(self._names, vectors, strict=True))


def _numbers(spec: InputSpec, names: Sequence[str]) -> nn.Module:
    """The module of the features of one kind of embedding."""
    first = spec.embed[names[0]]
    if isinstance(first, AutoDis):
        return AutoDiscretisation(len(names), first)
    return PiecewiseLinear(e.edges for name in names if isinstance(e := spec.embed[name], Piecewise))
