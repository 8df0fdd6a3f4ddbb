"""The optimizers of replicated tables: the same numbers as fbgemm's kernels, applied to the rows that a step touched.

Only Adam decays weights, see `docs/adr/0026-what-the-kernels-can-do.md`.

Shapes: U touched rows, D columns.
"""

import math

import torch
from torch import Tensor

from raymtl.config.train import SparseOptimizer

STATES: dict[str, dict[str, bool]] = {
    "rowwise_adagrad": {"momentum1": False},
    "adagrad": {"momentum1": True},
    "adam": {"momentum1": True, "exp_avg_sq": True},
    "sgd": {},
}
"""By optimizer, the names of its states as TorchRec calls them in a checkpoint, and whether they keep D numbers a row or one."""


def update_rows(
    weight: Tensor,
    state: dict[str, Tensor],
    rows: Tensor,
    gradient: Tensor,
    options: SparseOptimizer,
    *,
    lr: float,
    step: int,
) -> None:
    """Apply one step to `rows` [U], which are distinct, in place; `gradient` [U, D]; `step` counts from 1."""
    if options.type == "sgd":
        weight.index_add_(0, rows, gradient, alpha=-lr)
        return
    kept = {name: value.index_select(0, rows) for name, value in state.items()}
    if options.type == "adam":
        change = _adam(weight, kept, rows, gradient, options, step)
    else:
        square = gradient.square()
        kept["momentum1"] += square.mean(1) if options.type == "rowwise_adagrad" else square
        divisor = kept["momentum1"].sqrt().add_(options.eps)
        change = gradient / (divisor if divisor.dim() > 1 else divisor.unsqueeze(1))
    for name, value in kept.items():
        state[name].index_copy_(0, rows, value)
    weight.index_add_(0, rows, change, alpha=-lr)


def _adam(
    weight: Tensor, kept: dict[str, Tensor], rows: Tensor, gradient: Tensor, options: SparseOptimizer, step: int
) -> Tensor:
    """Lazy Adam with decoupled weight decay: rows that no worker looked up keep their moments."""
    first, second = options.betas
    kept["momentum1"].lerp_(gradient, 1 - first)
    kept["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    divisor = kept["exp_avg_sq"].sqrt().div_(math.sqrt(1 - second**step)).add_(options.eps)
    change = kept["momentum1"].div(divisor).div_(1 - first**step)
    if options.weight_decay:
        change.add_(weight.index_select(0, rows), alpha=options.weight_decay)
    return change


def empty_state(kind: str, rows: int, dim: int, device: torch.device) -> dict[str, Tensor]:
    """The state of an optimizer that has not stepped."""
    return {name: torch.zeros((rows, dim) if wide else rows, device=device) for name, wide in STATES[kind].items()}
