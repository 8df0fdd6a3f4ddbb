"""Files in exactly the format of the AliExpress data as the Multitask-Recommendation-Library makes them, with clicks to learn."""

import os

import numpy as np

_SIZES = (5, 20, 35, 10, 10, 35, 185, 40, 40, 10, 10, 10, 10, 10, 10, 10)
_HEADER = [
    "search_id",
    *(f"categorical_{n}" for n in range(1, 17)),
    *(f"numerical_{n}" for n in range(1, 64)),
    "click",
    "conversion",
]


def write_aliexpress_like(folder, rows: int, countries=("NL", "ES", "FR", "US"), seed: int = 0) -> None:
    """Write `AliExpress_<country>/{train,test}.csv` of `rows` products shown, eight on a page, each."""
    random = np.random.default_rng(seed)
    for country in countries:
        os.makedirs(f"{folder}/AliExpress_{country}", exist_ok=True)
        for split in ("train", "test"):
            page = np.arange(rows) // 8
            user = random.integers(0, 1_000_000, (page[-1] + 1, 16)) % _SIZES
            ids = random.integers(0, 1_000_000, (rows, 16)) % _SIZES
            ids[:, :9] = user[page, :9]
            numbers = random.random((rows, 63)).round(6)
            numbers[:, :23] = numbers[page * 8, :23]
            numbers[:, 57:60] = 0  # integers in the original
            score = 2 * numbers[:, 30] + numbers[:, 2] + ids[:, 9] / 5
            click = random.random(rows) < 1 / (1 + np.exp(4.5 - score))
            conversion = click & (random.random(rows) < numbers[:, 40] / 2)
            columns = [page + 3, *ids.T, *numbers.T, click.astype(int), conversion.astype(int)]
            lines = zip(*(column.tolist() for column in columns), strict=True)
            with open(f"{folder}/AliExpress_{country}/{split}.csv", "w", encoding="ascii", newline="\n") as file:
                file.write(",".join(_HEADER) + "\n")
                file.writelines(",".join(map(str, line)) + "\n" for line in lines)
