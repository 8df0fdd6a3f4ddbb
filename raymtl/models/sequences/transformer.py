"""Behaviour sequences through self-attention (M2M's encoder, Zhang et al., WSDM 2022)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.attention import FeedForward, MultiHeadAttention
from raymtl.models.inputs import ModelInput
from raymtl.models.layers import glorot_
from raymtl.models.registry import register
from raymtl.models.sequences.steps import Behaviours, in_chunks, rows_per_chunk
from raymtl.models.slots import Context, SequenceSlot

POSITION_STD = 0.02
"""Standard deviation of the learned positions at the start."""

POSITION_DIM = 16
"""Width of the learned position beside a step's embedding; 50 positions need no more, so it is not configurable."""
FEED_FORWARD = 4
"""Hidden width of the feed-forwards as a multiple of the transformer's width."""


@register("sequence", "transformer")
class TransformerSequence(SequenceSlot):
    """One encoder per behaviour: steps [B, L, d] -> [B, width], side by side. An empty sequence gives zeros.

    A step's embedding beside that of its position is projected to `width`; then come the layers, each
    x = LN(x + attention(x)), x = LN(x + feed-forward(x)), and the mean over the valid steps (the paper does not say how the
    steps are pooled). Positions count back from the most recent step, so they mean the same for short and long sequences and
    do not depend on the padding; steps older than `positions` share the last one.
    """

    def __init__(
        self,
        context: Context,
        *,
        behaviours: Mapping[str, Sequence[str]] | None = None,
        heads: int,
        layers: int,
        width: int,
        positions: int = 50,
        dropout: float = 0.0,
    ):
        super().__init__()
        self._behaviours = Behaviours(context.spec, behaviours)
        if not self._behaviours.widths:
            raise ConfigError(
                "model.sequence is `transformer` but no feature has the kind `sequence`; add one, or set the type `none`"
            )
        self.encoders = nn.ModuleList(
            StepEncoder(d, width, heads, layers, positions, dropout) for d in self._behaviours.widths.values()
        )
        self.reads = tuple(name for group in self._behaviours.groups.values() for name in group)
        self.width = width * len(self.encoders)

    def forward(self, inputs: ModelInput) -> Tensor:
        behaviours = self._behaviours(inputs).values()
        return torch.cat([encoder(*steps) for encoder, steps in zip(self.encoders, behaviours, strict=True)], 1)


class StepEncoder(nn.Module):
    """Steps [B, L, d] and mask [B, L], true on the steps of a row's prefix -> [B, width] in fp32."""

    def __init__(self, d_in: int, width: int, heads: int, layers: int, positions: int, dropout: float):
        super().__init__()
        self.position = nn.Embedding(positions, POSITION_DIM)
        nn.init.trunc_normal_(self.position.weight, std=POSITION_STD)
        self.project = nn.Linear(d_in + POSITION_DIM, width)
        glorot_(self.project.weight.data)
        nn.init.zeros_(self.project.bias)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(layers))

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        rows = rows_per_chunk(steps, mask.shape[1] * FEED_FORWARD * self.project.out_features)
        return torch.cat([self._encoded(*part) for part in in_chunks(rows, steps, mask)])

    def _encoded(self, steps: Tensor, mask: Tensor) -> Tensor:
        age = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)
        position = self.position(age.clamp(0, self.position.num_embeddings - 1))  # [B, L, POSITION_DIM]
        x = self.project(torch.cat((steps, position), 2))
        for layer in self.layers:
            x = layer(x, mask)
        valid = mask.unsqueeze(2)
        return x.float().masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, a layer norm after each sum: x [B, L, width] -> [B, L, width] in fp32."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, FEED_FORWARD * width, dropout)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # Sums and norms in fp32: what autocast rounds are the inputs of the products.
        x = self.attention_norm(x.float() + self.attention(x, x, mask))
        return self.feed_forward_norm(x + self.feed_forward(x))
