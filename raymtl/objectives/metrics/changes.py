"""95 % confidence intervals of the changes of metrics between two evaluations of the same rows.

A driver compares two evaluations, so this module does without torch; `intervals` has the theory and the effects of the groups.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

MIN_GROUPS = 20
"""With fewer groups there is no interval: the variance would be a guess."""

EFFECTS = "score."
"""Before the name of a formula of `score` where effects and changes have the names of tasks."""

_Z = 1.959963984540054  # 97.5 % of a standard normal distribution lies below

Interval = tuple[float, float]
Reports = Mapping[str, Mapping[str, Any]]
"""Metrics by task."""
FoldedEffects = Mapping[str, Mapping[str, list[float]]]
"""What `intervals.fold` returned, by task and metric."""


def difference(before: float, after: float, folded_before: list[float], folded_after: list[float]) -> Interval | None:
    """The 95 % interval of `after` − `before`, two values of a metric on the same rows.

    The models agree on most rows, so it is much narrower than the intervals of the two values suggest.
    """
    if not folded_before or not folded_after:
        return None
    effects = np.array(folded_after) - np.array(folded_before)
    used = int(np.count_nonzero((effects != 0) | (np.array(folded_after) != 0)))
    squares = effects**2
    half = half_width(float(squares.sum()), float((squares**2).sum()), used)
    if used < MIN_GROUPS or half is None:
        return None
    return after - before - half, after - before + half


def differences(
    before: Reports, after: Reports, folded_before: FoldedEffects, folded_after: FoldedEffects
) -> dict[str, dict[str, Interval]]:
    """The intervals of the differences of all metrics, by task and metric, between two evaluations of the same rows.

    Args:
        before: reports by task, `tasks` of `EvalMetrics.compute`; `after` likewise.
        folded_before: `group_effects` of the same; `folded_after` likewise.
    """
    found: dict[str, dict[str, Interval]] = {}
    for task, report in after.items():
        old, new = folded_before.get(task, {}), folded_after.get(task, {})
        for metric in old.keys() & new.keys():
            first, second = before.get(task, {}).get(metric), report.get(metric)
            if first is None or second is None:
                continue
            if (change := difference(first, second, old[metric], new[metric])) is not None:
                found.setdefault(task, {})[metric] = change
    return found


def reports_of(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The reports of tasks and of formulas in `metrics` of a result, by the names that effects have."""
    scores = metrics.get("scores") or {}
    return {**metrics.get("eval", {}), **{f"{EFFECTS}{name}": report for name, report in scores.items()}}


def half_width(squares: float, fourth_powers: float, groups: int) -> float | None:
    """Half the width of an interval: standard error times the quantile of t; None if not finite.

    Args:
        squares: sum of the squares of the effects of the groups, which sum to 0.
        fourth_powers: sum of their fourth powers.
        groups: G.

    The variance of s² gives the degrees of freedom: 2 G / (kurtosis − 1), G − 1 at most. If few groups decide the metric (the few
    with a positive, or with a large error), the kurtosis is high, and the interval becomes wider.
    """
    if groups < 2 or not math.isfinite(fourth_powers):
        return None
    if squares == 0 or fourth_powers == 0:
        return 0.0
    kurtosis = groups * fourth_powers / squares**2
    freedom = min(groups - 1.0, 2 * groups / max(kurtosis - 1, 1e-9))
    return _t_quantile(freedom) * math.sqrt(squares * groups / (groups - 1))


def _t_quantile(freedom: float) -> float:
    """97.5 % quantile of Student's t for 2 or more degrees of freedom, to .8 % (Abramowitz & Stegun, 26.7.5)."""
    z, v = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )
