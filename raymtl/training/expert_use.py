"""How the tasks use the experts: mean gates, entropies and dead experts of the last step before a log line.

Shapes: S streams, E experts of a level.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

DEAD = 0.01
"""An expert that no stream gives a larger mean weight is dead."""


def use_sums(mixtures: Sequence[Tensor], valid: Tensor | None) -> Tensor:
    """Sums over the rows of this worker, additive over workers: for each level the gates [S·E] and the entropies in nats [S],
    then the number of rows. Empty without experts."""
    if not mixtures or valid is None:
        return torch.zeros(0, dtype=torch.float64)
    counted = valid.to(torch.float64)
    parts = []
    for mixture in mixtures:
        entropy = -torch.xlogy(mixture, mixture).sum(-1)
        both = torch.cat((mixture.flatten(1), entropy), 1)  # [B, S·E + S]
        # A padding row may hold anything: it is left out, not multiplied by 0
        parts.append(torch.where(valid.unsqueeze(1), both, 0).to(torch.float64).sum(0))
    return torch.cat([*parts, counted.sum().unsqueeze(0)])


def use_record(sums: Sequence[float], shapes: Sequence[tuple[int, int]], tasks: Sequence[str]) -> dict[str, Any] | None:
    """The entry of a log line from sums over all workers; `shapes` are (S, E) of the levels. None without rows or experts."""
    if not sums or not sums[-1]:
        return None
    heads = shapes[-1][0]
    values = iter(sums)
    gates: dict[str, list[float]] = {}
    entropy: dict[str, float] = {}
    dead = 0
    for level, (streams, experts) in enumerate(shapes, 1):
        names = [f"level{level}/{name}" if len(shapes) > 1 else name for name in _names(streams, heads, tasks)]
        for name in names:
            gates[name] = _mean(values, experts, sums[-1])
        entropy |= zip(names, _mean(values, streams, sums[-1]), strict=True)
        dead += sum(max(gates[name][expert] for name in names) < DEAD for expert in range(experts))
    return {"gates": gates, "entropy": entropy, "dead": dead}


def _mean(values: Iterator[float], count: int, rows: float) -> list[float]:
    return [next(values) / rows for _ in range(count)]


def _names(streams: int, heads: int, tasks: Sequence[str]) -> list[str]:
    """A stream for each task, or one for all; those of a coupler's further towers by number; then the shared one of PLE."""
    if streams == 1 and len(tasks) > 1:
        return ["all"]
    further = [f"tower{number}" for number in range(len(tasks) + 1, heads + 1)]
    return [*tasks, *further, "shared"][:streams]
