"""Measured numbers with their 95 % intervals, and the mean of a few repeated differences."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured number."""

    value: float
    interval: tuple[float, float] | None
    """None: not known."""
    text: str
    """The number and its interval in words."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean, and how far the true one may lie from it."""

    mean: float
    half: float | None
    """Half the width of the 95 % interval; None: a single value says nothing about its spread."""
    count: int
    """Values."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.half is not None and abs(self.mean) > self.half


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """The mean of one or more independent values with Student's t interval: mean ± t(.975, n − 1) · s / √n."""
    n = len(values)
    mean = statistics.fmean(values)
    if n < 2:
        return MeanInterval(mean, None, n)
    return MeanInterval(mean, t_quantile(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n), n)


def bonferroni(tests: int) -> float:
    """By how much 95 % intervals are wider if all of so many shall hold together (Bonferroni)."""
    return normal_quantile(1 - 0.025 / tests) / normal_quantile(0.975)


def t_quantile(share: float, freedom: int) -> float:
    """The value below which a share of Student's t distribution lies, by its degrees of freedom."""
    from scipy.special import stdtrit  # not before: reports of one run need none

    return float(stdtrit(freedom, share))


def normal_quantile(share: float) -> float:
    """The value below which a share of the standard normal distribution lies."""
    return statistics.NormalDist().inv_cdf(share)
