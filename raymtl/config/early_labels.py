"""`tasks.<name>.early_labels`: how a daily job trains on labels before they are final. `docs/losses.md` has the formulas."""

from enum import IntFlag
from typing import Annotated, Literal

from pydantic import PositiveFloat

from raymtl.config.base import Section
from raymtl.config.roles import NotSearched, Role

Correction = Literal["es_dfm", "fnw", "fnc"]

_ONLY_DAILY = NotSearched("it affects only days of `raymtl daily`")


class EarlyLabels(Section):
    """How `raymtl daily` trains a task on the labels of a day that have arrived by its end, and adds those that come later once
    they are final. A 0 that may still turn into 1 counts as the correction says."""

    time: Annotated[str, Role.LEARNING | Role.READ, _ONLY_DAILY]
    """Column with the time at which the label became 1: a timestamp, Unix time, or text as 2026-01-31T12:00:00Z. It is read where
    the label is 1; no feature may read it."""
    correction: Annotated[Correction, Role.LEARNING | Role.STRUCTURE, _ONLY_DAILY] = "es_dfm"
    """`es_dfm`: an open 0 counts with the probability that it stays 0, which a further head learns from days with final labels
    (ES-DFM, AAAI'21). `fnw`: each early row counts as a 0, with the predicted probability of 0 as its weight, and each 1 is added
    (fake negative weighted, RecSys'19). `fnc`: the same rows without weights, and the predictions account for the zeros that are
    none (fake negative calibration, RecSys'19)."""
    cutoff_hours: Annotated[PositiveFloat, Role.LEARNING | Role.READ, _ONLY_DAILY] = 24.0
    """When labels count as arrived: so many hours after 00:00 UTC of the row's day, and before the job starts. 24 is the end of a
    UTC day; where days are those of another time zone, the end of theirs."""


class Arrival(IntFlag):
    """What reading tells the loss of a label beside its value. 0: it is final, and was not trained on before."""

    OPEN = 1
    """It is the label at the cutoff: a 0 may still turn into a 1."""
    KNOWN = 2
    """It was 0 at the cutoff, and its final value is known."""
    CAME = 4
    """It turned into 1 after the cutoff; always with `KNOWN`."""
    TRAINED = 8
    """Its row was trained on early, so that only `CAME` adds something."""
    TWICE = 16
    """If it came late, it counts twice: for itself, and for one of today's that is still to come."""
