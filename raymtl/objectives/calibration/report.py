"""What recalibration changes, on rows that it was not fitted to: calibration error and log loss without and with it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.objectives.calibration.counts import ScoreCounts
from raymtl.objectives.metrics import bins
from raymtl.objectives.metrics.calibration_error import calibration_error, chance_error


def report_calibration(
    before: ScoreCounts, outputs: Sequence[str], scenarios: Sequence[str], metrics: dict[str, Any]
) -> dict[str, Any]:
    """By output: `calibration_error`, `logloss` and `calibration` of the model's own predictions (`before`) and of the calibrated
    ones (`after`), the error that chance alone would make (`chance`), the same by scenario, and `scenario_error`.

    Args:
        before: the model's own logits, [len(outputs), S] histograms over all workers.
        outputs: names of the outputs.
        scenarios: names of the scenarios; empty without.
        metrics: what `EvalMetrics.compute` returned for the calibrated predictions of the same rows.

    `scenario_error` is the mean error of the scenarios by their weight, [before, after, chance]: it sees errors of opposite signs
    that cancel in the error over all rows.
    """
    found: dict[str, Any] = {}
    for u, name in enumerate(outputs):
        weights, squares = before.weights[u], before.squares[u]
        own = _entry(weights.sum(0), squares.sum(0), metrics["tasks"][name])
        parts = {
            scenario: _entry(weights[s], squares[s], metrics["scenarios"][scenario][name])
            for s, scenario in enumerate(scenarios)
        }
        masses = weights.sum((1, 2)).tolist()
        own["scenario_error"] = _mean(list(parts.values()) if parts else [own], masses)
        found[name] = own | ({"scenarios": parts} if parts else {})
    return found


def _entry(weights: Tensor, squares: Tensor, after: dict[str, Any]) -> dict[str, Any]:
    """The numbers of histograms [2, M] with squared weights [2]."""
    names = ("calibration_error", "logloss", "calibration")
    return {
        "before": _measured(weights),
        "after": {name: after[name] for name in names},
        "chance": chance_error(weights, squares),
    }


def _measured(weights: Tensor) -> dict[str, float | None]:
    negatives, positives = weights
    total, hits = weights.sum(), positives.sum()
    if total <= 0:
        return {"calibration_error": None, "logloss": None, "calibration": None}
    a = bins.centres(weights.device)
    loss = negatives @ F.softplus(a) + positives @ F.softplus(-a)
    predicted = (negatives + positives) @ torch.sigmoid(a)
    return {
        "calibration_error": calibration_error(weights),
        "logloss": float(loss / total),
        "calibration": float(predicted / hits) if hits > 0 else None,
    }


def _mean(parts: list[dict[str, Any]], masses: list[float]) -> dict[str, float | None]:
    """The weighted means of the errors before and after, and of what chance makes; None where one is undefined."""
    pairs = [(part, mass) for part, mass in zip(parts, masses, strict=False) if mass > 0]
    if not pairs or any(part["after"]["calibration_error"] is None for part, _ in pairs):
        return {"before": None, "after": None, "chance": None}
    total = sum(mass for _, mass in pairs)

    def mean(values: list[float]) -> float:
        return sum(value * mass for value, (_, mass) in zip(values, pairs, strict=True)) / total

    return {
        "before": mean([part["before"]["calibration_error"] for part, _ in pairs]),
        "after": mean([part["after"]["calibration_error"] for part, _ in pairs]),
        "chance": mean([part["chance"] for part, _ in pairs]),
    }
