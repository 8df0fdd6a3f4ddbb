"""AIT: what a task learned is passed on to the next task of the funnel (AITM, Xi et al., KDD 2021)."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.tasks import Task
from raymtl.config.wiring import listened_to
from raymtl.errors import ConfigError
from raymtl.models.couplers.ait_cross import CrossTransfer
from raymtl.models.layers import GroupedLayer, Heads, glorot_
from raymtl.models.registry import register
from raymtl.models.slots import Context, CouplerSlot

ATTENTION_STD = 0.01
"""Standard deviation of h1, h2, h3 at the start, as in the authors' code."""


@register("coupler", "ait")
class AIT(CouplerSlot):
    """Adaptive information transfer along the funnel: towers q [B, T, k] -> logits [B, T] (the paper's AIT module).

        z = transfer(q)                 z_t reads q_t and what the tasks above t passed on
        logit_t = v_t · z_t + c_t

    `mode: self` is the paper's transfer from the parent (`SelfTransfer`), `cross` EasyRec's from any number of
    `predecessors` (`CrossTransfer`). Every head predicts on all impressions; nothing here bounds a child's
    probability by its parent's; `order_loss` penalises violations.
    """

    def __init__(
        self,
        context: Context,
        *,
        width: int,
        mode: str = "self",
        predecessors: Mapping[str, Sequence[str]] | None = None,
        share_attention: bool = True,
        stop_gradient: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if context.width != width:
            raise ConfigError(f"model.coupler.width is {width} but the towers end at {context.width}; make them equal")
        above = listened_to(context.tasks, predecessors or {})
        if not any(above.values()):
            raise ConfigError(
                "model.coupler `ait` passes information along the funnel but no task has a `parent`; set one"
            )
        if predecessors and mode != "cross":
            raise ConfigError(
                "model.coupler.predecessors needs mode `cross`; in mode `self` a task listens to its parent"
            )
        self.transfer: SelfTransfer | CrossTransfer
        if mode == "cross":
            self.transfer = CrossTransfer(above, width, stop_gradient, dropout)
        else:
            self.transfer = SelfTransfer(context.tasks, width, share_attention, stop_gradient, dropout)
        self.head = Heads(len(context.tasks), width)
        if mode == "self":
            # h1 makes z small at the start. A small head on top of it would make both learn very slowly (500 steps later
            # the children's loss was still 3 % behind), so theirs start as the authors' dense layers do; the roots read q
            # itself.
            for t, names in enumerate(above.values()):
                if names:
                    glorot_(self.head.weight.data[t : t + 1])

    def start_at(self, logits: Sequence[float]) -> None:
        self.head.start_at(logits)

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        logits = self.head(self.transfer(h.transpose(0, 1)).transpose(0, 1))
        return logits if bias is None else logits + bias


class SelfTransfer(nn.Module):
    """The paper's transfer from parent to child: q [T, B, k] -> z [T, B, k].

    For a task t with parent s, and for a task without one z_t = q_t:

        p = ReLU(G_t z_s + b_t)                                      information from the parent
        w = softmax over u ∈ {q_t, p} of <h2(u), h3(u)> / √k         each candidate scores itself: no query meets a key
        z_t = w_q h1(q_t) + w_p h1(p)                                h1, h2, h3: k x k, no bias

    The funnel is a tree: tasks of the same depth are computed together, so a forward has as many steps as the funnel
    has levels, not tasks. Authors' code: h1, h2, h3 shared by all transitions, gradients flow into the parent
    (`stop_gradient` cuts them).
    """

    def __init__(
        self, tasks: Mapping[str, Task], width: int, share_attention: bool, stop_gradient: bool, dropout: float
    ):
        super().__init__()
        self._levels, self._parents = funnel_levels(tasks)
        order = [t for level in self._levels for t in level]
        self._back = [order.index(t) for t in range(len(order))]
        self._sizes = [len(level) for level in self._levels[1:]]
        self.info = nn.ModuleList(GroupedLayer(size, width, width) for size in self._sizes)
        transitions = 1 if share_attention else sum(self._sizes)
        # [transitions, h1 h2 h3, k, k]: value, and the two sides of the self-score.
        self.attention = nn.Parameter(nn.init.normal_(torch.empty(transitions, 3, width, width), std=ATTENTION_STD))
        self._shared = share_attention
        self._stop_gradient = stop_gradient
        self._dropout = dropout

    def forward(self, q: Tensor) -> Tensor:
        maps = self.attention.flatten(1, 2)  # [transitions, 3k, k]
        maps_of_level = [maps] * len(self.info) if self._shared else maps.split(self._sizes)
        z = [_pick(q, self._levels[0])]
        for level, parents, info, own in zip(
            self._levels[1:], self._parents[1:], self.info, maps_of_level, strict=True
        ):
            z.append(attend(_pick(q, level), self._inform(info, _pick(z[-1], parents)), own)[0])
        return _pick(torch.cat(z), self._back)

    def _inform(self, info: nn.Module, z: Tensor) -> Tensor:
        p = info(z.detach() if self._stop_gradient else z)
        return F.dropout(p, self._dropout) if self._dropout and self.training else p


def attend(q: Tensor, p: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Blend q and p [n, B, k] by their self-scores; maps [1 or n, 3k, k] are h1, h2, h3 -> z [n, B, k], w [2, n, B].

    Scores and softmax are in fp32 also under autocast.
    """
    u = torch.stack((q, p))  # [2, n, B, k]
    projected = F.linear(u, maps[0]) if len(maps) == 1 else torch.matmul(u, maps.transpose(1, 2))
    value, left, right = projected.chunk(3, -1)
    score = (left.float() * right.float()).sum(-1) / math.sqrt(q.shape[-1])
    weight = score.softmax(0)
    return (weight.unsqueeze(-1).to(value.dtype) * value).sum(0), weight


def funnel_levels(tasks: Mapping[str, Task]) -> tuple[list[list[int]], list[list[int]]]:
    """Tasks by depth in the funnel: their numbers, and each one's parent as a position in the level above."""
    numbers = {name: i for i, name in enumerate(tasks)}
    parent_of = {numbers[n]: numbers[t.parent] for n, t in tasks.items() if t.parent is not None}
    levels = [[i for i in numbers.values() if i not in parent_of]]
    parents: list[list[int]] = [[]]
    while below := [i for i, parent in parent_of.items() if parent in levels[-1]]:
        parents.append([levels[-1].index(parent_of[i]) for i in below])
        levels.append(below)
    return levels, parents


def _pick(x: Tensor, positions: list[int]) -> Tensor:
    """x[positions] along dimension 0: a view where they are consecutive, and never an index tensor to copy to a GPU."""
    first, count = positions[0], len(positions)
    if positions == list(range(first, first + count)):
        return x[first : first + count]
    return torch.stack([x[i] for i in positions])
