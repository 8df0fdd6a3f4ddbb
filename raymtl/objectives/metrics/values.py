"""Metrics of the tasks that are not binary, from additive sums: quantities in the label's own unit, and classes.

Shapes: B rows, T tasks of these kinds, S scenarios (1 without a scenario column), M bins, n terms of all tasks
(`TaskObjective.terms`), m of them metrics (`TaskKind.own`).
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from raymtl.config.task_kinds import Values
from raymtl.config.tasks import Task
from raymtl.objectives.metrics import bins
from raymtl.objectives.metrics.curves import reliability
from raymtl.objectives.metrics.intervals import ratio_effects
from raymtl.objectives.metrics.non_finite import non_finite_reason
from raymtl.objectives.tasks import TaskObjective, objective_of

_ROWS, _WEIGHT, _LABEL, _PREDICTED, _ABS_LABEL, _SQUARE, _ABS, _SMAPE, _MAPE, _MAPE_WEIGHT = range(10)
_BROKEN, _LABEL_SQUARE, _TRUTH_ROWS, _TRUTH_SQUARE, _TRUTH_ABS = range(10, 15)
_SUMS = 15


class ValueMetrics:
    """Counters of T tasks over S scenarios: sums [S, T, 15], terms [S, n], those of the truth [S, m], and curves
    [T, 3, bins.COARSE], all float64.

    A curve keeps, per bin of the score, the sums of weight · prediction, weight · label and weight.
    """

    def __init__(self, tasks: dict[str, Task], scenarios: int, device: torch.device) -> None:
        self.tasks = tasks
        self.scenarios = scenarios
        self._objectives = [objective_of(task) for task in tasks.values()]
        made = {"dtype": torch.float64, "device": device}
        empty = torch.empty(0, dtype=torch.float64)
        self._terms = _slices([len(kind.terms(_no_rows(kind), empty).T) for kind in self._objectives])
        self._own = _slices([len(kind.kind.own) for kind in self._objectives])
        self.sums = torch.zeros(scenarios, len(tasks), _SUMS, **made)
        self.terms = torch.zeros(scenarios, self._terms[-1].stop if tasks else 0, **made)
        self.truths = torch.zeros(scenarios, self.own, **made)
        self.curves = torch.zeros(len(tasks), 3, bins.COARSE, **made)

    @property
    def own(self) -> int:
        """m, the metrics of all tasks that are means of terms."""
        return self._own[-1].stop if self.tasks else 0

    def own_of(self, column: int) -> slice:
        """Those of one task among them."""
        return self._own[column]

    def state(self) -> dict[str, Tensor]:
        """The counters by name, not copied; all are additive over workers."""
        return {"sums": self.sums, "terms": self.terms, "truths": self.truths, "curves": self.curves}

    def update(
        self,
        outputs: Sequence[Tensor],
        scores: Tensor,
        labels: Tensor,
        counted: Tensor,
        weight: Tensor,
        scenario: Tensor,
        truth: Tensor | None,
    ) -> Tensor:
        """Add rows, and return their own metrics [B, m] fp32, anything where a label does not count.

        `outputs` of each task [B] or [B, k], their scores and labels [B, T] fp32, counted [B, T] bool (the label counts), weight
        [B] fp64, scenario [B].
        """
        found = []
        for t, (task, kind) in enumerate(zip(self.tasks.values(), self._objectives, strict=True)):
            sums = _row_sums(scores[:, t], labels[:, t], counted[:, t], weight, kind)
            used, w = sums[:, _ROWS] > 0, sums[:, _WEIGHT]
            y = labels[:, t].double().masked_fill(~used, 0.0)
            mask = used if kind.outputs == 1 else used.unsqueeze(1)
            terms = kind.terms(outputs[t].double().masked_fill(~mask, 0.0), y)
            found.append(terms[:, : len(kind.kind.own)].float())
            self.terms[:, self._terms[t]].index_add_(0, scenario, w.unsqueeze(1) * terms)
            if truth is not None and task.truth is not None:
                self._add_truth(t, sums, truth[:, t].double(), y, scenario)
            self.sums[:, t].index_add_(0, scenario, sums)
            slot = bins.slots(bins.keys(scores[:, t].masked_fill(~used, 0.0)), levels=1)[0].long()
            for curve, column in zip(self.curves[t], (_PREDICTED, _LABEL, _WEIGHT), strict=True):
                curve.scatter_add_(0, slot, sums[:, column])
        return torch.cat(found, 1)

    def _add_truth(self, t: int, sums: Tensor, truth: Tensor, y: Tensor, scenario: Tensor) -> None:
        known = (sums[:, _ROWS] > 0) & truth.isfinite()
        best, w = truth.masked_fill(~known, 1.0), sums[:, _WEIGHT] * known
        sums[:, _TRUTH_ROWS] = known
        sums[:, _TRUTH_SQUARE] = w * (best - y).square()
        sums[:, _TRUTH_ABS] = w * (best - y).abs()
        if (terms := self._objectives[t].truth_terms(best, y)) is not None:
            self.truths[:, self._own[t]].index_add_(0, scenario, w.unsqueeze(1) * terms)

    def compute(self) -> tuple[dict[str, dict[str, Any]], list[dict[str, dict[str, Any]]]]:
        """Metrics of every task over all rows, with its calibration curve, and the same per scenario without curves."""
        overall: dict[str, dict[str, Any]] = {}
        parts: list[dict[str, dict[str, Any]]] = [{} for _ in range(self.scenarios)]
        for t, name in enumerate(self.tasks):
            counters = self.sums[:, t], self.terms[:, self._terms[t]], self.truths[:, self._own[t]]
            overall[name] = self._report(t, *(counter.sum(dim=0).tolist() for counter in counters))
            if "calibration" in overall[name]:
                overall[name]["calibration_curve"] = reliability(*self.curves[t].unbind())
            for s in range(self.scenarios):
                parts[s][name] = self._report(t, *(counter[s].tolist() for counter in counters))
        return overall, parts

    def _report(self, t: int, sums: list[float], terms: list[float], truths: list[float]) -> dict[str, Any]:
        task, kind = list(self.tasks.values())[t], self._objectives[t]
        rows, weight, broken = sums[_ROWS], sums[_WEIGHT], sums[_BROKEN]
        own = kind.kind.own
        reason = "no observed labels" if rows == 0 else None
        if broken:
            reason = non_finite_reason(int(broken), int(rows))
        some = reason is None
        report: dict[str, Any] = {"kind": task.kind}
        report |= {name: terms[i] / weight if some else None for i, name in enumerate(own)}
        if issubclass(kind.kind, Values):
            report |= _errors(sums, some)
        report |= {"count": int(rows), "null_reason": reason}
        details = kind.details([term / weight for term in terms], sums[_LABEL] / weight) if rows > 0 else {}
        report |= details
        if some and report.get("calibration", 0.0) is None:
            report["null_reason"] = f"the {int(rows):,} observed labels sum to 0"
        if task.truth is not None:
            same = some and sums[_TRUTH_ROWS] == rows
            values = dict(zip(own, truths, strict=True)) if kind.truth_terms(_NOTHING, _NOTHING) is not None else {}
            values |= {"mse": sums[_TRUTH_SQUARE], "mae": sums[_TRUTH_ABS]}
            report |= {f"truth_{name}": value / weight if same else None for name, value in values.items()}
            report["truth_count"] = int(sums[_TRUTH_ROWS])
        return {name: value for name, value in report.items() if name not in kind.kind.without}


_NOTHING = torch.empty(0, dtype=torch.float64)


def _no_rows(kind: TaskObjective) -> Tensor:
    return torch.empty((0,) if kind.outputs == 1 else (0, kind.outputs), dtype=torch.float64)


def _slices(sizes: Sequence[int]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]


def _row_sums(scores: Tensor, labels: Tensor, counted: Tensor, weight: Tensor, kind: TaskObjective) -> Tensor:
    """What rows [B] of one task add to the sums, without the truth, [B, 15]."""
    finite = scores.isfinite()
    used = counted & finite
    x = scores.masked_fill(~used, 0.0)
    y = labels.double().masked_fill(~used, 0.0)
    w = weight * used
    p = kind.predict(x.double())
    error = (p - y).abs()
    sums = torch.zeros(len(x), _SUMS, dtype=torch.float64, device=x.device)
    sums[:, _ROWS] = used
    sums[:, _WEIGHT] = w
    sums[:, _LABEL] = w * y
    sums[:, _PREDICTED] = w * p
    sums[:, _ABS_LABEL] = w * y.abs()
    sums[:, _LABEL_SQUARE] = w * y.square()
    sums[:, _SQUARE] = w * (p - y).square()
    sums[:, _ABS] = w * error
    sums[:, _SMAPE] = w * _smape(p, y)
    sums[:, _MAPE] = torch.where(y != 0, w * error / y.abs(), 0.0)
    sums[:, _MAPE_WEIGHT] = w * (y != 0)
    sums[:, _BROKEN] = counted & ~finite
    return sums


def value_sums(scores: Tensor, labels: Tensor, weight: Tensor, kind: TaskObjective) -> Tensor:
    """What rows [N] of one task, all with finite scores and observed labels, add to the sums, [N, 15]."""
    return _row_sums(scores, labels, torch.ones_like(scores, dtype=torch.bool), weight.double(), kind)


def value_effects(sums: Tensor) -> dict[str, Tensor]:
    """The effects of groups on the errors (`intervals.py`), from the sums [G, 15] of each group."""
    ratios = {name: (column, _WEIGHT) for name, column in (("mse", _SQUARE), ("mae", _ABS), ("smape", _SMAPE))}
    ratios |= {"nmae": (_ABS, _ABS_LABEL), "mape": (_MAPE, _MAPE_WEIGHT), "calibration": (_PREDICTED, _LABEL)}
    effects = {name: ratio_effects(sums[:, above], sums[:, below]) for name, (above, below) in ratios.items()}
    rmse = (sums[:, _SQUARE].sum() / sums[:, _WEIGHT].sum()).sqrt()
    return effects | {"rmse": effects["mse"] / (2 * rmse)}


def _smape(p: Tensor, y: Tensor) -> Tensor:
    """2·|p − y| / (|p| + |y|), between 0 and 2; 0 where both are 0."""
    return 2 * (p - y).abs() / (p.abs() + y.abs()).clamp(min=torch.finfo(torch.float64).tiny)


def _errors(sums: list[float], some: bool) -> dict[str, Any]:
    """The metrics of quantities; None where `some` is false: no label, or a prediction that is not finite."""

    def ratio(above: int, below: int, known: bool = some) -> float | None:
        return sums[above] / sums[below] if known and sums[below] != 0 else None

    mse = ratio(_SQUARE, _WEIGHT)
    center, square = ratio(_LABEL, _WEIGHT, True), ratio(_LABEL_SQUARE, _WEIGHT, True)
    return {
        "mse": mse,
        "rmse": None if mse is None else mse**0.5,
        "mae": ratio(_ABS, _WEIGHT),
        "nmae": ratio(_ABS, _ABS_LABEL),
        "mape": ratio(_MAPE, _MAPE_WEIGHT),
        "smape": ratio(_SMAPE, _WEIGHT),
        "calibration": ratio(_PREDICTED, _LABEL),
        "mean_label": center,
        "mean_prediction": ratio(_PREDICTED, _WEIGHT),
        "constant_mse": None if center is None or square is None else max(0.0, square - center**2),
    }
