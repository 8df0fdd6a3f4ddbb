"""Metrics of count and real tasks, in the label's own unit.

Shapes: B rows, T tasks of these kinds, S scenarios (1 without a scenario column), M bins.
"""

from typing import Any

import torch
from torch import Tensor

from raymtl.config.tasks import Task
from raymtl.objectives.link import predict
from raymtl.objectives.metrics import bins
from raymtl.objectives.metrics.curves import reliability
from raymtl.objectives.metrics.intervals import ratio_effects
from raymtl.objectives.metrics.non_finite import non_finite_reason
from raymtl.objectives.tasks import objective_of

_ROWS, _WEIGHT, _LABEL, _PREDICTED, _ABS_LABEL, _SQUARE, _ABS, _SMAPE, _DEVIANCE, _BROKEN = range(10)
_TRUTH_ROWS, _TRUTH_SQUARE, _TRUTH_ABS, _TRUTH_DEVIANCE = range(10, 14)
_LABEL_SQUARE, _ZERO_DEVIANCE = range(14, 16)
_SUMS = 16


class ValueMetrics:
    """Counters of T count or real tasks over S scenarios: sums [S, T, 16] and curves [T, 3, bins.COARSE], all float64.

    A curve keeps, per bin of the logit, the sums of weight · prediction, weight · label and weight.
    """

    def __init__(self, tasks: dict[str, Task], scenarios: int, device: torch.device) -> None:
        self.tasks = tasks
        self.scenarios = scenarios
        self.sums = torch.zeros(scenarios, len(tasks), _SUMS, dtype=torch.float64, device=device)
        self.curves = torch.zeros(len(tasks), 3, bins.COARSE, dtype=torch.float64, device=device)

    def state(self) -> dict[str, Tensor]:
        """The counters by name, not copied; all are additive over workers."""
        return {"sums": self.sums, "curves": self.curves}

    def update(
        self, logits: Tensor, labels: Tensor, counted: Tensor, weight: Tensor, scenario: Tensor, truth: Tensor | None
    ) -> None:
        """Add rows: logits and labels [B, T] fp32, counted [B, T] bool (the label counts), weight [B, T]
        or [B, 1] fp64, scenario [B]."""
        weight = weight.expand(-1, len(self.tasks))
        for t, task in enumerate(self.tasks.values()):
            sums = _row_sums(logits[:, t], labels[:, t], counted[:, t], weight[:, t], task)
            used, kind = sums[:, _ROWS] > 0, objective_of(task)
            if truth is not None and task.truth is not None:
                known = used & truth[:, t].isfinite()
                best = truth[:, t].double().masked_fill(~known, 1.0)
                y, w = labels[:, t].double().masked_fill(~known, 0.0), sums[:, _WEIGHT] * known
                sums[:, _TRUTH_ROWS] = known
                sums[:, _TRUTH_SQUARE] = w * (best - y).square()
                sums[:, _TRUTH_ABS] = w * (best - y).abs()
                if kind.kind.deviance is not None:
                    sums[:, _TRUTH_DEVIANCE] = w * kind.truth_deviance(best, y)
            self.sums[:, t].index_add_(0, scenario, sums)
            slot = bins.slots(bins.keys(logits[:, t].masked_fill(~used, 0.0)), levels=1)[0].long()
            for curve, column in zip(self.curves[t], (_PREDICTED, _LABEL, _WEIGHT), strict=True):
                curve.scatter_add_(0, slot, sums[:, column])

    def compute(self) -> tuple[dict[str, dict[str, Any]], list[dict[str, dict[str, Any]]]]:
        """Metrics of every task over all rows, with its calibration curve, and the same per scenario without curves."""
        overall: dict[str, dict[str, Any]] = {}
        parts: list[dict[str, dict[str, Any]]] = [{} for _ in range(self.scenarios)]
        for t, (name, task) in enumerate(self.tasks.items()):
            overall[name] = _report(self.sums[:, t].sum(dim=0).tolist(), task)
            overall[name]["calibration_curve"] = reliability(*self.curves[t].unbind())
            for s, sums in enumerate(self.sums[:, t].tolist()):
                parts[s][name] = _report(sums, task)
        return overall, parts


