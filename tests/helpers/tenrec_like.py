"""Files in exactly Tenrec's format, with clicks to learn: by user and item."""

import os

import numpy as np

_HEADER = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age"


def write_tenrec_like(folder, rows: int, users: int, items: int, name: str = "ctr_data_1M.csv", seed: int = 0) -> None:
    """Write a file of impressions, grouped by user; the benchmark file also has `hist_1` to `hist_10`, with 0 for no click."""
    random = np.random.default_rng(seed)
    taste, quality = random.normal(0, 1, users), random.normal(0, 1, items)
    user = np.sort(random.integers(users, size=rows))
    item = (items * random.random(rows) ** 2).astype(int)
    score = taste[user] + quality[item]
    click = random.random(rows) < 1 / (1 + np.exp(1.5 - score))
    later = [click & (random.random(rows) < rate / (1 + np.exp(-quality[item]))) for rate in (0.02, 0.15, 0.03)]
    columns = [user + 1, item + 1, click, *later, item % 7, click * random.integers(1, 4, rows), user % 3, user % 8]
    header = _HEADER
    if name == "ctr_data_1M.csv":
        history = random.integers(1, items + 1, (users, 10)) * (np.arange(10) < random.integers(0, 11, (users, 1)))
        columns += list(history[user].T)
        header += "," + ",".join(f"hist_{n}" for n in range(1, 11))
    os.makedirs(folder, exist_ok=True)
    lines = zip(*(column.astype(int).tolist() for column in columns), strict=True)
    with open(os.path.join(folder, name), "w", encoding="ascii", newline="\n") as file:
        file.write(header + "\n")
        file.writelines(",".join(map(str, line)) + "\n" for line in lines)
