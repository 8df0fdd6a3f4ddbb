"""Progress lines for the start of a command, which takes most of the time of a short one."""

import os
from typing import TYPE_CHECKING

from raymtl.words import count_of

if TYPE_CHECKING:
    from raymtl.config.root import Config


def joining(address: str | None) -> str:
    """The line before `cluster.join`."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        return f"joining the Ray cluster at {address}"
    return "starting Ray on this machine"


def starting_workers(config: "Config") -> str:
    """The line before `launch`."""
    return f"starting {'up to ' if config.train.min_workers else ''}{count_of(config.train.workers, 'worker')}"
