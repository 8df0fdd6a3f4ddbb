"""An x whose products with the layers that read it are known: how a served model brings in the user's share of them.

The first layers of a trunk are linear in x = [user ‖ item], W x = W_user x_user + W_item x_item, so the user's share is the same
for all candidates. Slots that read x through `linear` and `materialize` take either kind of x (`docs/extending.md`).
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor


class PrecomputedInput:
    """Stands for x [B, d]; its products come in the order in which the slots ask for them."""

    def __init__(self, products: Iterable[Tensor], materialize: Callable[[], Tensor], device: torch.device):
        """`products` are W x + b of every layer that reads x, each [B, o]; `materialize` makes x itself."""
        self._products, self._materialize = iter(products), materialize
        self.device = device

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The next product, which is that of this weight [o, d] and bias [o]."""
        return next(self._products)

    def materialize(self) -> Tensor:
        """x itself, [B, d]."""
        return self._materialize()

    def dim(self) -> int:
        """As that of a tensor [B, d]."""
        return 2

    def float(self) -> "PrecomputedInput":
        """Itself: a served model computes in fp32."""
        return self

    def detach(self) -> "PrecomputedInput":
        """Itself: a served model has no gradients."""
        return self


X: TypeAlias = Any  # Tensor | PrecomputedInput; a type checker cannot know that only a tensor has three dimensions
"""x as slots that take both kinds read it."""


def linear(x: X, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: x [..., d], weight [o, d] -> [..., o]."""
    return x.linear(weight, bias) if isinstance(x, PrecomputedInput) else F.linear(x, weight, bias)


def materialize(x: X) -> Tensor:
    """x as a tensor."""
    return x.materialize() if isinstance(x, PrecomputedInput) else x


def stop_gradient(x: X) -> X:
    """The same x, whose gradient goes no further down."""
    return x.detach()
