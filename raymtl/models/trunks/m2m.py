"""M2M: experts mixed, and towers run, by weights that the scenario generates (Zhang et al., WSDM 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymtl.models.inputs import ModelInput
from raymtl.models.layers import MLP, Gates, GroupedMLP, full_precision, glorot_
from raymtl.models.precomputed import X
from raymtl.models.registry import register
from raymtl.models.slots import Context, TrunkSlot
from raymtl.models.trunks.knowledge import RowGroups, ScenarioKnowledge
from raymtl.models.trunks.meta import LEAK, MetaLayer


@register("trunk", "m2m")
class M2M(TrunkSlot):
    """x [B, d], or per-task inputs [B, T, d] -> [B, T, D], by the paper's meta attention and meta tower:

        E_e = MLP_e(x)      T_t = MLP(embedding of t)      S̃ = MLP(scenario ‖ knowledge)
        a_te = v · Meta_t([E_e ‖ T_t]; S̃)      R_t = Σ_e softmax_e(a_te) E_e
        L_t⁰ = R_t      L_tʲ = σ(Meta_tʲ(L_tʲ⁻¹; S̃) + L_tʲ⁻¹), j = 1..J

    Meta is `meta_layers` layers in the attention and one in every tower layer (`MetaLayer`), σ a LeakyReLU; every task has
    its own. The paper's softmax is printed as a sum over tasks; here, as it must be, it is one over the experts.

    The parts can be turned off: without `meta_attention` the experts are mixed by plain gates on x, without `meta_tower`
    the tower's layers have fixed weights.
    """

    supports_precomputed = True

    def __init__(
        self,
        context: Context,
        *,
        experts: int,
        hidden: Sequence[int],
        knowledge: Sequence[str] = (),
        knowledge_dim: int,
        meta_layers: int = 1,
        tower_layers: int = 2,
        meta_attention: bool = True,
        meta_tower: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        tasks = context.heads
        self.experts = GroupedMLP(experts, context.width, hidden, dropout)
        self.width = self.experts.width
        meta = meta_attention or meta_tower
        self.knowledge = ScenarioKnowledge(context, knowledge, knowledge_dim) if meta else None
        self.gates: MetaAttention | Gates
        if meta_attention:
            self.gates = MetaAttention(tasks, self.width, knowledge_dim, meta_layers)
        else:
            self.gates = Gates(tasks, experts, context.width, bias=False)
        self.tower = nn.ModuleList(
            MetaLayer(tasks, self.width, self.width, knowledge_dim if meta_tower else 0) for _ in range(tower_layers)
        )
        self._meta_tower = meta_tower

    def forward(self, x: X, inputs: ModelInput) -> Tensor:
        s, groups = self.knowledge(inputs) if self.knowledge is not None else (None, RowGroups())
        views = self._views(x)  # [T, B, E, D], or [1, B, E, D] for the one input of all tasks
        weights = (
            self.gates(views, s, groups) if isinstance(self.gates, MetaAttention) else self.gates(x).transpose(0, 1)
        )
        if self.training:
            self.mixtures = [weights.detach().transpose(0, 1)]
        h = _mix(weights.to(views.dtype), views)  # [T, B, D]
        if not self._meta_tower:
            s, groups = None, RowGroups()
        h = groups.to_groups(h)
        for layer in self.tower:
            h = nn.functional.leaky_relu(layer(h, s) + h, LEAK)
        return groups.to_rows(h).transpose(0, 1)

    def _views(self, x: X) -> Tensor:
        if x.dim() == 2:
            return self.experts(x).transpose(0, 1).unsqueeze(0)
        return self.experts(x.flatten(0, 1)).unflatten(1, x.shape[:2]).permute(2, 1, 0, 3)


class MetaAttention(nn.Module):
    """Weights of the experts for every task and row, a softmax in fp32: views [T or 1, B, E, D] -> [T, B, E]."""

    def __init__(self, tasks: int, width: int, knowledge: int, layers: int):
        super().__init__()
        self.task = nn.Parameter(torch.randn(tasks, width))
        self.task_mlp = MLP(width, [width])
        self.layers = nn.ModuleList(
            MetaLayer(tasks, width, width, knowledge, constant=width if i == 0 else 0) for i in range(layers)
        )
        self.score = nn.Parameter(glorot_(torch.empty(1, width))[0])

    def forward(self, views: Tensor, s: Tensor, groups: RowGroups) -> Tensor:
        experts = views.shape[2]
        h = groups.to_groups(views)  # [T or 1, N, R, E, D]
        group_rows = h.shape[2]
        h = h.flatten(2, 3)
        task: Tensor | None = self.task_mlp(self.task)
        for layer in self.layers:
            h = layer(h, s, task)
            task = None
        with full_precision(h):
            scores = (h.float() * self.score).sum(-1).unflatten(2, (group_rows, experts))
            return groups.to_rows(scores.softmax(-1))


def _mix(weights: Tensor, views: Tensor) -> Tensor:
    """Σ_e weights [T, B, E] · views [T or 1, B, E, D] -> [T, B, D]."""
    if len(views) == 1:
        return torch.bmm(weights.transpose(0, 1), views[0]).transpose(0, 1)
    return torch.matmul(weights.unsqueeze(2), views).squeeze(2)
