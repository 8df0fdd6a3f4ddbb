"""Numbers and names in sentences and tables."""

from collections.abc import Iterable

_SHOWN = 3


def count_of(count: int, noun: str, plural: str = "") -> str:
    """`1 version`, `2 versions`, `1,000 rows`; `plural` where an s is not enough."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def some_of(items: Iterable[str], noun: str) -> str:
    """`1 day (2026-01-03)`, `5 days (2026-01-03, 2026-01-04, 2026-01-05 …)`."""
    items = list(items)
    return f"{count_of(len(items), noun)} ({', '.join(items[:_SHOWN])}{' …' if len(items) > _SHOWN else ''})"


def gib(size: int) -> str:
    """Bytes in a readable unit."""
    if size < 2**18:
        return f"{size / 2**10:.1f} KiB"
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def visible(name: str) -> str:
    """A name that comes from data: `""` if it is empty."""
    return name or '""'
