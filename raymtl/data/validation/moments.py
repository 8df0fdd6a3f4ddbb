"""Statistics of numbers that merge with those of others."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Count, mean, spread and range of finite numbers."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared distances to the mean."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Add finite numbers."""
        if len(values):
            values = values.astype(np.float64)
            mean = float(values.mean())
            squares = float(((values - mean) ** 2).sum())
            self.merge(Moments(len(values), mean, squares, float(values.min()), float(values.max())))

    def merge(self, other: "Moments") -> None:
        """Add all that `other` has seen."""
        if not other.count:
            return
        total = self.count + other.count
        gap = other.mean - self.mean
        self.squares += other.squares + gap * gap * self.count * other.count / total
        self.mean += gap * other.count / total
        self.count, self.low, self.high = total, min(self.low, other.low), max(self.high, other.high)

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0
