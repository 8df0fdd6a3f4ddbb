"""The result of a check."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One check, of one node or of the cluster."""

    group: str
    """`stack`, `machine`, `cluster`, `storage` or `network`."""
    check: str
    status: Status
    value: str
    """The value seen."""
    remedy: str = ""
    """What to do; empty if the status is `ok`."""
    node: str = ""
    """Empty for a check of the cluster."""


def worst(findings: Iterable[Finding]) -> Status:
    """The worst status; `ok` without findings."""
    return max((f.status for f in findings), key=STATUSES.index, default="ok")
