"""What a check found."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One check, on one node or on the cluster as a whole."""

    group: str
    """`stack`, `machine`, `cluster`, `storage` or `network`."""
    check: str
    status: Status
    value: str
    """The value seen."""
    remedy: str = ""
    """What to do; empty where all is well."""
    node: str = ""
    """Empty: it is not about one node."""


def worst(findings: Iterable[Finding]) -> Status:
    """The worst status of all; `ok` of none."""
    return max((f.status for f in findings), key=STATUSES.index, default="ok")
