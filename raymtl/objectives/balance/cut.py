"""The cut: the looked-up embeddings, where the tasks' gradients are taken apart and put together again.

The tables' optimizer runs inside the backward pass, so there is exactly one backward pass through them per step. What a method
needs of each task alone is taken above: `torch.autograd.grad` stops at the cut and starts no collective.

Shapes: T tasks, N numbers in all tensors of the cut.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raymtl.errors import ConfigError


class SharedGradients:
    """The gradient of every task's loss [T] with respect to the tensors of the cut, of this worker's rows."""

    def __init__(self, losses: Tensor, cut: Sequence[Tensor]):
        self._cut = [tensor for tensor in cut if tensor.requires_grad]
        if not self._cut:
            raise ConfigError(
                "train.balance takes the tasks' gradients at the looked-up embeddings, but no feature looks any up; set "
                "train.balance.type to `fixed`, `entropy`, `uncertainty` or `famo`, and remove train.balance.cosine_every_steps"
            )
        per_task = [
            torch.autograd.grad(loss, self._cut, retain_graph=True, materialize_grads=True) for loss in losses.unbind()
        ]
        self._gradients = [torch.stack([g.flatten() for g in column]) for column in zip(*per_task, strict=True)]

    def gram(self) -> Tensor:
        """[T, T] inner products, of this worker's rows, in fp32."""
        return torch.stack([g.float() @ g.float().T for g in self._gradients]).sum(0)

    def add(self, factors: Tensor) -> None:
        """Let Σ_t factor_t · g_t be added to the gradient that the backward pass brings to the cut."""
        for tensor, gradients in zip(self._cut, self._gradients, strict=True):
            more = (factors.to(gradients.dtype) @ gradients).view_as(tensor)
            tensor.register_hook(lambda gradient, more=more: gradient + more)
