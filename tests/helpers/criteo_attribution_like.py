"""A file in exactly the format of Criteo's attribution data, with clicks and sales to learn: by campaign and category."""

import gzip
import os

import numpy as np

_HEADER = (
    "timestamp\tuid\tcampaign\tconversion\tconversion_timestamp\tconversion_id\tattribution\tclick\tclick_pos\tclick_nb\t"
    "cost\tcpo\ttime_since_last_click\t" + "\t".join(f"cat{n}" for n in range(1, 10))
)


def write_criteo_attribution_like(folder, rows: int, users: int, days: int = 30, seed: int = 0) -> None:
    """Write `criteo_attribution_dataset.tsv.gz`: impressions in chronological order, with seconds from the beginning."""
    random = np.random.default_rng(seed)
    time = np.sort(random.integers(0, days * 86_400, rows))
    uid, campaign = random.integers(1, users + 1, rows), random.integers(0, 60, rows)
    categories = random.integers(0, [9, 70, 300, 4, 20, 50, 1000, 30, 40], (rows, 9))
    strength, worth = random.normal(0, 1, 60), random.normal(0, 1, 9)
    click = random.random(rows) < 1 / (1 + np.exp(1 - strength[campaign] - worth[categories[:, 0]]))
    sale = random.random(rows) < np.where(click, 0.15, 0.03)
    attribution = sale & (random.random(rows) < 0.5)
    clicks = np.where(sale & click, random.integers(1, 4, rows), -1)
    position = np.where(clicks > 0, random.integers(0, 3, rows) % np.maximum(clicks, 1), -1)
    since = np.where(random.random(rows) < 0.4, random.integers(1, 900_000, rows), -1)
    when, number = np.where(sale, time + 5000, -1), np.where(sale, random.integers(1, 10**7, rows), -1)
    numbers = [time, uid, 10_000_000 + 37 * campaign, sale, when, number, attribution, click, position, clicks]
    columns = [column.astype(int).tolist() for column in numbers]
    columns += [random.random(rows).round(6).tolist(), np.where(attribution, 0.3, 0.0).tolist(), since.tolist()]
    columns += (categories + np.arange(9) * 1_000_000).T.tolist()
    lines = ["\t".join(map(str, line)) + "\n" for line in zip(*columns, strict=True)]
    os.makedirs(folder, exist_ok=True)
    with gzip.open(
        os.path.join(folder, "criteo_attribution_dataset.tsv.gz"), "wt", encoding="ascii", compresslevel=1
    ) as file:
        file.write(_HEADER + "\n")
        file.writelines(lines)
