"""ESMM: probabilities multiply along the funnel (Ma et al., SIGIR 2018)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raymtl.config.tasks import Task
from raymtl.config.wiring import levels, parents, product_outputs
from raymtl.errors import ConfigError
from raymtl.models.layers import Heads
from raymtl.models.registry import register
from raymtl.models.slots import Context, CouplerSlot, Derived
from raymtl.objectives.algebra import logit_prod

MAX_SHARE = 0.95
"""Largest share of the parent's events at which a child starts: a head that starts at σ(a) = 1 could not learn."""


@register("coupler", "product")
class Product(CouplerSlot):
    """Towers h [B, T, k] -> logits [B, T + edges]: each task's own, then P(child | parent) of every edge of the funnel.

    Head t gives a_t, the logit of t given its parent s, or of t itself at the top of the funnel (eq. 1 and 2 of the paper,
    where click -> conversion is the whole funnel):

        p_t = σ(a_t) · p_s        as a logit: −log(e^−a_t + e^−l_s + e^−(a_t + l_s)), with l_s that of p_s

    Every task is trained on all impressions, with the label of its event *and* its parent's. The conditional heads see no
    label of their own: P(child | parent) is learned from all rows, where a model of the clicked rows alone would be
    judged on rows it was never trained on.
    """

    def __init__(self, context: Context):
        super().__init__()
        numbers = {name: i for i, name in enumerate(context.tasks)}
        above = parents(context.tasks)
        self._parent = {numbers[name]: numbers[up[0]] for name, up in above.items() if up}
        if not self._parent:
            raise ConfigError("model.coupler `product` multiplies along the funnel but no task has a `parent`; set one")
        self._levels = [[numbers[name] for name in level] for level in levels(above)]
        self.head = Heads(len(context.tasks), context.width)

    @classmethod
    def derived(cls, tasks: Mapping[str, Task], options: Mapping[str, Any]) -> dict[str, Derived]:
        return {name: Derived(*pair) for name, pair in product_outputs(tasks).items()}

    def start_at(self, logits: Sequence[float]) -> None:
        self.head.start_at(start_conditional(logits, self._parent, self._levels))

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        own = self.head(h)
        own = own if bias is None else own + bias
        columns = own.unbind(1)
        logits = dict(enumerate(columns))
        for level in self._levels[1:]:
            below = torch.stack([columns[t] for t in level])
            product = logit_prod(torch.stack([logits[self._parent[t]] for t in level]), below)
            logits.update(zip(level, product.unbind(0), strict=True))
        return torch.stack([*(logits[t] for t in range(len(columns))), *(columns[t] for t in self._parent)], 1)


def start_conditional(
    logits: Sequence[float], parent: Mapping[int, int], order: Sequence[Sequence[int]]
) -> list[float]:
    """Logits of each task given its parent, so that the products along the funnel are those of `logits`.

    A child as frequent as its parent, or more (rates measured on different rows), starts at MAX_SHARE of it.
    """
    rates = [1 / (1 + math.exp(-a)) for a in logits]
    own = list(logits)
    for t in (t for level in order for t in level if t in parent):
        share = min(rates[t] / rates[parent[t]], MAX_SHARE)
        rates[t] = share * rates[parent[t]]
        own[t] = math.log(share) - math.log1p(-share)
    return own
