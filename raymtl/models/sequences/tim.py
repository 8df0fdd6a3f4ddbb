"""TIM: task-specific encodings of several behaviour histories by one transformer (DTRN, CIKM 2023)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout as drop
from torch.nn.functional import layer_norm

from raymtl.models.attention import FeedForward, MultiHeadAttention
from raymtl.models.inputs import ModelInput, Pick
from raymtl.models.layers import full_precision, glorot_
from raymtl.models.registry import register
from raymtl.models.sequences.conditional_norm import EPS, ConditionalNorms, conditional_norm
from raymtl.models.sequences.steps import Behaviours, in_chunks, rows_per_chunk
from raymtl.models.slots import Context, TargetAwareSequenceSlot

POSITION_STD = 0.02
"""Standard deviation of the learned positions at the start."""
FEED_FORWARD = 2
"""Hidden width of the feed-forwards as a multiple of the transformer's width: less than the usual 4, since every step is
processed T times."""

CONDITION_DIM = 16
"""Width of what the hypernetwork reads of a task and of a behaviour type, of which there are a handful each."""


@register("sequence", "tim")
class TIMSequence(TargetAwareSequenceSlot):
    """Histories of S behaviour types -> [B, T, S·width]: for each task t and type b what the transformer makes of them.

    All pairs (t, b) run through the same encoder and decoder; what tells them apart are the scales and shifts of the layer
    norms (`ConditionalNorms`, CLN below):

        x_b = projected steps of b + positions
        x_{t,b} = CLN_{t,b}(x + attention(x)), CLN_{t,b}(x + feed-forward(x))          `layers` times, over the steps
        z_{t,b} = CLN_{t,b}(q + attention(q → x_{t,b})), CLN_{t,b}(z + feed-forward(z))    q: the projected target item

    Up to its first CLN the encoder's work is the same for all tasks and is done once; then all pairs are folded into the
    rows. The scale and shift of its last CLN are not applied at the steps but, once per query, inside the target's
    attention. Every type has its own projection, since its features differ. Positions count back from the most
    recent step; steps older than `positions` share the last one. A history without steps adds nothing to q, so its output
    depends on the target item, the task and the type alone.

    The paper leaves open where the norms stand (here as in the first transformer: after the sums) and what the decoder's
    query attends to itself (here nothing: it is one vector).
    """

    def __init__(
        self,
        context: Context,
        *,
        behaviours: Mapping[str, Sequence[str]] | None = None,
        target: Sequence[str],
        width: int,
        heads: int,
        layers: int,
        positions: int = 50,
        dropout: float = 0.0,
    ):
        super().__init__()
        self._behaviours = Behaviours(context.spec, behaviours)
        self._target = Pick(context.spec, target)
        self.reads = tuple(name for group in self._behaviours.groups.values() for name in group)
        types = len(self._behaviours.widths)
        self.project = nn.ModuleList(nn.Linear(d, width, bias=False) for d in self._behaviours.widths.values())
        self.position = nn.Embedding(positions, width)
        nn.init.trunc_normal_(self.position.weight, std=POSITION_STD)
        self.query = nn.Linear(self._target.width, width)
        nn.init.zeros_(self.query.bias)
        for layer in (*self.project, self.query):
            glorot_(layer.weight.data)
        self.attention = nn.ModuleList(MultiHeadAttention(width, heads, dropout) for _ in range(layers))
        self.feed_forward = nn.ModuleList(FeedForward(width, FEED_FORWARD * width, dropout) for _ in range(layers))
        self.target_attention = TargetAttention(width, heads, dropout)
        self.target_feed_forward = FeedForward(width, FEED_FORWARD * width, dropout)
        self.norms = ConditionalNorms(2 * layers + 2, context.heads, types, width, CONDITION_DIM)
        self.width = types * width

    def forward(self, inputs: ModelInput) -> Tensor:
        norms = self.norms()
        chunks = self._chunks(inputs, self.query(self._target(inputs)))
        return self._decoded(
            torch.cat([self._attended(q, *self._encoded(some, *norms), *norms) for some, q in chunks]), *norms
        )

    def encode(self, inputs: ModelInput) -> tuple[Tensor, ...]:
        """The encoder's steps [U, T, S, L, d], before the scale and shift of their last norm, and mask [U, S, L]."""
        norms = self.norms()
        rows = next(iter(inputs.sequences.values()))[1]
        chunks = self._chunks(inputs, self.position.weight.new_zeros(rows.shape[0], self.query.out_features))
        x, mask = zip(*(self._encoded(some, *norms) for some, _ in chunks), strict=True)
        return torch.cat(x), torch.cat(mask).squeeze(1)

    def attend(self, encoded: tuple[Tensor, ...], user: Tensor, inputs: ModelInput) -> Tensor:
        norms = self.norms()
        (x, mask), q = encoded, self.query(self._target(inputs))
        rows = rows_per_chunk(q, self.norms.weight.shape[-1] * mask[0].numel() * len(self.norms.task))
        attended = [
            self._attended(some, x[own], mask[own].unsqueeze(1), *norms) for own, some in in_chunks(rows, user, q)
        ]
        return self._decoded(torch.cat(attended), *norms)

    def _decoded(self, z: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:
        """What the decoder makes of q + attention(q → x_{t,b}): z [B, T, S, 1, d] -> [B, T, S·d]."""
        *_, first, second = zip(scales, shifts, strict=True)
        z = conditional_norm(z, *first)
        z = conditional_norm(z + self.target_feed_forward(z), *second)
        return z.flatten(2)

    def _attended(self, q: Tensor, x: Tensor, mask: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:
        """q + attention(q → x_{t,b}), which the decoder's first norm reads: q [B, d] -> [B, T, S, 1, d]."""
        return q[:, None, None, None] + self.target_attention(q, x, mask, scales[-3], shifts[-3])

    def _encoded(self, inputs: ModelInput, scales: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's steps, before the scale and shift of their last norm: [B, T, S, L, d], and mask [B, 1, S, L]."""
        x, mask = self._steps(inputs)  # [B, 1, S, L, d]; from the first norm on, [B, T, S, L, d]
        norms = zip(scales, shifts, strict=True)
        for i, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            if i > 0:
                x = conditional_norm(x, *next(norms))
            rows, seen = x.flatten(0, 2), mask.expand(x.shape[:4]).flatten(0, 2)
            x = conditional_norm(x + attention(rows, rows, seen).view(x.shape), *next(norms))
            x = x + feed_forward(x)
        return layer_norm(x.float(), x.shape[-1:], eps=EPS), mask

    def _chunks(self, inputs: ModelInput, q: Tensor) -> list[tuple[ModelInput, Tensor]]:
        """The rows of the histories and of q in the chunks that a CPU runs one after the other."""
        length = max(steps.shape[1] for steps, _ in inputs.sequences.values())
        pairs = len(self.norms.task) * len(self.norms.behaviour)
        rows = rows_per_chunk(q, pairs * length * FEED_FORWARD * q.shape[1])
        if rows is None:
            return [(inputs, q)]
        steps = {
            n: zip(x.split(rows), lengths.split(rows), strict=True) for n, (x, lengths) in inputs.sequences.items()
        }
        return [
            (ModelInput(inputs.pooled, inputs.dense, {n: next(parts) for n, parts in steps.items()}), some)
            for some in q.split(rows)
        ]

    def _steps(self, inputs: ModelInput) -> tuple[Tensor, Tensor]:
        """Projected steps with their positions [B, 1, S, L, d], and mask [B, 1, S, L]; L is that of the longest type."""
        behaviours = self._behaviours(inputs).values()
        length = max(mask.shape[1] for _, mask in behaviours)
        parts, masks = [], []
        for project, (steps, mask) in zip(self.project, behaviours, strict=True):
            beyond = length - mask.shape[1]
            parts.append(nn.functional.pad(project(steps), (0, 0, 0, beyond)))
            masks.append(nn.functional.pad(mask, (0, beyond)))
        x, mask = torch.stack(parts, 1), torch.stack(masks, 1)
        age = mask.sum(2, keepdim=True) - 1 - torch.arange(length, device=mask.device)  # beyond the end: below 0
        x = x + self.position(age.clamp(0, self.position.num_embeddings - 1))
        return x.unsqueeze(1), mask.unsqueeze(1)


class TargetAttention(nn.Module):
    """One query per row attends to many memories: q [B, d], memory [B, T, S, L, d], mask [B, 1, S, L] -> [B, T, S, 1, d].

    The memory is read as memory ⊙ scale + shift, both [T, S, 1, d], by way of the queries and of the weighted sums; a
    query's product with the shift is the same at all its steps, so the softmax takes it out.

    Multi-head attention, reordered for a single query: W_K is applied to the query and W_V to the weighted sum of the steps,
    so that nothing is projected at every step of every memory. Weights are in fp32 also under autocast; a memory without
    steps gives the output bias alone.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.query, self.out):
            glorot_(layer.weight.data)
            nn.init.zeros_(layer.bias)
        # [2, d, d], the matrices of keys and values. A bias of the keys would leave the softmax as it is, one of the values
        # would be a second bias of the output.
        self.key_value = nn.Parameter(glorot_(torch.empty(2, width, width)))
        self._heads = heads
        self._dropout = dropout

    def forward(self, q: Tensor, memory: Tensor, mask: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        key, value = self.key_value.unflatten(1, (self._heads, -1))  # each [H, d/H, d]
        queries = torch.einsum("bhe,hed->bhd", self.query(q).unflatten(1, (self._heads, -1)), key)
        queries = queries[:, None, None].float() * (scale * key.shape[1] ** -0.5)  # [B, T, S, H, d]
        with full_precision(memory):
            if (self._dropout and self.training) or torch.compiler.is_exporting():
                weight = drop(self.weights(queries, memory, mask), self._dropout, self.training)
                found, total = torch.matmul(weight, memory), weight.sum(-1, keepdim=True)
            else:
                found, total = _WeightedSum.apply(queries, memory, mask), mask.any(-1)[..., None, None]
            found = found * scale + total * shift  # [B, T, S, H, d]
        answer = torch.einsum("btshd,hed->btshe", found, value).flatten(3)
        return self.out(answer).unsqueeze(3)

    @staticmethod
    def weights(queries: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Queries in the space of the memory [B, H, d], or [B, T, S, H, d] -> weights [B, T, S, H, L] in fp32.

        All weights of a memory without steps are zero.
        """
        if queries.dim() == 3:
            queries = queries[:, None, None]
        with full_precision(memory):
            score = torch.matmul(queries.float(), memory.float().transpose(3, 4))
        mask = mask.unsqueeze(3)
        return score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1) * mask


class _WeightedSum(torch.autograd.Function):
    """Σ_l weights_l memory_l: queries [B, T, S, H, d], memory [B, T, S, L, d], mask [B, 1, S, L] -> [B, T, S, H, d].

    The memory has two gradients, through its scores and through the sum. Here they are one product of twice the inner
    width instead of two tensors as large as the memory, and their sum.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        weight = TargetAttention.weights(queries, memory, mask)
        ctx.save_for_backward(queries, memory, weight)
        return torch.matmul(weight, memory)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, memory, weight = ctx.saved_tensors
        with full_precision(grad):
            d_weight = torch.matmul(grad, memory.transpose(3, 4))
            d_score = weight * (d_weight - (weight * d_weight).sum(-1, keepdim=True))
            left, right = torch.cat((d_score, weight), 3), torch.cat((queries, grad), 3)
            return torch.matmul(d_score, memory), torch.matmul(left.transpose(3, 4), right), None
