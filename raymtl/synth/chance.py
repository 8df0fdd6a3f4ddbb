"""Reproducible random values: an entity's attributes are a hash of its number, a block's draws come from its own generator.

Attributes come from SplitMix64's finaliser over (seed, stream, number): any entity's value is known without generating the
others, so nothing is stored for any number of users and items.
"""

import zlib

import numpy as np

from raymtl.data.ids.hashing import mix64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _bits(seed: int, stream: str, numbers: np.ndarray) -> np.ndarray:
    """64 hashed bits per number, [N] uint64."""
    key = mix64(np.array([(seed * 0x1_0000_0001 + zlib.crc32(stream.encode())) % 2**63], dtype=np.int64))
    with np.errstate(over="ignore"):
        return mix64(((numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN ^ key).view(np.int64))


def uniform(seed: int, stream: str, numbers: np.ndarray) -> np.ndarray:
    """One uniform value in [0, 1) per number, [N] float64."""
    return (_bits(seed, stream, numbers) >> np.uint64(11)) * 2.0**-53


def normal(seed: int, stream: str, numbers: np.ndarray) -> np.ndarray:
    """One value of mean 0 and variance 1 per number, [N] float32: the sum of four 16-bit uniforms, nearly normal within ±3.4."""
    parts = _bits(seed, stream, numbers).view(np.uint16).reshape(-1, 4)
    total = parts.sum(axis=1, dtype=np.int64) - 2 * 65535
    return (total * (1 / (65536 * np.sqrt(4 / 12)))).astype(np.float32)


def generator(seed: int, *place: int) -> np.random.Generator:
    """The generator of one place (a table of effects, or a block of rows)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *place])))
