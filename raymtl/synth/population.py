"""The users or items of a day: slots with a drifting popularity, whose entities are replaced over time.

A slot is a place in the popularity ranking. Slot s holds entity s + N·g, where the generation g rises by one every
1/churn days at the slot's own phase: the same share of the slots is replaced every day, at all popularities.
"""

import numpy as np

from raymtl.synth.chance import uniform

_SWING = 0.5  # popularity moves by a factor of up to e^±0.5
_FLAT = 200  # the first 1/200 of the ranking is nearly flat, so that no user or item gets a tenth of the traffic


class Population:
    """The users or the items of one shard; memory O(slots)."""

    def __init__(
        self, seed: int, name: str, count: int, churn: float, exponent: float, shard: int = 0, shards: int = 1
    ):
        self._seed, self._name, self._count, self._churn = seed, name, count, churn
        self._slots = np.arange(shard, count, shards, dtype=np.int64)
        self._phase = uniform(seed, f"{name} phase", self._slots)
        order = np.argsort(uniform(seed, f"{name} rank", self._slots), kind="stable")
        rank = np.empty(len(order))
        rank[order] = np.arange(len(order)) * shards
        self._weight = (rank + 1 + count / _FLAT) ** -exponent
        self._period = 6 + 24 * uniform(seed, f"{name} period", self._slots)
        self._start = uniform(seed, f"{name} start", self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def numbers(self, day: int) -> np.ndarray:
        """Number of the entity in every slot on `day`, [N] int64."""
        return self._slots + self._count * self._generation(day)

    def age_days(self, day: int) -> np.ndarray:
        """Days since the entity of every slot entered (0: today); up to 1/churn for the initial ones, [N]."""
        if self._churn == 0:
            return 50 * self._phase + day
        born = np.ceil((self._generation(day) - self._phase) / self._churn)
        return np.maximum(day - born, 0)

    def replaced(self, day: int) -> np.ndarray:
        """Slots whose entity was replaced on `day`."""
        return np.flatnonzero(self._generation(day) > self._generation(day - 1)) if day else np.empty(0, np.int64)

    def weights(self, day: int) -> np.ndarray:
        """Share of the traffic of every slot on `day`, [N], sum 1: Zipf's law, flattened at the top, with a slow swing."""
        swing = _SWING * np.sin(2 * np.pi * (day / self._period + self._start))
        weights = self._weight * np.exp(swing)
        return weights / weights.sum()

    def _generation(self, day: int) -> np.ndarray:
        return np.floor(day * self._churn + self._phase).astype(np.int64)


class Draw:
    """Draws slots by weight: inversion of the cumulative weights, [N] float64."""

    def __init__(self, weights: np.ndarray):
        self.weights = weights
        self._cumulative = np.cumsum(weights)
        self._cumulative[-1] = 1.0

    def __call__(self, uniforms: np.ndarray) -> np.ndarray:
        """Slot of every uniform value in [0, 1), same shape."""
        return np.searchsorted(self._cumulative, uniforms, side="right")
