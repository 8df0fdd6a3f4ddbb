"""Meta layers: linear layers whose weights are generated from what is known about the row's scenario (M2M's meta unit).

Shapes: N groups of R rows that share their knowledge, k its width, T tasks, i and o the layer's widths.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raymtl.models.layers import full_precision, glorot_

LEAK = 0.2
"""Slope of the LeakyReLU below zero; the paper does not give it."""
CHUNK = 2**22
"""Most elements that a meta layer computes at a time of what it does not keep: generated weights, or outer products."""
GROUPS = 256
"""Most groups at a time on a CPU: more make the products no faster, and the chunk larger than the cache."""


class MetaLayer(nn.Module):
    """T meta layers, h -> LeakyReLU(h W + b), where every task and group of rows has its own W = V_w s + v_w, b = V_b s + v_b.

    h [T, N, R, i], or [1, N, R, i] read by all tasks, and knowledge s [N, k] -> [T, N, R, o]. With `constant` the input
    is [h ‖ c], where c [T, constant] is the same for all rows. With `knowledge` 0 the weights are v_w and v_b (no s).

    V_w and V_b start at zero: the untrained layer is the plain one, and departs from it as far as scenarios differ.
    """

    def __init__(self, tasks: int, d_in: int, d_out: int, knowledge: int, constant: int = 0):
        super().__init__()
        weight = glorot_(torch.empty(tasks, d_in + constant, d_out))
        self.weight = nn.Parameter(weight[:, :d_in].clone())
        self.bias = nn.Parameter(torch.zeros(tasks, d_out))
        self.constant_weight = nn.Parameter(weight[:, d_in:].clone()) if constant else None
        if knowledge:
            self.weight_of = nn.Parameter(torch.zeros(tasks, knowledge, d_in, d_out))
            self.bias_of = nn.Parameter(torch.zeros(tasks, knowledge, d_out))
        if knowledge and constant:
            self.constant_of = nn.Parameter(torch.zeros(tasks, knowledge, constant, d_out))

    def forward(self, h: Tensor, s: Tensor | None, constant: Tensor | None = None) -> Tensor:
        bias, bias_of = self.bias, self.bias_of if s is not None else None
        if self.constant_weight is not None and constant is not None:
            # What c adds is linear in s like the bias itself: one product for all rows.
            c = constant[:, None, None]  # [T, 1, 1, constant]
            bias = bias + torch.matmul(c, self.constant_weight.unsqueeze(1)).flatten(1)
            bias_of = None if bias_of is None else bias_of + torch.matmul(c, self.constant_of).squeeze(2)
        if s is None or bias_of is None:
            return F.leaky_relu(torch.matmul(h, self.weight.unsqueeze(1)) + bias[:, None, None], LEAK)
        b = torch.baddbmm(bias.unsqueeze(1), s.expand(len(bias), -1, -1), bias_of)  # [T, N, o]
        return F.leaky_relu(meta_product(h, s, self.weight, self.weight_of) + b.unsqueeze(2), LEAK)


def meta_product(h: Tensor, s: Tensor, weight: Tensor, weight_of: Tensor) -> Tensor:
    """y_tnr = h_tnr (Σ_j s_nj weight_of_tj + weight_t), without ever keeping the generated matrices.

    h [T or 1, N, R, i], s [N, k], weight [T, i, o], weight_of [T, k, i, o] -> [T, N, R, o], in autocast's precision.
    """
    device = h.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
    h, s = h.to(dtype), s.to(dtype)
    with full_precision(h):
        if torch.compiler.is_exporting():  # an exported graph has no loop over an unknown number of rows
            w = _generated(s, weight.to(dtype), weight_of.to(dtype))
            return torch.matmul(h, w)
        return _MetaProduct.apply(h, s, weight, weight_of)


def _generated(s: Tensor, weight: Tensor, weight_of: Tensor) -> Tensor:
    """The matrices of every group: [T, N, i, o]."""
    w = torch.baddbmm(weight.flatten(1).unsqueeze(1), s.expand(len(weight), -1, -1), weight_of.flatten(2))
    return w.unflatten(2, weight.shape[1:])


class _MetaProduct(torch.autograd.Function):
    """`meta_product` in chunks of groups. The backward pass recomputes each chunk, so no chunk is kept.

    Two exact forms. A generated matrix costs T·i·o numbers per group, and k products with each of them, but then serves all R
    rows. A single row is cheaper as the product of its outer product s ⊗ h (k·i numbers) with all of weight_of.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, s: Tensor, weight: Tensor, weight_of: Tensor) -> Tensor:
        ctx.save_for_backward(h, s, weight, weight_of)
        w, v = weight.to(h.dtype), weight_of.to(h.dtype)
        tasks, _, d_out = weight.shape
        y = h.new_empty(tasks, *h.shape[1:3], d_out)
        product = _product_by_outer if h.shape[2] == 1 else _product_by_matrix
        for part in _chunks(h, v):
            y[:, part] = product(h[:, part].expand(tasks, -1, -1, -1), s[part], w, v)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        h, s, weight, weight_of = ctx.saved_tensors
        w, v = weight.to(h.dtype), weight_of.to(h.dtype)
        tasks = len(weight)
        d_h, d_s = torch.empty_like(h), torch.empty_like(s)
        d_w, d_v = torch.zeros_like(weight), torch.zeros_like(weight_of)
        gradients = _gradients_by_outer if h.shape[2] == 1 else _gradients_by_matrix
        for part in _chunks(h, v):
            dh, ds = gradients(grad[:, part], h[:, part].expand(tasks, -1, -1, -1), s[part], w, v, d_w, d_v)
            d_h[:, part] = dh if len(h) == tasks else dh.sum(0, keepdim=True)
            d_s[part] = ds
        return d_h, d_s, d_w, d_v


