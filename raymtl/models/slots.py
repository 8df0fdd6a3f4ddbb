"""The contracts of the slots: what each one reads, what it returns, and what it must declare.

A slot class is built as `Class(context, **options)`, where the options are the keys of its section in the
configuration, and is then called once per step by `Ranker.forward`. `docs/extending.md` shows one from outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raymtl.config.tasks import Task
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.precomputed import X


class Derived(NamedTuple):
    """An output beside the tasks' own: P(child | given), which a coupler computes for all rows, and only some have a label."""

    child: str
    """Task of the event."""
    given: str
    """Task of the condition; labels of the output count only where this one is observed and 1."""


@dataclass(frozen=True)
class Context:
    """What a slot knows when it is built; none of it changes afterwards."""

    tasks: Mapping[str, Task]
    """The tasks, in the order of the logits' columns."""
    spec: InputSpec
    """Names and widths of what the tables and the dense columns deliver."""
    heads: int
    """Number of representations that the coupler reads: one per task, unless the coupler has inner heads.
    Wherever a contract below says T for anything but logits, it means this number."""
    width: int = 0
    """Last dimension d of what this slot reads."""
    fields: Sequence[int] = ()
    """For the refine slot: the widths of x's parts, one per feature and one for the histories; their sum is d."""
    sources: Sequence[Sequence[str] | None] = ()
    """For the refine slot: the features on which each column of x depends; None: unknown."""


class InputSlot(nn.Module):
    """Features -> x [B, width]."""

    width: int
    columns: Sequence[str | None] | None = None
    """For each column of x the only feature that it depends on, or None if it depends on several; None for all: unknown. Serving
    uses it to split the model into a user and an item part (`docs/serving.md`)."""

    def forward(self, inputs: ModelInput) -> Tensor:
        raise NotImplementedError

    def part(self, inputs: ModelInput, side: bool, sides: Sequence[bool]) -> Tensor:
        """The columns of x whose entry in `sides` is `side`, [N, …], from inputs that lack the features of the others (zeros)."""
        chosen = torch.tensor([place for place, own in enumerate(sides) if own == side], dtype=torch.int64)
        x = self.forward(inputs)
        return x.index_select(1, chosen.to(x.device))


class SequenceSlot(nn.Module):
    """Behaviour sequences -> [B, width], or per task [B, T, width]; None, with width 0, if the model has no sequences."""

    width: int
    reads: Sequence[str] | None = None
    """All features that the output (for a `TargetAwareSequenceSlot`: that of `encode`) depends on; None: unknown. Serving uses it
    to split the model, like `InputSlot.columns`."""
    compares: Sequence[str] = ()
    """Features of one ID, or sequences, whose IDs the slot reads: `ModelInput.ids` has these and no others."""

    def forward(self, inputs: ModelInput) -> Tensor | None:
        raise NotImplementedError


class TargetAwareSequenceSlot(SequenceSlot):
    """A sequence slot whose output depends on the candidate too: `forward` is `attend` to what `encode` made of the histories."""

    def encode(self, inputs: ModelInput) -> tuple[Tensor, ...]:
        """Encode the histories of U users, independently of the candidates: tensors [U, ...]."""
        raise NotImplementedError

    def attend(self, encoded: tuple[Tensor, ...], user: Tensor, inputs: ModelInput) -> Tensor:
        """Attend from B candidates to the encoded histories; `user` [B] is the index of each row's user in `encoded`. Returns
        what `forward` returns."""
        raise NotImplementedError


class RefineSlot(nn.Module):
    """x [B, d] or [B, T, d] -> x [B, width] or [B, T, width]."""

    width: int
    supports_precomputed = False
    """Whether x may also be `PrecomputedInput` (`models/precomputed.py`), as it is in the item part of a served model."""

    def forward(self, x: X, inputs: ModelInput) -> X:
        raise NotImplementedError


class TrunkSlot(nn.Module):
    """x [B, d], or each task its own input [B, T, d] -> one representation for all tasks [B, width], or [B, T, width].

    `inputs` is there for trunks that read the scenario; the features themselves are already in x.
    """

    width: int
    mixtures: Sequence[Tensor] = ()
    """In training, the weights of the experts in the last batch, [B, streams, E] without gradient for each level of experts: a
    stream for each task, or one for all, and after them the shared one. `training/expert_use.py` reads them at log lines."""
    supports_precomputed = False
    """Whether x may also be `PrecomputedInput`, as for a refine slot."""

    def forward(self, x: X, inputs: ModelInput) -> X:
        raise NotImplementedError


class TowersSlot(nn.Module):
    """What the trunk made, [B, d] for all tasks or [B, T, d] -> one representation per task for the coupler, [B, T, width]."""

    width: int
    supports_precomputed = False
    """Whether h may also be `PrecomputedInput`, which it is behind a trunk that hands x on."""

    def forward(self, h: X, inputs: ModelInput) -> Tensor:
        raise NotImplementedError


class CouplerSlot(nn.Module):
    """h [B, T, d] -> logits in fp32, whatever the precision of h: [B, number of tasks], then one column per derived output.

    `bias` [B, number of tasks] comes from the bias slot, in training only. It belongs to each task's own logit, before
    any product of probabilities, so the coupler adds it.
    """

    @classmethod
    def heads(cls, tasks: Mapping[str, Task]) -> int:
        """Number of representations that this coupler wants from trunk and towers."""
        return len(tasks)

    @classmethod
    def derived(cls, tasks: Mapping[str, Task], options: Mapping[str, Any]) -> dict[str, Derived]:
        """Outputs beside the tasks' own, by name, in the order of their columns; `options` are the section's keys."""
        return {}

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the output biases so that the untrained model predicts about `logits`, one number per task."""
        raise NotImplementedError

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class BiasSlot(nn.Module):
    """Position-like features -> [B, number of tasks], added to the logits; None if the model has none.

    Called in training mode only. It alone may read `ModelInput.bias`.
    """

    def forward(self, inputs: ModelInput) -> Tensor | None:
        raise NotImplementedError
