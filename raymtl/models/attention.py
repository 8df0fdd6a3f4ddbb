"""Attention over the steps of sequences: the parts from which the sequence slots build their layers."""

from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention

from raymtl.errors import ConfigError
from raymtl.models.layers import glorot_


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of every head on its slice of the width, among the keys where the mask is true.

    q [N, Q, d], k [N, L, d], v [N, L, k], mask [N, L] -> [N, Q, k]. A row whose mask is false throughout gives zeros, and
    gradients of zero; so does N = 0 or L = 0. `dropout` is that of the weights: give 0 outside training.

    Scores and softmax are in fp32 inside the kernel, also where autocast hands it bf16.
    """
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    empty = ~mask.any(1, keepdim=True)
    # Not every backend of the kernel has a defined answer where nothing may be attended to: let such rows see everything.
    seen = (mask | empty)[:, None, None, :]
    y = scaled_dot_product_attention(q, k, v, attn_mask=seen.expand(-1, -1, q.shape[2], -1), dropout_p=dropout)
    return y.transpose(1, 2).flatten(2).masked_fill(empty.unsqueeze(1), 0)


class MultiHeadAttention(nn.Module):
    """Projections around `masked_attention`: queries x [N, Q, width] attend to the memory
    [N, L, width] with mask [N, L] -> [N, Q, width].

    Self-attention is `attention(x, x, mask)`.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"model.sequence.width is {width}, not divisible by model.sequence.heads = {heads}; set it to a "
                f"multiple of {heads}"
            )
        # A bias of the keys would add the same to all scores of a query, which the softmax takes out again.
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for linear in (self.query, self.key, self.value, self.out):
            glorot_(linear.weight.data)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        self._heads = heads
        self._dropout = dropout

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(memory), self.value(memory)
        y = masked_attention(q, k, v, mask, self._heads, self._dropout if self.training else 0.0)
        return self.out(y)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between them, for every step by itself: [..., width] -> [..., width]."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for linear in (self.inner, self.outer):
            glorot_(linear.weight.data)
            nn.init.zeros_(linear.bias)
        self._dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        # As rows: a linear layer returns more than two dimensions as a view, and the backward of a ReLU in place on a view
        # copies the whole gradient.
        inner = self.inner(x.flatten(0, -2)).relu_()
        return self.outer(drop(inner, self._dropout, self.training) if self._dropout else inner).view(x.shape)
