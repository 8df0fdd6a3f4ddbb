"""What a loss reads and answers, and the place where it is found by its key in `tasks.<name>.losses`.

Shapes: B rows of this worker; lists are numbered, and have B places, of which those without rows hold anything.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

import raymtl.objectives.terms
from raymtl.config.base import Section


class RowLoss:
    """A loss of single rows; it keeps no state. Its sum is divided like that of the kind's own loss."""

    def loss(self, logit: Tensor, label: Tensor) -> Tensor:
        """Loss of every row [B], in fp32."""
        raise NotImplementedError

    def lower_bound(self, label: Tensor) -> Tensor:
        """What the loss of every row cannot fall below."""
        return torch.zeros_like(label)

    def start_loss(self, base_rate: float) -> float | None:
        """What the constant prediction of the base rate costs, where the rate alone tells it."""
        return None


class ListLoss:
    """A loss that compares the rows of a list; it keeps no state.

    It gets rows [B] sorted by their lists, `index` [B] ascending from 0 on, and the weight of each row: 0 where it does not
    count; a row of weight w acts as w equal rows. Its answers are read only for lists with two different labels that count.
    """

    def loss(self, logit: Tensor, label: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """Loss of every list [B], in fp32, of the order of 1 whatever the number of its rows."""
        raise NotImplementedError

    def lower_bound(self, label: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """What the loss of every list [B] cannot fall below."""
        return torch.zeros_like(weight)

    def start_loss(self) -> float | None:
        """What equal logits cost, where that does not depend on the lists."""
        return None


_LOSSES: dict[str, type[RowLoss] | type[ListLoss]] = {}

C = TypeVar("C", bound=type[RowLoss] | type[ListLoss])


def register(key: str) -> Callable[[C], C]:
    """Class decorator: `<key>` in `tasks.<name>.losses` now means this class."""

    def keep(cls: C) -> C:
        if key in _LOSSES:
            raise ValueError(f"tasks.<name>.losses already has {key}: {_LOSSES[key].__name__}")
        _LOSSES[key] = cls
        return cls

    return keep


def build(key: str, section: Section) -> RowLoss | ListLoss:
    """The loss of a section: its class called with the section's keys, except for those that `TaskLosses` reads."""
    for module in pkgutil.iter_modules(raymtl.objectives.terms.__path__, "raymtl.objectives.terms."):
        importlib.import_module(module.name)  # importing a loss's module is what registers its class
    return _LOSSES[key](**section.model_dump(exclude={"weight", "within"}))


def sum_by_list(values: Tensor, index: Tensor) -> Tensor:
    """The sum of values [B] of each list, [B]."""
    return torch.zeros_like(values).index_add(0, index, values)
