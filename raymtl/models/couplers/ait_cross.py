"""Cross-attention between a task and any number of tasks before it (the `AITMTower` of EasyRec)."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.wiring import levels
from raymtl.models.layers import GroupedLayer, glorot_


class CrossTransfer(nn.Module):
    """Each task's tower attends to itself and to its predecessors: q [T, B, k] -> z [T, B, k].

    For a task t with predecessors s_1 … s_m, and for a task without any z_t = q_t:

        u_0 = q_t,  u_j = ReLU(G_t z_{s_j} + b_t)                     one transfer layer for all predecessors of t
        w   = softmax over i of <Q_t u_0, K_ti u_i> / √k
        z_t = Σ_i w_i V_ti u_i                                        Q, K, V: k x k with bias, K and V for each position

    This is row 0 of EasyRec's attention; its other rows are never read, so their queries do not exist here.
    Tasks that wait for the same number of steps and listen to the same number of tasks are computed together.
    """

    def __init__(self, above: Mapping[str, Sequence[str]], width: int, stop_gradient: bool, dropout: float):
        super().__init__()
        numbers = {name: i for i, name in enumerate(above)}
        self._tasks = len(numbers)
        self._groups: list[tuple[list[int], list[int]]] = []  # tasks, and the predecessors of all of them in a row
        attentions = []
        for level in levels(above)[1:]:
            for count, group in groupby(
                sorted(level, key=lambda name: len(above[name])), lambda name: len(above[name])
            ):
                names = list(group)
                self._groups.append(([numbers[n] for n in names], [numbers[p] for n in names for p in above[n]]))
                attentions.append(CrossAttention(len(names), count, width, dropout))
        self.attentions = nn.ModuleList(attentions)
        self._stop_gradient = stop_gradient

    def forward(self, q: Tensor) -> Tensor:
        own = q.unbind(0)
        z = dict(enumerate(own))
        for (tasks, before), attention in zip(self._groups, self.attentions, strict=True):
            passed = torch.stack([z[s] for s in before]).unflatten(0, (len(tasks), -1))
            passed = passed.detach() if self._stop_gradient else passed
            found, _ = attention(torch.stack([own[t] for t in tasks]), passed)
            z.update(zip(tasks, found.unbind(0), strict=True))
        return torch.stack([z[t] for t in range(self._tasks)])


class CrossAttention(nn.Module):
    """n tasks, each with m predecessors: q [n, B, k], their z [n, m, B, k] -> z [n, B, k], w [n, m + 1, B]."""

    def __init__(self, tasks: int, predecessors: int, width: int, dropout: float):
        super().__init__()
        positions = predecessors + 1
        self.transfer = GroupedLayer(tasks, width, width)
        self.query = nn.Parameter(glorot_(torch.empty(tasks, width, width)))
        self.query_bias = nn.Parameter(torch.zeros(tasks, width))
        # [tasks, positions, K V, k, k]
        self.key_value = nn.Parameter(glorot_(torch.empty(tasks, positions, 2, width, width)))
        self.key_value_bias = nn.Parameter(torch.zeros(tasks, positions, 2, width))
        self._dropout = dropout

    def forward(self, q: Tensor, passed: Tensor) -> tuple[Tensor, Tensor]:
        p = self.transfer(passed.flatten(1, 2)).view_as(passed)
        if self._dropout and self.training:
            p = F.dropout(p, self._dropout)
        u = torch.cat((q.unsqueeze(1), p), 1)  # [n, m + 1, B, k]
        query = torch.baddbmm(self.query_bias.unsqueeze(1), q, self.query.transpose(1, 2))
        maps, bias = self.key_value.flatten(2, 3).flatten(0, 1), self.key_value_bias.flatten(2, 3).flatten(0, 1)
        both = torch.baddbmm(bias.unsqueeze(1), u.flatten(0, 1), maps.transpose(1, 2))
        key, value = both.unflatten(0, u.shape[:2]).chunk(2, -1)
        score = (query.unsqueeze(1).float() * key.float()).sum(-1) / math.sqrt(q.shape[-1])
        weight = score.softmax(1)  # fp32 also under autocast
        return (weight.unsqueeze(-1).to(value.dtype) * value).sum(1), weight
