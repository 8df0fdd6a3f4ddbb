"""What the tables hand to the model, and the static widths that the slots are built from.

Shapes throughout `models/`: B rows, T tasks, F dense features, D embedding width, L sequence length, E experts, d and k widths.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from raymtl.config.numbers import Embed


@dataclass(frozen=True)
class InputSpec:
    """Static description of `ModelInput`, in the order of the concatenated widths."""

    pooled: dict[str, int]
    """Width D of every pooled ID feature, in the order of `ModelInput.pooled`."""
    sequences: dict[str, int] = field(default_factory=dict)
    """Width D of every sequence feature; 1 of `numbers`."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """The sequence features that are numbers, each with the one whose steps they belong to."""
    dense: tuple[str, ...] = ()
    """Names of the dense features."""
    dense_fill: tuple[float, ...] = ()
    """What a null of each dense feature becomes, in the units of `ModelInput.dense`; the start of a learned value. None
    given: 0."""
    bias: dict[str, int] = field(default_factory=dict)
    """Width D of every bias feature."""
    scenarios: int = 0
    """Number of scenarios including `other`; 0 without a scenario column."""
    embed: Mapping[str, Embed] = field(default_factory=dict)
    """How some dense features become vectors, with edges in the units of `ModelInput.dense`."""
    project: Mapping[str, int] = field(default_factory=dict)
    """Width to which some pooled features are projected."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """The table of every feature that is looked up."""

    def encoded(self) -> "InputSpec":
        """What the slots read: after `embed` and `project` (`models/encoding.py`)."""
        pooled = {name: self.project.get(name, width) for name, width in self.pooled.items()}
        plain = [(n, fill) for n, fill in zip(self.dense, self.dense_fill, strict=True) if n not in self.embed]
        return replace(
            self,
            pooled=pooled | {n: self.embed[n].width for n in self.dense if n in self.embed},
            dense=tuple(n for n, _ in plain),
            dense_fill=tuple(fill for _, fill in plain),
            embed={},
            project={},
        )

    def __post_init__(self) -> None:
        if not self.dense_fill:
            object.__setattr__(self, "dense_fill", (0.0,) * len(self.dense))


@dataclass
class ModelInput:
    """One batch after the table lookup."""

    pooled: Tensor
    """[B, ΣD] pooled embeddings side by side."""
    dense: Tensor
    """[B, F] dense features; with `missing: learned` a null is NaN, for which the input slot has a learned value and `Pick`
    the feature's fill."""
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """For every sequence feature its embeddings [B, L, D], or numbers [B, L, 1], zero beyond the end, and the lengths [B]."""
    bias: Tensor | None = None
    """[B, ΣD] embeddings of the bias features; only the bias slot may read it."""
    bias_present: Tensor | None = None
    """[B] bool, whether the row has all its bias features; None: all rows have."""
    scenario: Tensor | None = None
    """[B] int64 index of the scenario; the last index is `other`."""
    ids: dict[str, Tensor] = field(default_factory=dict)
    """For the features that the sequence slot `compares`: int64 rows of the table, the same for the same ID, [B], or [B, L] of a
    sequence; −1 for a null and beyond the end."""

    by_name = False
    """Whether the features are held one by one; then `value` gives them."""

    def value(self, name: str) -> Tensor:
        """A pooled feature [B, D] or a dense one [B, 1]."""
        raise NotImplementedError

    def ids_of(self, name: str) -> Tensor:
        """The IDs of one feature, as in `ids`."""
        return self.ids[name]

    def looked_up(self) -> list[Tensor]:
        """All vectors from the tables, and what stands beside them, which has no gradient."""
        found = [self.pooled, *(vectors for vectors, _ in self.sequences.values())]
        return found if self.bias is None else [*found, self.bias]


class Pick:
    """Reads some pooled and dense features by name, side by side in the given order: inputs -> [B, width].

    A null of a dense feature reads as its fill, also where the input slot has a learned value for it.
    """

    def __init__(self, spec: InputSpec, names: Iterable[str]):
        self._names = list(names)
        pooled = list(spec.pooled)
        self._widths = list(spec.pooled.values())
        # The place among the pooled features and None, or the column of a dense feature and its fill.
        self._parts: list[tuple[int, float | None]] = []
        self.width = 0
        for name in self._names:
            if name in spec.pooled:
                self._parts.append((pooled.index(name), None))
                self.width += spec.pooled[name]
            else:
                column = spec.dense.index(name)
                self._parts.append((column, spec.dense_fill[column]))
                self.width += 1

    def __call__(self, inputs: ModelInput) -> Tensor:
        if inputs.by_name and self._parts:
            values = zip(map(inputs.value, self._names), self._parts, strict=True)
            return torch.cat([value if fill is None else _filled(value, fill) for value, (_, fill) in values], 1)
        # One split and not a slice per feature: the gradient of each slice would be a tensor as large as all features.
        pooled = inputs.pooled.split(self._widths, 1)
        parts = [
            pooled[place] if fill is None else _filled(inputs.dense[:, place : place + 1], fill)
            for place, fill in self._parts
        ]
        return torch.cat(parts, 1) if parts else inputs.pooled[:, :0]


def _filled(dense: Tensor, fill: float) -> Tensor:
    return torch.where(dense.isnan(), fill, dense)
