"""`tasks.<name>.early_labels`: how a daily job trains on labels before they are final. `docs/losses.md` has the formula."""

from enum import IntFlag
from typing import Annotated

from pydantic import PositiveFloat

from raymtl.config.base import Section
from raymtl.config.roles import NotSearched, Role

_ONLY_DAILY = NotSearched("no trial is a day of `raymtl daily`")


class EarlyLabels(Section):
    """How `raymtl daily` trains a task on a day before its labels are final: the loss allows for labels that have not arrived by
    the cutoff. How likely that is, a further head learns wherever labels are final."""

    time: Annotated[str, Role.LEARNING | Role.READ, _ONLY_DAILY]
    """Column with the time at which the label became 1: a timestamp, Unix time, or text as 2026-01-31T12:00:00Z. It is read where
    the label is 1; no feature may read it."""
    cutoff_hours: Annotated[PositiveFloat, Role.LEARNING | Role.READ, _ONLY_DAILY] = 24.0
    """Until when labels count as arrived: so many hours after 00:00 UTC of the row's day, which is not ready before. 24 is the
    end of a UTC day; where days are those of another time zone, the end of theirs."""


class Arrival(IntFlag):
    """What reading tells the loss of a label beside its value. 0: nothing; it is final."""

    OPEN = 1
    """It is the label at the cutoff: a 0 may still turn into a 1."""
    IN_TIME = 2
    """It is final and 1, and was at the cutoff."""
    LATE = 4
    """It is final and 1, and turned into it after the cutoff."""
