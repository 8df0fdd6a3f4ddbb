"""What a balancing method reads and answers, and the place where it is found by the `type` of `train.balance`.

Shapes: T tasks. Everything that a method reads is the same on all workers, hence so is what it decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from raymtl.config.base import Section
from raymtl.config.tasks import Task


@dataclass(frozen=True)
class BalanceContext:
    """What a method knows when it is built."""

    tasks: Mapping[str, Task]
    """The tasks in the order of all tensors [T]."""
    base_rates: Mapping[str, float]
    """Mean label of each task; a task left out falls back on its own `base_rate`."""
    seed: int = 0


@dataclass(frozen=True)
class StepStats:
    """One step as all workers see it."""

    active: Tensor
    """[T] bool: some worker has a label. The others have an exact zero for a loss and for a gradient."""
    losses: Tensor | None = None
    """[T] loss over the global batch before the task's weight, never negative; where `needs_losses`."""
    gram: Tensor | None = None
    """[T, T] inner products of the losses' gradients at the cut over the global batch; where `at_embeddings`."""


class Weights(NamedTuple):
    """What a method decides for the step."""

    weights: Tensor
    """[T] factor of each task's loss, its own weight included."""
    at_embeddings: Tensor | None = None
    """[T] other factors for the gradient that is passed below the cut, to the tables."""
    extra: Tensor | None = None
    """[] a term of the method's own."""


class Balance(nn.Module):
    """A method; called once in each training step. State that it keeps is in buffers, so that checkpoints have it.

    The tasks' weights are preferences on top of the method: they multiply what it finds, or the gradients that it combines.
    """

    needs_losses = False
    """Whether it reads `StepStats.losses`, which costs one all-reduce of T numbers."""
    at_embeddings = False
    """Whether it reads `StepStats.gram`, which costs T partial backward passes and one all-reduce of T² numbers."""

    def __init__(self, context: BalanceContext):
        super().__init__()
        weights = torch.tensor([task.weight for task in context.tasks.values()])
        self.register_buffer("task_weights", weights, persistent=False)

    def forward(self, step: StepStats) -> Weights:
        raise NotImplementedError


_METHODS: dict[str, type[Balance]] = {}

C = TypeVar("C", bound=type[Balance])


def register(type_: str) -> Callable[[C], C]:
    """Class decorator: `type: <type_>` in `train.balance` now means this class."""

    def keep(cls: C) -> C:
        if type_ in _METHODS:
            raise ValueError(f"train.balance already has the type {type_}: {_METHODS[type_].__name__}")
        _METHODS[type_] = cls
        return cls

    return keep


def build(section: Section, context: BalanceContext) -> Balance:
    """The method of a section: its class called with the context and the section's other keys."""
    options = section.model_dump(exclude={"type", "cosine_every_steps"})
    return _METHODS[section.type](context, **options)  # type: ignore[attr-defined]
