"""What the tables hand to the model, and the static widths that the slots are built from.

Shapes throughout `models/`: B rows, T tasks, F dense features, D embedding width, L sequence length, E experts, d and k widths.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputSpec:
    """Static description of `ModelInput`, in the order of the concatenated widths."""

    pooled: dict[str, int]
    """Width D of every pooled ID feature, in the order of `ModelInput.pooled`."""
    sequences: dict[str, int] = field(default_factory=dict)
    """Width D of every sequence feature."""
    dense: tuple[str, ...] = ()
    """Names of the dense features."""
    dense_fill: tuple[float, ...] = ()
    """What a null of each dense feature becomes, in the units of `ModelInput.dense`; the start of a learned value."""
    bias: dict[str, int] = field(default_factory=dict)
    """Width D of every bias feature."""
    scenarios: int = 0
    """Number of scenarios including `other`; 0 without a scenario column."""


@dataclass
class ModelInput:
    """One batch after the table lookup."""

    pooled: Tensor
    """[B, ΣD] pooled embeddings side by side."""
    dense: Tensor
    """[B, F] dense features; with `missing: learned` a null is NaN until the input slot has replaced it."""
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """For every sequence feature its embeddings [B, L, D], zero beyond the end, and the lengths [B]."""
    bias: Tensor | None = None
    """[B, ΣD] embeddings of the bias features; only the bias slot may read it."""
    bias_present: Tensor | None = None
    """[B] bool, whether the row has all its bias features; None: all rows have."""
    scenario: Tensor | None = None
    """[B] int64 index of the scenario; the last index is `other`."""


class Pick:
    """Reads some pooled and dense features by name, side by side in the given order: inputs -> [B, width]."""

    def __init__(self, spec: InputSpec, names: Iterable[str]):
        starts, at = {}, 0
        for name, width in spec.pooled.items():
            starts[name] = (at, at + width)
            at += width
        self._parts: list[tuple[bool, int, int]] = []
        for name in names:
            if name in starts:
                self._parts.append((True, *starts[name]))
            else:
                column = spec.dense.index(name)
                self._parts.append((False, column, column + 1))
        self.width = sum(end - start for _, start, end in self._parts)

    def __call__(self, inputs: ModelInput) -> Tensor:
        parts = [(inputs.pooled if pooled else inputs.dense)[:, a:b] for pooled, a, b in self._parts]
        return torch.cat(parts, 1) if parts else inputs.pooled[:, :0]
