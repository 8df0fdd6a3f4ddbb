"""What balancing did in the steps since the last line of the log. T tasks."""

from itertools import combinations

import torch
from torch import Tensor

Report = dict[str, dict[str, float] | float]


class BalanceWindow:
    """Sums on the device; `report` waits for it, and starts again from zero."""

    def __init__(self, names: list[str]):
        self._names = names
        self._sums: dict[str, Tensor] = {}

    def add(self, weights: Tensor, active: Tensor, gram: Tensor | None) -> None:
        """A step: the weights [T] of the tasks' losses (at the cut, where those differ), and the Gram matrix if measured."""
        self._add("weights", torch.where(active, weights.detach(), 0.0))
        self._add("weighed", active.double())
        if gram is None:
            return
        gram = gram.double()
        norms = gram.diagonal().clamp_min(0.0).sqrt()
        scale = torch.outer(norms, norms)
        measured = torch.outer(active, active) & (scale > 0)
        cosine = torch.where(measured, gram / torch.where(measured, scale, 1.0), 0.0)
        self._add("cosine", cosine)
        self._add("measured", measured.double())
        self._add("conflict", (cosine < 0).double())

    def _add(self, key: str, value: Tensor) -> None:
        self._sums[key] = self._sums[key] + value if key in self._sums else value.double()

    def report(self) -> Report:
        """Mean weight of each task over the steps in which it had labels; mean cosine of each pair of gradients, and the share
        of the measured pairs that pointed against each other."""
        sums, self._sums = {key: value.cpu() for key, value in self._sums.items()}, {}
        found: Report = {}
        if "weights" in sums:
            means = (sums["weights"] / sums["weighed"]).tolist()
            found["weights"] = {n: m for n, m in zip(self._names, means, strict=True) if m == m}
        if "cosine" in sums:
            means = (sums["cosine"] / sums["measured"]).tolist()
            pairs = list(combinations(range(len(self._names)), 2))
            found["gradient_cosine"] = {
                f"{self._names[i]}|{self._names[j]}": means[i][j] for i, j in pairs if means[i][j] == means[i][j]
            }
            measured = sum(sums["measured"][i, j].item() for i, j in pairs)
            if measured:
                found["gradient_conflict"] = sum(sums["conflict"][i, j].item() for i, j in pairs) / measured
        return found
