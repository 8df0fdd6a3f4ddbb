"""The maps from logits to calibrated logits, all strictly ascending.

Shapes: `...` any, the same for logits and parameters or broadcast; K knots.
"""

from typing import Literal

import torch
from torch import Tensor

Method = Literal["platt", "isotonic"]
KNOTS = 32
"""Points of an isotonic curve."""


def identity_of(method: Method) -> Tensor:
    """The parameters of the map that changes nothing: [2] or [2, K], float64."""
    if method == "platt":
        return torch.tensor([1.0, 0.0], dtype=torch.float64)
    knots = torch.arange(KNOTS, dtype=torch.float64) - KNOTS // 2
    return torch.stack([knots, knots])


def apply_map(method: Method, parameters: Tensor, logits: Tensor) -> Tensor:
    """The calibrated logits of logits [...], by parameters [..., 2] or [..., 2, K]; what is not finite stays so."""
    return _line(parameters, logits) if method == "platt" else _curve(parameters, logits)


def _line(parameters: Tensor, logits: Tensor) -> Tensor:
    slope, intercept = parameters.unbind(-1)
    return slope * logits + intercept


def _curve(parameters: Tensor, logits: Tensor) -> Tensor:
    """Straight lines between the knots (x, y), with slope 1 beyond the first and the last."""
    x, y = parameters.unbind(-2)
    shape = torch.broadcast_shapes(x.shape[:-1], logits.shape)
    x, y, a = x.expand(*shape, KNOTS), y.expand(*shape, KNOTS), logits.expand(shape).unsqueeze(-1)
    # Counting the knots below is a search that every export format has
    place = ((a >= x).sum(-1, keepdim=True) - 1).clamp(0, KNOTS - 2)
    x0, x1, y0, y1 = (of.gather(-1, place + step) for of in (x, y) for step in (0, 1))
    inside = y0 + (a - x0) * ((y1 - y0) / (x1 - x0))
    below, above = y0 + (a - x0), y1 + (a - x1)
    return torch.where(a < x0, below, torch.where(a > x1, above, inside)).squeeze(-1)