def _row_sums(logits: Tensor, labels: Tensor, counted: Tensor, weight: Tensor, task: Task) -> Tensor:
    """What rows [B] of one task add to the sums, without the truth, [B, 16]."""
    finite = logits.isfinite()
    used = counted & finite
    x = logits.masked_fill(~used, 0.0)
    y = labels.double().masked_fill(~used, 0.0)
    w = weight * used
    p = predict(x.double(), task)
    sums = torch.zeros(len(x), _SUMS, dtype=torch.float64, device=x.device)
    sums[:, _ROWS] = used
    sums[:, _WEIGHT] = w
    sums[:, _LABEL] = w * y
    sums[:, _PREDICTED] = w * p
    sums[:, _ABS_LABEL] = w * y.abs()
    sums[:, _LABEL_SQUARE] = w * y.square()
    sums[:, _SQUARE] = w * (p - y).square()
    sums[:, _ABS] = w * (p - y).abs()
    sums[:, _SMAPE] = w * _smape(p, y)
    sums[:, _BROKEN] = counted & ~finite
    if task.traits.deviance is not None:
        kind = objective_of(task)
        sums[:, _DEVIANCE] = w * kind.deviance(x.double(), y)
        sums[:, _ZERO_DEVIANCE] = w * kind.deviance(torch.zeros_like(y), y)
    return sums


def value_sums(logits: Tensor, labels: Tensor, weight: Tensor, task: Task) -> Tensor:
    """What rows [N] of one task, all with finite logits and observed labels, add to the sums, [N, 16]."""
    return _row_sums(logits, labels, torch.ones_like(logits, dtype=torch.bool), weight.double(), task)


def value_effects(sums: Tensor, task: Task) -> dict[str, Tensor]:
    """The effects of groups on every metric (`intervals.py`), from the sums [G, 16] of each group."""
    ratios = {name: (column, _WEIGHT) for name, column in (("mse", _SQUARE), ("mae", _ABS), ("smape", _SMAPE))}
    ratios |= {"nmae": (_ABS, _ABS_LABEL), "calibration": (_PREDICTED, _LABEL)}
    if task.traits.deviance is not None:
        ratios[task.traits.deviance] = (_DEVIANCE, _WEIGHT)
    effects = {name: ratio_effects(sums[:, above], sums[:, below]) for name, (above, below) in ratios.items()}
    rmse = (sums[:, _SQUARE].sum() / sums[:, _WEIGHT].sum()).sqrt()
    return effects | {"rmse": effects["mse"] / (2 * rmse)}


def _smape(p: Tensor, y: Tensor) -> Tensor:
    """2·|p − y| / (|p| + |y|), between 0 and 2; 0 where both are 0."""
    return 2 * (p - y).abs() / (p.abs() + y.abs()).clamp(min=torch.finfo(torch.float64).tiny)


def _report(sums: list[float], task: Task) -> dict[str, Any]:
    rows, weight, broken = sums[_ROWS], sums[_WEIGHT], sums[_BROKEN]
    reason = "no observed labels" if rows == 0 else None
    if broken:
        reason = non_finite_reason(int(broken), int(rows))
    some = reason is None

    def mean(column: int, known: bool = some) -> float | None:
        return sums[column] / weight if known and weight > 0 else None

    mse = mean(_SQUARE)
    report: dict[str, Any] = {"kind": task.kind}
    if task.traits.deviance is not None:
        report[task.traits.deviance] = mean(_DEVIANCE)
    report |= {
        "mse": mse,
        "rmse": None if mse is None else mse**0.5,
        "mae": mean(_ABS),
        "nmae": sums[_ABS] / sums[_ABS_LABEL] if some and sums[_ABS_LABEL] > 0 else None,
        "smape": mean(_SMAPE),
        "calibration": sums[_PREDICTED] / sums[_LABEL] if some and sums[_LABEL] != 0 else None,
        "count": int(rows),
        "mean_label": mean(_LABEL, rows > 0),
        "mean_prediction": mean(_PREDICTED),
        "null_reason": reason,
    }
    center, square, at_zero = (mean(column, rows > 0) for column in (_LABEL, _LABEL_SQUARE, _ZERO_DEVIANCE))
    report["constant_mse"] = None if center is None or square is None else max(0.0, square - center**2)
    if task.traits.deviance is not None:
        known = center is not None and at_zero is not None
        constant = objective_of(task).constant_deviance(center or 0.0, at_zero or 0.0) if known else None
        report[f"constant_{task.traits.deviance}"] = constant
    if some and report["calibration"] is None:
        report["null_reason"] = f"the {int(rows):,} observed labels sum to 0"
    if task.truth is not None:
        same = some and sums[_TRUTH_ROWS] == rows
        if task.traits.deviance is not None:
            report[f"truth_{task.traits.deviance}"] = mean(_TRUTH_DEVIANCE, same)
        report["truth_mse"] = mean(_TRUTH_SQUARE, same)
        report["truth_mae"] = mean(_TRUTH_ABS, same)
        report["truth_count"] = int(sums[_TRUTH_ROWS])
    return report