def _chunks(h: Tensor, v: Tensor) -> list[slice]:
    """Ranges of groups, so that the large tensor of a chunk has at most about `CHUNK` elements."""
    tasks, k, d_in, d_out = v.shape
    size = max(1, CHUNK // (tasks * d_in * (k if h.shape[2] == 1 else d_out)))
    if h.device.type == "cpu":
        size = min(size, GROUPS)
    return [slice(at, at + size) for at in range(0, h.shape[1], size)]


def _product_by_matrix(h: Tensor, s: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(h.flatten(0, 1), _generated(s, w, v).flatten(0, 1)).view(*h.shape[:3], -1)


def _gradients_by_matrix(
    g: Tensor, h: Tensor, s: Tensor, w: Tensor, v: Tensor, d_w: Tensor, d_v: Tensor
) -> tuple[Tensor, Tensor]:
    """Adds to d_w and d_v; returns the gradients of h [T, n, R, i] and s [n, k]."""
    rows = g.reshape(-1, *g.shape[2:])  # [T·n, R, o]
    d_h = torch.bmm(rows, _generated(s, w, v).flatten(0, 1).transpose(1, 2)).view(h.shape)
    d_matrix = torch.bmm(h.flatten(0, 1).transpose(1, 2), rows).view(len(v), -1, math.prod(v.shape[2:]))  # [T, n, i·o]
    d_w.add_(d_matrix.sum(1).view_as(d_w))
    _add_product(d_v.flatten(2), s.T.expand(len(v), -1, -1), d_matrix)
    return d_h, torch.bmm(d_matrix, v.flatten(2).transpose(1, 2)).sum(0)


def _outer(h: Tensor, s: Tensor) -> Tensor:
    """s ⊗ h of single rows: [T, n, k·i]."""
    return (s.unsqueeze(2) * h).flatten(2)


def _product_by_outer(h: Tensor, s: Tensor, w: Tensor, v: Tensor) -> Tensor:
    plain = torch.bmm(h.squeeze(2), w)
    return torch.baddbmm(plain, _outer(h, s), v.flatten(1, 2)).unsqueeze(2)


def _gradients_by_outer(
    g: Tensor, h: Tensor, s: Tensor, w: Tensor, v: Tensor, d_w: Tensor, d_v: Tensor
) -> tuple[Tensor, Tensor]:
    """Adds to d_w and d_v; returns the gradients of h [T, n, 1, i] and s [n, k]."""
    tasks, k, d_in, _ = v.shape
    rows, x = g.squeeze(2), h.squeeze(2)  # [T, n, o], [T, n, i]
    _add_product(d_w, x.transpose(1, 2), rows)
    _add_product(d_v.flatten(1, 2), _outer(h, s).transpose(1, 2), rows)
    d_outer = torch.bmm(rows, v.flatten(1, 2).transpose(1, 2)).view(tasks, -1, k, d_in)
    d_h = torch.bmm(rows, w.transpose(1, 2)).unsqueeze(2) + torch.matmul(s.unsqueeze(1), d_outer)
    return d_h, torch.matmul(d_outer, h.transpose(2, 3)).squeeze(3).sum(0)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b in the precision of `total`: many chunks summed in bf16 would lose the later ones."""
    if a.dtype == total.dtype:
        total.baddbmm_(a, b)
    else:
        total.add_(torch.bmm(a, b))
