"""Labels that a day is trained on before they are final: which have arrived, which came later.

An early task reads a day twice: on the day itself the labels that arrived by the cutoff (`Counted.early`), and the final ones
once they are known, which also tell how many were in time.
"""

import datetime as dt
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raymtl.config.early_labels import Arrival, EarlyLabels
from raymtl.data.rules import Rule, one_array
from raymtl.data.times import instants

BECAME_1 = Rule("time", "one on the row's day or after it where the label is 1", "write when the label became 1")
_HOUR_US = 3_600_000_000

Broken = Callable[[str, np.ndarray, pa.Array], None]
"""Called with the time column, a mask of its values that break the rule [N] bool, and its values."""


def late_labels(raw: pa.Table, early: EarlyLabels, labels: np.ndarray, day: dt.date, broken: Broken) -> np.ndarray:
    """Which of the final labels [N] float32 turned into 1 after the cutoff of their day, [N] bool.

    A label of 1 without a readable time, or with one more than a day before its own day, is reported.
    """
    column = one_array(raw, early.time, "time")
    times, known = instants(column)
    start = int(np.datetime64(day, "us").astype(np.int64))
    positive = labels == 1
    wrong = positive & (~known | (times < start - 24 * _HOUR_US))
    if wrong.any():
        broken(early.time, wrong, column)
    return positive & ~wrong & (times >= start + round(early.cutoff_hours * _HOUR_US))


def early_columns(labels: np.ndarray, late: np.ndarray, is_early: bool) -> tuple[np.ndarray, np.ndarray]:
    """The label of training [N] float32, and its `Arrival` [N] uint8, from the final label and whether it came late."""
    if is_early:
        return np.where(late, np.float32(0), labels), np.full(len(labels), Arrival.OPEN, np.uint8)
    arrival = np.where(labels == 1, np.where(late, Arrival.LATE, Arrival.IN_TIME), 0)
    return labels, arrival.astype(np.uint8)
