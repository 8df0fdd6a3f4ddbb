"""Files in exactly Ali-CCP's format, with clicks and conversions to learn: by user, item and position."""

import os

import numpy as np

_HISTORIES = ("109_14", "110_14", "127_14", "150_14")


def write_aliccp_like(folder, rows: int, users: int, items: int, seed: int = 0) -> None:
    """Write `sample_skeleton_*.csv` and `common_features_*.csv` for training and test, `rows` impressions each.

    A feature is its field, \\x02, its ID, \\x03 and a value; features are joined by \\x01. No two fields share IDs.
    A few impressions have a conversion without a click, and a few lack a field.
    """
    random = np.random.default_rng(seed)
    taste, quality = random.normal(0, 1, users), random.normal(0, 1, items)
    os.makedirs(folder, exist_ok=True)
    for split in ("train", "test"):
        keys = [f"{value:016x}" for value in random.integers(2**63, size=users)]
        common = [_common(random, n, users) for n in range(users)]
        _write(
            folder,
            f"common_features_{split}.csv",
            [f"{k},{c.count(chr(1)) + 1},{c}" for k, c in zip(keys, common, strict=True)],
        )
        user, item = random.integers(users, size=rows), (items * random.random(rows) ** 2).astype(int)
        position = random.integers(3, size=rows)
        score = taste[user] + quality[item] - position / 2
        click = random.random(rows) < 1 / (1 + np.exp(2.5 - score))
        conversion = (random.random(rows) < 1 / (1 + np.exp(1.5 - quality[item]))) & (
            click | (random.random(rows) < 0.002)
        )
        lists = [_skeleton(random, i, p, items) for i, p in zip(item.tolist(), position.tolist(), strict=True)]
        columns = (click.astype(int).tolist(), conversion.astype(int).tolist(), user.tolist(), lists)
        lines = [
            f"{n},{c},{z},{keys[u]},{text.count(chr(1)) + 1},{text}"
            for n, (c, z, u, text) in enumerate(zip(*columns, strict=True), 1)
        ]
        _write(folder, f"sample_skeleton_{split}.csv", lines)


def _common(random: np.random.Generator, user: int, users: int) -> str:
    parts = [_token("101", user + 1)] + [
        _token(f, 3_000_000 + 10 * n + user % 3) for n, f in enumerate(("121", "122", "124"))
    ]
    parts += [_token(f, 3_100_000 + 10 * n + user % 4) for n, f in enumerate(("125", "126", "127", "129"))]
    if user % 5:
        parts.append(_token("128", 3_200_000 + user % 2))
    for n, field in enumerate(_HISTORIES):
        ids = random.integers(4_000_000 + n * 100_000, 4_000_000 + n * 100_000 + 500, 3)
        parts += [_token(field, i, f"{random.random() * 3:.5f}") for i in ids.tolist()]
    return "\x01".join(parts)


def _skeleton(random: np.random.Generator, item: int, position: int, items: int) -> str:
    parts = [
        _token("205", 5_000_000 + item),
        _token("206", 8_000_000 + item % 40),
        _token("207", 8_100_000 + item % 200),
    ]
    parts += [_token("210", 8_400_000 + i) for i in range(item % 4)]
    if item % 7:
        parts.append(_token("216", 8_300_000 + item % 90))
    if random.random() < 0.3:
        parts += [_token("508", 9_000_000 + item % 40, "2.70805"), _token("853", 9_300_000 + item % 4, "0.69315")]
    parts += [_token("509", 9_100_000 + item % 200, "1.6"), _token("702", 9_200_000 + item % 90, "2.1")]
    return "\x01".join([*parts, _token("301", 9_351_665 + position)])


def _token(field: str, number: int, value: str = "1.0") -> str:
    return f"{field}\x02{number}\x03{value}"


def _write(folder, name: str, lines: list[str]) -> None:
    with open(os.path.join(folder, name), "w", encoding="ascii", newline="\n") as file:
        file.write("\n".join(lines) + "\n")
