"""Whether a value that looks wrong is further off than chance allows: reports mark only those."""

import math
from collections.abc import Mapping
from typing import Any

from raymtl.config.metrics import Metric
from raymtl.config.task_kinds import Binary, find_kind

ERRORS = 3.0
"""Standard errors that chance allows: a page shows dozens of values, and two would mark some of them by chance."""
LEGEND = (
    "Amber: a calibration more than 10 % off, an AUC below 0.5, or an error above that of a constant prediction, by more than "
    "three standard errors."
)


def interval_of(report: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric of a task; None: there is none."""
    found = (report.get("intervals") or {}).get(metric)
    return (found[0], found[1]) if found else None


def is_odd(metric: Metric, report: dict[str, Any]) -> bool:
    """Whether the metric of a task is suspicious: far from its target, or worse than a random model, by more than chance."""
    value = report.get(metric.name)
    expected = metric.target if metric.target is not None else metric.chance
    if value is None or expected is None or not metric.is_odd(value):
        return False
    if interval := interval_of(report, metric.name):
        return _is_outside(expected, metric, value, interval)
    error = _standard_error(metric, report)
    return error is None or abs(value - expected) > ERRORS * error


def is_above_constant(metric: Metric, report: dict[str, Any]) -> bool:
    """Whether the error of a task is above that of a constant prediction by more than chance; not without an interval."""
    value, constant = report.get(metric.name), report.get(f"constant_{metric.name}")
    interval = interval_of(report, metric.name)
    if value is None or constant is None or interval is None:
        return False
    return value > constant and _is_outside(constant, metric, value, interval)


def _is_outside(expected: float, metric: Metric, value: float, interval: tuple[float, float]) -> bool:
    """Whether an expected value lies outside a 95 % interval that is widened on the scale on which it is symmetric."""

    def scaled(number: float) -> float:  # the scales of objectives.metrics.intervals.interval
        if not metric.is_bounded and value <= 0:
            return number
        if metric.is_bounded:
            number = number / (1 - number) if number < 1 else math.inf
        return math.log(number) if number > 0 else -math.inf

    centre = scaled(value)
    # the ends of the interval are 1.96 standard errors from the value
    low, high = (centre + ERRORS / 1.96 * (scaled(end) - centre) for end in interval)
    return not low <= scaled(expected) <= high


def _standard_error(metric: Metric, report: dict[str, Any]) -> float | None:
    """That of the metric if the model is right, or random, with independent rows; None if the counts do not tell."""
    rows, binary = report.get("count"), issubclass(find_kind(report.get("kind")), Binary)
    if not rows:
        return None
    if metric.name == "auc":  # Hanley & McNeil, Radiology 143 (1982), for an AUC of one half
        positives = report.get("positives") or 0
        pairs = positives * (rows - positives)
        return math.sqrt((rows + 1) / (12 * pairs)) if pairs > 0 else None
    if metric.name == "calibration":
        label, prediction = report.get("mean_label"), report.get("mean_prediction")
        if not label or prediction is None:
            return None
        squared = report.get("mse")
        if binary:
            squared = prediction * (1 - prediction)  # at least the mean of p·(1 − p)
        return None if squared is None or squared < 0 else math.sqrt(squared / rows) / abs(label)
    return None
