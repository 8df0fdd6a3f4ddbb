"""What the tables hand to the model, and the static widths that the slots are built from.

Shapes throughout `models/`: B rows, T tasks, F dense features, D embedding width, L sequence length, E experts, d and k widths.
"""

from dataclasses import dataclass, field

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
    """[B, F] dense features."""
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """For every sequence feature its embeddings [B, L, D], zero beyond the end, and the lengths [B]."""
    bias: Tensor | None = None
    """[B, ΣD] embeddings of the bias features; only the bias slot may read it."""
    scenario: Tensor | None = None
    """[B] int64 index of the scenario; the last index is `other`."""
