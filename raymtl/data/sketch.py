"""Distinct counts of any number of IDs in 16 KiB: HyperLogLog over mix64, vectorised and mergeable."""

import math

import numpy as np

from raymtl.data.ids.hashing import mix64

_BITS = 14
_REGISTERS = 1 << _BITS
_REST = 64 - _BITS
_RANKS = _REST + 2  # 0 (never hit) to _REST + 1
_FEW = 16_384  # below, updating one by one is faster than a table of all registers and ranks


class HyperLogLog:
    """Estimates how many different int64 IDs were added; standard error 0.8 %.

    Flajolet, Fusy, Gandouet, Meunier 2007, with the estimator of Ertl 2017 (arXiv 1702.01284, section 2.3), which has no bias
    at any size and needs no tables.
    """

    def __init__(self) -> None:
        self._registers = np.zeros(_REGISTERS, np.uint8)

    def add(self, ids: np.ndarray) -> None:
        """Add IDs, [N] int64."""
        if not len(ids):
            return
        hashed = mix64(ids)
        register = (hashed >> np.uint64(_REST)).astype(np.int64)
        rest = hashed & np.uint64((1 << _REST) - 1)
        # The rank is the place of the first 1 in the other bits; frexp of a number below 2^53 is exact
        rank = _REST + 1 - np.frexp(rest.astype(np.float64))[1]
        if len(ids) < _FEW:
            np.maximum.at(self._registers, register, rank.astype(np.uint8))
            return
        seen = np.zeros((_REGISTERS, _RANKS), bool)
        seen[register, rank] = True
        highest = _RANKS - 1 - seen[:, ::-1].argmax(1)
        highest[~seen.any(1)] = 0
        np.maximum(self._registers, highest.astype(np.uint8), out=self._registers)

    def merge(self, other: "HyperLogLog") -> None:
        """Add all that `other` has seen."""
        np.maximum(self._registers, other._registers, out=self._registers)

    def estimate(self) -> int:
        """Number of distinct IDs, about."""
        counts = np.bincount(self._registers, minlength=_RANKS)
        if counts[0] == _REGISTERS:
            return 0
        z = _REGISTERS * _tau(1 - counts[_RANKS - 1] / _REGISTERS)
        for rank in range(_REST, 0, -1):
            z = 0.5 * (z + counts[rank])
        z += _REGISTERS * _sigma(counts[0] / _REGISTERS)
        return round(_REGISTERS**2 / (2 * math.log(2) * z))


def _sigma(x: float) -> float:
    """x + Σ x^(2^k) 2^(k-1), the weight of the registers never hit."""
    y, total = 1.0, x
    while True:
        x, before = x * x, total
        total += x * y
        y += y
        if total == before:
            return total


def _tau(x: float) -> float:
    """The weight of the registers that are full, which only an astronomical number of IDs fills."""
    if x in (0.0, 1.0):
        return 0.0
    y, total = 1.0, 1 - x
    while True:
        x, before = math.sqrt(x), total
        y *= 0.5
        total -= (1 - x) ** 2 * y
        if total == before:
            return total / 3
