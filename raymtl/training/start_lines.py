"""Progress lines for the start of a command, which takes most of the time of a short one, and the seconds of its phases."""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raymtl import signals
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
    """The line before the workers start."""
    return f"starting {'up to ' if config.train.min_workers else ''}{count_of(config.train.workers, 'worker')}"


class PhaseClock:
    """Measures the phases of a run, from the start of its command."""

    def __init__(self) -> None:
        self._began = signals.installed_at() or time.time()
        self._ends: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Note that a phase ends now."""
        self._ends[phase] = time.time()

    def add(self, ends: Mapping[str, float | None]) -> None:
        """Note when phases ended, by the clock of a worker; None: they did not take place."""
        self._ends |= {phase: end for phase, end in ends.items() if end is not None}

    def seconds(self) -> dict[str, float]:
        """How long each phase took, in their order."""
        found, last = {}, self._began
        for phase, end in self._ends.items():
            found[phase], last = round(max(0.0, end - last), 2), max(end, last)
        return found


def phases_line(seconds: Mapping[str, float]) -> str:
    """The line after a run with the seconds of its phases."""
    return "seconds: " + ", ".join(f"{phase.replace('_', ' ')} {taken:.1f}" for phase, taken in seconds.items())
