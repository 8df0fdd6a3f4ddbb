"""Behaviours: sequences of several features that describe the same steps."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from raymtl.models.inputs import InputSpec, ModelInput

CHUNK_ELEMENTS = 2**20
"""Elements of the widest tensor that one chunk of the rows makes on a CPU: 4 MiB."""


class Behaviours:
    """Puts the features of each behaviour side by side: inputs -> by name, steps [B, L, width] and mask [B, L], true on a step.

    Without `groups` every sequence feature is a behaviour of its own name. The features of one behaviour are of the same
    steps, with the same `max_length`: the mask is that of the first. Numbers that `groups` leaves out stand behind the feature
    whose steps they belong to.
    """

    def __init__(self, spec: InputSpec, groups: Mapping[str, Sequence[str]] | None):
        groups = groups or {name: [name] for name in spec.sequences if name not in spec.numbers}
        listed = [name for features in groups.values() for name in features]
        self.groups = {name: with_numbers(spec, features, listed) for name, features in groups.items()}
        self.widths = {name: sum(spec.sequences[f] for f in features) for name, features in self.groups.items()}

    def __call__(self, inputs: ModelInput) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: side_by_side(inputs, features) for name, features in self.groups.items()}


def with_numbers(spec: InputSpec, features: Sequence[str], listed: Collection[str]) -> list[str]:
    """Features of the same steps, each followed by its numbers that are not `listed` anywhere."""
    found = []
    for name in features:
        found += [name, *(number for number, of in spec.numbers.items() if of == name and number not in listed)]
    return found


def side_by_side(inputs: ModelInput, features: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Steps [B, L, ΣD] and mask [B, L] of features of the same steps, embeddings and numbers."""
    parts = [inputs.sequences[name] for name in features]
    lengths = parts[0][1]
    steps = torch.cat([steps for steps, _ in parts], -1) if len(parts) > 1 else parts[0][0]
    mask = torch.arange(steps.shape[1], device=steps.device) < lengths.unsqueeze(1)
    return steps, mask


def rows_per_chunk(x: Tensor, elements: int) -> int | None:
    """How many rows of x [B, ...] to run at a time, where a row makes so many elements of the widest tensor; None: all.

    For 32 MiB and more, glibc's allocator requests memory from the system every time, and the system fills each page with zeros
    first: for a whole batch of histories that takes longer than the products. A GPU's allocator keeps its memory, and an exported
    graph has no loop over an unknown number of rows.
    """
    if torch.compiler.is_exporting() or x.device.type != "cpu":
        return None
    return max(1, CHUNK_ELEMENTS // max(1, elements))


def in_chunks(rows: int | None, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The tensors, for so many of their rows at a time; None: for all at once."""
    return [tensors] if rows is None else zip(*(tensor.split(rows) for tensor in tensors), strict=True)
