"""A file in exactly the format of Taobao's user behaviour, with something to learn: categories that a user likes to buy from."""

import os

import numpy as np

_START, _END = 1_511_539_200, 1_512_316_800  # 2017-11-25 to 2017-12-04 00:00 in Beijing


def write_taobao_like(folder, rows: int, users: int, items: int, seed: int = 0) -> None:
    """Write `UserBehavior.csv`: no header, grouped by user, of a user by time; a few events have impossible times."""
    random = np.random.default_rng(seed)
    categories = max(2, items // 10)
    taste = random.normal(0, 1.5, (users, 8))
    views = rows * 9 // 10
    user = random.integers(users, size=views)
    item = (items * random.random(views) ** 2).astype(int)
    time = random.integers(_START, _END, views) // 2 * 2  # so that some events of a user have the same second
    rate = 1 / (1 + np.exp(2 - taste[user, item % categories % 8]))
    chance = rate / rate.sum() * np.array([[0.3], [0.5], [0.2]])
    events = [(user, item, np.full(views, "pv"), time)]
    for behavior, p in zip(("fav", "cart", "buy"), chance, strict=True):
        count = {"fav": 0.3, "cart": 0.5, "buy": 0.2}[behavior] * (rows - views)
        after = random.choice(views, int(count), p=p / p.sum())
        delay = random.integers(0, 40 * 3600, len(after))
        events.append(
            (user[after], item[after], np.full(len(after), behavior), np.minimum(time[after] + delay, _END - 1))
        )
    user, item, behavior, time = (np.concatenate([e[n] for e in events]) for n in range(4))
    strange = random.random(len(time)) < 0.002
    time[strange] = random.choice([-2_134_949_234, 1_511_539_199, 2_122_867_355], strange.sum())
    order = np.lexsort((time, user))
    columns = (user + 1, 1000 + 7 * item, 50_000 + item % categories, behavior, time)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "UserBehavior.csv"), "w", encoding="ascii", newline="\n") as file:
        file.writelines(
            "{},{},{},{},{}\n".format(*row) for row in zip(*(c[order].tolist() for c in columns), strict=True)
        )
