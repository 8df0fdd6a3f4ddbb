"""Files in exactly the format of Criteo's 1 TB click logs, with clicks to learn."""

import os

import numpy as np

_SIZES = (
    *(5000, 300, 200, 100, 200, 3, 90, 60, 40, 5000, 3000, 1000, 10, 90, 100, 50, 4, 60, 14),
    *(5000, 4000, 5000, 800, 70, 50, 36),
)


def write_criteo_1tb_like(folder, rows: int, days: int, seed: int = 0) -> None:
    """Write `day_0`, `day_1`, … of `rows` impressions each: a label, 13 integers and 26 hexadecimal numbers, with gaps."""
    random = np.random.default_rng(seed)
    words = [np.array([f"{number:08x}" for number in random.integers(0, 2**32, size)]) for size in _SIZES]
    strength = random.normal(0, 1, (2, 300))
    os.makedirs(folder, exist_ok=True)
    for day in range(days):
        ids = (np.array(_SIZES) * random.random((rows, 26)) ** 2).astype(int)
        counts = np.floor(np.exp(random.normal(1, 2, (rows, 13)))).astype(int) - (np.arange(13) == 1)
        score = strength[0, ids[:, 1]] + strength[1, ids[:, 2]] + np.log1p(counts[:, 0]) / 3
        click = random.random(rows) < 1 / (1 + np.exp(3.5 - score))
        columns = [click.astype(int).astype(str), *counts.T.astype(str), *(w[ids[:, n]] for n, w in enumerate(words))]
        for n in (1, 5, 20, 39):
            columns[n] = np.where(random.random(rows) < 0.1, "", columns[n])
        with open(os.path.join(folder, f"day_{day}"), "w", encoding="ascii", newline="\n") as file:
            file.writelines("\t".join(line) + "\n" for line in zip(*(c.tolist() for c in columns), strict=True))
