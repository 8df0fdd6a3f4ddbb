"""PLE: experts of each task's own beside shared ones, in levels (Tang et al., RecSys 2020). One level is CGC."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymtl.models.inputs import ModelInput
from raymtl.models.layers import Gates, GroupedMLP, full_precision
from raymtl.models.precomputed import X, linear
from raymtl.models.registry import register
from raymtl.models.slots import Context, TrunkSlot


@register("trunk", "ple")
class PLE(TrunkSlot):
    """Levels of extraction; a stream per task and a shared one run through them: x [B, d] or [B, T, d] -> [B, T, k].

    At the first level all streams are x. With per-task inputs task t's stream is its own, and the shared stream is
    their mean (the paper has a common input only; the mean keeps the order of tasks out of it).
    """

    supports_precomputed = True

    def __init__(
        self,
        context: Context,
        *,
        levels: int,
        task_experts: int,
        shared_experts: int,
        hidden: Sequence[int],
        gate_bias: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.levels = nn.ModuleList(
            Extraction(
                context.heads,
                task_experts,
                shared_experts,
                hidden[-1] if level else context.width,
                hidden,
                last=level == levels - 1,
                gate_bias=gate_bias,
                dropout=dropout,
            )
            for level in range(levels)
        )
        self._shared = shared_experts > 0
        self.width = hidden[-1]

    def forward(self, x: X, inputs: ModelInput) -> Tensor:
        if x.dim() == 3 and self._shared:
            x = torch.cat((x, x.mean(1, keepdim=True)), 1)
        mixtures = []
        for level in self.levels:
            x, mixture = level(x)
            mixtures.append(mixture.detach())
        if self.training:
            self.mixtures = mixtures
        return x


class Extraction(nn.Module):
    """One level: T·m own experts (task-major), then the shared ones; the gates mix them into the next streams.

    Task t's gate reads task t's stream and chooses among its own and the shared experts. The shared stream's gate
    chooses among all experts; the last level has none, since nothing would read it, nor has a level without shared
    experts.

    x [B, d], one stream for all, or [B, S, d], the tasks' streams and, with shared experts, the shared one -> [B, S', k], and the
    mixture [B, S', G].
    """

    def __init__(
        self,
        tasks: int,
        own: int,
        shared: int,
        d_in: int,
        hidden: Sequence[int],
        *,
        last: bool,
        gate_bias: bool,
        dropout: float,
    ):
        super().__init__()
        self.tasks, self.own, self.shared = tasks, own, shared
        self.experts = GroupedMLP(tasks * own + shared, d_in, hidden, dropout)
        self.task_gates = Gates(tasks, own + shared, d_in, gate_bias)
        self.shared_gate = Gates(1, tasks * own + shared, d_in, gate_bias) if shared and not last else None

    def forward(self, x: X) -> tuple[Tensor, Tensor]:
        experts = self._experts(x).transpose(0, 1)  # [B, G, k]
        mixture = self.mixture(x)
        return torch.bmm(mixture.to(experts.dtype), experts), mixture

    def mixture(self, x: X) -> Tensor:
        """Weight of every expert in every outgoing stream: [B, S', G] in fp32; rows sum to one.

        A task's weight on another task's own experts is an exact zero, so one batched product mixes all streams.
        """
        with full_precision(x):
            task, shared = self._gate_logits(x.float())
            own, common = task.softmax(-1).split((self.own, self.shared), 2)  # [B, T, m], [B, T, m_s]
            diagonal = torch.eye(self.tasks, device=x.device).unsqueeze(-1)  # [T, T, 1]
            rows = torch.cat(((own.unsqueeze(2) * diagonal).flatten(2), common), 2)  # [B, T, G]
            return rows if shared is None else torch.cat((rows, shared.softmax(-1)), 1)

    def _gate_logits(self, x: X) -> tuple[Tensor, Tensor | None]:
        if self.shared_gate is None:
            return self.task_gates.logits(x[:, : self.tasks] if x.dim() == 3 else x), None
        if x.dim() == 3:
            return self.task_gates.logits(x[:, : self.tasks]), self.shared_gate.logits(x[:, self.tasks :])
        # All gates read one stream: one narrow GEMM instead of two, which also spares adding two gradients of x.
        gates = (self.task_gates, self.shared_gate)
        weight = torch.cat([g.weight.flatten(0, 1) for g in gates])
        biases = [g.bias.flatten() for g in gates if g.bias is not None]
        sizes = [g.weight.shape[:2] for g in gates]
        task, shared = linear(x, weight, torch.cat(biases) if biases else None).split([s.numel() for s in sizes], 1)
        return task.unflatten(1, sizes[0]), shared.unflatten(1, sizes[1])

    def _experts(self, x: X) -> Tensor:
        """Outputs of all experts, [G, B, k]."""
        if x.dim() == 2:
            return self.experts(x)
        first, *rest = self.experts.layers
        sizes = (self.tasks * self.own, self.shared)
        streams = x.transpose(0, 1).split((self.tasks, x.shape[1] - self.tasks))
        parts = zip(streams, first.weight.split(sizes), first.bias.split(sizes), strict=True)
        y = self.experts.drop(torch.cat([_stacked(s, w, b) for s, w, b in parts if len(w)]))
        for layer in rest:
            y = self.experts.drop(layer(y))
        return y


def _stacked(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """First layer of the experts of S streams, m on each: x [S, B, d], weight [S·m, k, d] -> [S·m, B, k].

    The m experts of a stream are one matrix of m·k columns, so x is read once.
    """
    streams, groups, width = x.shape[0], weight.shape[0], weight.shape[1]
    y = torch.baddbmm(bias.reshape(streams, 1, -1), x, weight.reshape(streams, -1, x.shape[2]).transpose(1, 2)).relu_()
    return y.unflatten(2, (groups // streams, width)).transpose(1, 2).flatten(0, 1)
