"""Layers that run many small networks as few large matrix products.

Experts and towers are G networks of one shape. Looping over them costs a kernel start each; stacked they are one GEMM
(all read the same rows) or one batched GEMM (each reads its own).
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.models.precomputed import X, linear

Activation = Literal["relu", "leaky_relu", "gelu", "silu"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
}

HEAD_STD = 0.01
"""Standard deviation of the output weights: small, so that the output bias alone sets the first predictions (G12)."""


def full_precision(x: X) -> AbstractContextManager:
    """A region without autocast on the device of x; for exported graphs it leaves no trace when autocast is off."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def glorot_(weight: Tensor) -> Tensor:
    """Fill weight [..., out, in] with U(-a, a), a = sqrt(6 / (in + out)), every matrix for itself (Glorot & Bengio 2010)."""
    bound = math.sqrt(6 / (weight.shape[-1] + weight.shape[-2]))
    return nn.init.uniform_(weight, -bound, bound)


def upcast(x: Tensor) -> Tensor:
    """x in fp32 where autocast made it narrower; fp64 stays."""
    return x.float() if x.dtype.itemsize < 4 else x


class GroupedLayer(nn.Module):
    """G linear layers of one shape with an activation. Group g holds what `nn.Linear(in, out)` would: weight[g], bias[g].

    x [B, in], read by all groups -> [G, B, out];  x [G, B, in], one slice each -> [G, B, out]. With `norm` there is a layer norm
    between the linear layer and the activation.
    """

    def __init__(self, groups: int, d_in: int, d_out: int, activation: Activation = "relu", norm: bool = False):
        super().__init__()
        self.weight = nn.Parameter(glorot_(torch.empty(groups, d_out, d_in)))
        self.bias = nn.Parameter(torch.zeros(groups, d_out))
        self.norm = GroupedNorm(groups, d_out) if norm else None
        self._activate = _ACTIVATIONS[activation]

    def forward(self, x: X) -> Tensor:
        if x.dim() == 3:
            y = torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))
            return self._activate(y if self.norm is None else self.norm(y))
        # One GEMM with G·out columns; the result keeps its memory layout and is viewed as [G, B, out].
        y = linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        if self.norm is None:  # before the view: an activation in place on a view copies the gradient
            return self._activate(y).unflatten(1, self.bias.shape).transpose(0, 1)
        return self._activate(self.norm(y.unflatten(1, self.bias.shape).transpose(0, 1)))


class GroupedNorm(nn.Module):
    """G layer norms, each over the width of its own slice, in fp32 also under autocast: x [G, B, k] -> [G, B, k]."""

    def __init__(self, groups: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, width))
        self.bias = nn.Parameter(torch.zeros(groups, width))

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            y = F.layer_norm(upcast(x), (x.shape[-1],))
            return y * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)


class GroupedMLP(nn.Module):
    """G MLPs of one shape, activation and dropout after every layer: x [B, d] or [G, B, d] -> [G, B, width].

    `dropout` is one rate, or one for each group."""

    def __init__(
        self,
        groups: int,
        d_in: int,
        hidden: Sequence[int],
        dropout: float | Sequence[float] = 0.0,
        activation: Activation = "relu",
        norm: bool = False,
    ):
        super().__init__()
        widths = pairwise((d_in, *hidden))
        self.layers = nn.ModuleList(GroupedLayer(groups, i, o, activation, norm) for i, o in widths)
        rates = [dropout] * groups if isinstance(dropout, int | float) else [*dropout]
        self.dropout = rates[0]
        self._kept: Tensor | None
        differ = len(set(rates)) > 1
        self.register_buffer("_kept", 1 - torch.tensor(rates).view(-1, 1, 1) if differ else None, persistent=False)
        self.width = hidden[-1]

    def drop(self, x: Tensor) -> Tensor:
        if self._kept is not None and self.training:
            return x * (torch.bernoulli(self._kept.expand(x.shape)) / self._kept).to(x.dtype)
        return F.dropout(x, self.dropout) if self.dropout and self.training else x

    def forward(self, x: X) -> Tensor:
        for layer in self.layers:
            x = self.drop(layer(x))
        return x


class MLP(nn.Module):
    """One MLP on the last dimension, ReLU and dropout after every layer; without layers, the identity."""

    def __init__(self, d_in: int, hidden: Sequence[int], dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((d_in, *hidden)))
        for layer in self.layers:
            glorot_(layer.weight.data)
            nn.init.zeros_(layer.bias)
        self.dropout = dropout
        self.width = hidden[-1] if hidden else d_in

    def forward(self, x: X) -> X:
        for layer in self.layers:
            x = linear(x, layer.weight, layer.bias).relu_()
            if self.dropout and self.training:
                x = F.dropout(x, self.dropout)
        return x


class Gates(nn.Module):
    """N linear gates over the same number of choices, each a softmax in fp32 also under autocast.

    x [B, d], read by all gates -> [B, N, choices];  x [B, N, d], one row each -> [B, N, choices];
    one gate (N = 1) on x [B, S, d] -> [B, S, choices].

    The weights start at zero: every choice counts the same until the gate has learned something. The experts
    still differ, because their own weights are initialised at random.
    """

    def __init__(self, gates: int, choices: int, d_in: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(gates, choices, d_in))
        self.bias = nn.Parameter(torch.zeros(gates, choices)) if bias else None

    def forward(self, x: X) -> Tensor:
        with full_precision(x):
            return self.logits(x.float()).softmax(-1)

    def logits(self, x: X) -> Tensor:
        gates, choices, _ = self.weight.shape
        if x.dim() == 2:
            flat = linear(x, self.weight.flatten(0, 1), None if self.bias is None else self.bias.flatten())
            return flat.unflatten(1, (gates, choices))
        if gates == 1:
            return F.linear(x, self.weight[0], None if self.bias is None else self.bias[0])
        y = torch.bmm(x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)
        return y if self.bias is None else y + self.bias


class Heads(nn.Module):
    """The last linear layer of every task, in fp32: h [B, T, k] -> [B, T]."""

    def __init__(self, heads: int, d_in: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(heads, d_in), std=HEAD_STD))
        self.bias = nn.Parameter(torch.zeros(heads))

    def start_at(self, logits: Sequence[float]) -> None:
        with torch.no_grad():
            self.bias.copy_(torch.tensor(logits))

    def forward(self, h: Tensor) -> Tensor:
        # Product and sum instead of a matrix product: autocast leaves these alone, and k is small.
        return (h.float() * self.weight).sum(-1) + self.bias
