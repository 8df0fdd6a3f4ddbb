"""Numbers in sentences."""


def count_of(count: int, noun: str, plural: str = "") -> str:
    """`1 version`, `2 versions`, `1,000 rows`; `plural` where an s is not enough."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
