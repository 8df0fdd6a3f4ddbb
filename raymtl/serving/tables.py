"""Embedding tables in plain torch: looked-up rows are fp32, whatever the type of the weights.

Shapes: R rows of the table, D its width, N looked-up rows.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Quantization = Literal["none", "fp16", "int8"]

_LEVELS = 255


class FloatTable(nn.Module):
    """Weights [R, D] in fp32 or fp16: rows [N] int64 -> [N, D] fp32."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, rows: Tensor) -> Tensor:
        return F.embedding(rows, self.weight).float()


class Int8Table(nn.Module):
    """Weights in one byte each, with a scale and an offset of every row: rows [N] int64 -> [N, D] fp32.

        w = scale · q + offset,    q = round((w − offset) / scale) in 0 … 255,    offset = min w,    scale = (max w − min w) / 255

    so that no weight is off by more than half its row's scale.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        low, high = weight.amin(1), weight.amax(1)
        scale = (high - low) / _LEVELS
        levels = (weight - low.unsqueeze(1)) / torch.where(scale > 0, scale, 1.0).unsqueeze(1)
        self.register_buffer("levels", levels.round().clamp(0, _LEVELS).to(torch.uint8))
        self.register_buffer("scale", scale)
        self.register_buffer("offset", low)

    def forward(self, rows: Tensor) -> Tensor:
        levels = F.embedding(rows, self.levels)
        scale, offset = self.scale.index_select(0, rows), self.offset.index_select(0, rows)
        return torch.addcmul(offset.unsqueeze(1), levels.float(), scale.unsqueeze(1))


def make_table(weight: Tensor, quantization: Quantization) -> nn.Module:
    """The module of a table's weights [R, D] in fp32; without quantization it is their own memory."""
    if quantization == "int8":
        return Int8Table(weight)
    return FloatTable(weight.half() if quantization == "fp16" else weight)
