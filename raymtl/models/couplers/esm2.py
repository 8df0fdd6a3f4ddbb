"""ESM²: a purchase with or without a decisive action after the click (Wen et al., SIGIR 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raymtl.config.tasks import Task
from raymtl.config.wiring import esm2_outputs, trio
from raymtl.models.couplers.product import start_conditional
from raymtl.models.layers import Heads
from raymtl.models.registry import register
from raymtl.models.slots import Context, CouplerSlot, Derived
from raymtl.objectives.algebra import logit_mix, logit_prod


@register("coupler", "esm2")
class ESM2(CouplerSlot):
    """Towers h [B, T + 1, k] -> logits [B, T + 2]: each task's own, then P(buy | click) and P(action | click).

    Four heads for three tasks (section 3.2 of the paper): y1 = P(click), y2 = P(action | click),
    y3 = P(buy | click, action) and y4 = P(buy | click, no action), the last head. Then

        P(click) = y1      P(click, action) = y1·y2      P(buy | click) = y2·y3 + (1 − y2)·y4
        P(click, buy) = y1·P(buy | click)

    All are trained on all impressions; only the click has a label of its own. Tasks outside the three have plain heads.
    """

    def __init__(
        self, context: Context, *, click: str | None = None, action: str | None = None, buy: str | None = None
    ):
        super().__init__()
        names = list(context.tasks)
        self._click, self._action, self._buy = (names.index(n) for n in trio(context.tasks, click, action, buy))
        self._tasks = len(names)
        self.head = Heads(len(names) + 1, context.width)

    @classmethod
    def heads(cls, tasks: Mapping[str, Task]) -> int:
        return len(tasks) + 1

    @classmethod
    def derived(cls, tasks: Mapping[str, Task], options: Mapping[str, Any]) -> dict[str, Derived]:
        roles = (options.get(role) for role in ("click", "action", "buy"))
        return {name: Derived(*pair) for name, pair in esm2_outputs(tasks, *roles).items()}

    def start_at(self, logits: Sequence[float]) -> None:
        parent = {self._action: self._click, self._buy: self._click}
        own = start_conditional(logits, parent, [list(parent)])
        self.head.start_at([*own, own[self._buy]])  # a purchase is as likely with the action as without

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        own = self.head(h)
        columns = list(own.unbind(1))
        without = columns.pop()
        if bias is not None:
            columns = list((own[:, : self._tasks] + bias).unbind(1))
            without = without + bias[:, self._buy]
        given_click = columns[self._action]
        cvr = logit_mix(given_click, columns[self._buy], without)
        both = logit_prod(columns[self._click], torch.stack((given_click, cvr)))
        columns[self._action], columns[self._buy] = both.unbind(0)
        return torch.stack([*columns, cvr, given_click], 1)
