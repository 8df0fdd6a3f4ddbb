"""`raymtl.data.scan` without Ray."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from raymtl.data.scan import Body


def scan_in_process(name: str, bodies: Sequence[Body], *_: Any, in_order: bool) -> Iterator[pa.Table]:
    """The results of the tasks, one after another, in this process."""
    for body in bodies:
        yield from body()
