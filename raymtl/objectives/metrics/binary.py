"""Metrics of binary tasks: AUC, log loss, normalised entropy, calibration, and the best that the rows allow.

Shapes: B rows, T binary tasks, S scenarios (1 without a scenario column), M bins.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raymtl.objectives.metrics import bins
from raymtl.objectives.metrics.calibration_error import calibration_error
from raymtl.objectives.metrics.curves import reliability
from raymtl.objectives.metrics.intervals import ratio_effects
from raymtl.objectives.metrics.non_finite import non_finite_reason

_ROWS, _POSITIVES, _WEIGHT, _LABEL, _PREDICTED, _LOSS, _BROKEN, _TRUTH_ROWS, _TRUTH_LOSS = range(9)
_SUMS = 9
_LEAST_TRUTH = 1e-12  # a true probability of 0 or 1 would make the log loss of one mislabelled row infinite


class BinaryMetrics:
    """Counters of T binary tasks over S scenarios: sums [S, T, 9] and score histograms [T, S, 2, M], all float64.

    Float64 holds every count up to 2^53 exactly, and fractional row weights without drift. The histogram of the true
    probabilities, [tasks with a truth, S, 2, bins.COARSE], exists only where a task has a `truth` column.
    """

    def __init__(self, names: list[str], with_truth: list[bool], scenarios: int, device: torch.device) -> None:
        self.names = names
        self.scenarios = scenarios
        self.truth_columns = [i for i, has in enumerate(with_truth) if has]
        make = {"dtype": torch.float64, "device": device}
        self.sums = torch.zeros(scenarios, len(names), _SUMS, **make)
        self.scores = torch.zeros(len(names), scenarios, 2, bins.BINS, **make)
        self.truths = torch.zeros(len(self.truth_columns), scenarios, 2, bins.COARSE, **make)
        # Tensors that index the columns live on the device from the start: made per batch they would be copied per batch.
        self._cells = torch.arange(len(names), device=device) * scenarios
        self._truth_cells = torch.arange(len(self.truth_columns), device=device) * scenarios
        self._truth_index = torch.tensor(self.truth_columns, dtype=torch.int64, device=device)

    def state(self) -> dict[str, Tensor]:
        """The counters by name, not copied; all are additive over workers."""
        return {"sums": self.sums, "scores": self.scores, "truths": self.truths}

    def update(
        self, logits: Tensor, labels: Tensor, counted: Tensor, weight: Tensor, scenario: Tensor, truth: Tensor | None
    ) -> None:
        """Add rows: logits and labels [B, T] fp32, counted [B, T] bool (the label counts), weight [B] fp64, scenario [B]."""
        sums = _row_sums(logits, labels, counted, weight)
        used, positive, w = sums[..., _ROWS] > 0, sums[..., _POSITIVES] > 0, sums[..., _WEIGHT]
        if truth is not None and self.truth_columns:
            self._add_truth(sums, truth, scenario)
        self.sums.index_add_(0, scenario, sums)

        cell = (self._cells + scenario.unsqueeze(1)) * 2 + positive
        for slot in bins.slots(bins.keys(logits.masked_fill(~used, 0.0))):
            self.scores.view(-1).scatter_add_(0, (cell * bins.BINS + slot).reshape(-1), w.reshape(-1))

    def _add_truth(self, sums: Tensor, truth: Tensor, scenario: Tensor) -> None:
        pick = self._truth_index
        truth, seen = truth[:, pick].double(), sums[:, pick]
        known, positive = (seen[..., _ROWS] > 0) & truth.isfinite(), seen[..., _POSITIVES] > 0
        p = truth.masked_fill(~known, 0.5).clamp(_LEAST_TRUTH, 1 - _LEAST_TRUTH)
        w = seen[..., _WEIGHT] * known
        best = torch.logit(p)
        sums[:, pick, _TRUTH_ROWS] = known.double()
        sums[:, pick, _TRUTH_LOSS] = w * F.binary_cross_entropy_with_logits(best, positive.double(), reduction="none")
        slot = bins.slots(bins.keys(best.float()), levels=1)[0]
        cell = (self._truth_cells + scenario.unsqueeze(1)) * 2 + positive
        self.truths.view(-1).scatter_add_(0, (cell * bins.COARSE + slot).reshape(-1), w.reshape(-1))

    def compute(self) -> tuple[dict[str, dict[str, Any]], list[dict[str, dict[str, Any]]]]:
        """Metrics of every task over all rows, with its calibration curve, and the same per scenario without curves."""
        overall: dict[str, dict[str, Any]] = {}
        parts: list[dict[str, dict[str, Any]]] = [{} for _ in range(self.scenarios)]
        for t, name in enumerate(self.names):
            every = self.scores[t].sum(dim=0)
            areas = self._areas(every, self.scores[t])
            best: list[bins.Area | None] = [None] * (self.scenarios + 1)
            if t in self.truth_columns:
                truths = self.truths[self.truth_columns.index(t)]
                best = self._areas(truths.sum(dim=0), truths)
            sums = torch.cat([self.sums[:, t].sum(dim=0, keepdim=True), self.sums[:, t]]).tolist()
            errors = [calibration_error(part[:, : bins.COARSE]) for part in (every, *self.scores[t].unbind())]
            overall[name] = _report(sums[0], areas[0], best[0], errors[0], t in self.truth_columns)
            overall[name]["calibration_curve"] = _curve(every[:, : bins.COARSE])
            for s in range(self.scenarios):
                parts[s][name] = _report(sums[s + 1], areas[s + 1], best[s + 1], errors[s + 1], t in self.truth_columns)
        return overall, parts

    @staticmethod
    def _areas(every: Tensor, parts: Tensor) -> list[bins.Area | None]:
        """AUC over all scenarios and then of each, None where there is none."""
        areas = [bins.auc(part[0], part[1]) for part in (every, *parts.unbind())]
        return [None if area.auc != area.auc else area for area in areas]


def _row_sums(logits: Tensor, labels: Tensor, counted: Tensor, weight: Tensor) -> Tensor:
    """What rows [B, T] add to the sums, without the truth, [B, T, 9]."""
    finite = logits.isfinite()
    used = counted & finite
    x = logits.masked_fill(~used, 0.0)
    y = labels.double().masked_fill(~used, 0.0)
    w = weight.unsqueeze(1) * used
    # Doubles, because 32-bit kernels round the last elements of a batch otherwise than the rest: the sums would depend on
    # how the rows were cut into batches.
    wide = x.double()

    sums = torch.empty(*x.shape, _SUMS, dtype=torch.float64, device=x.device)
    sums[..., _ROWS] = used
    sums[..., _POSITIVES] = y > 0.5
    sums[..., _WEIGHT] = w
    sums[..., _LABEL] = w * y
    sums[..., _PREDICTED] = w * torch.sigmoid(wide)
    sums[..., _LOSS] = w * F.binary_cross_entropy_with_logits(wide, y, reduction="none")
    sums[..., _BROKEN] = counted & ~finite
    sums[..., _TRUTH_ROWS:] = 0.0
    return sums


def binary_sums(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """What rows [N] of one task, all with finite logits and observed labels, add to the sums, [N, 9]."""
    every = torch.ones(len(logits), 1, dtype=torch.bool, device=logits.device)
    return _row_sums(logits.unsqueeze(1), labels.unsqueeze(1), every, weight.double()).squeeze(1)


def binary_effects(sums: Tensor) -> dict[str, Tensor]:
    """The effects of groups on the metrics that are ratios of sums (`intervals.py`), from the sums [G, 9] of each group."""
    weight, label, predicted, loss = (sums[:, column] for column in (_WEIGHT, _LABEL, _PREDICTED, _LOSS))
    logloss = ratio_effects(loss, weight)
    effects = {"logloss": logloss, "calibration": ratio_effects(predicted, label)}
    rate = float(label.sum() / weight.sum())
    if 0 < rate < 1:  # NE divides by the entropy of the mean label, whose derivative is log((1 − rate) / rate)
        entropy, mean_loss = _entropy(rate), float(loss.sum() / weight.sum())
        slope = math.log((1 - rate) / rate)
        effects["ne"] = logloss / entropy - mean_loss * slope / entropy**2 * ratio_effects(label, weight)
    return effects


def _curve(scores: Tensor) -> list[dict[str, float]]:
    """Calibration curve from the histogram [2, COARSE]: buckets share rows and positives alike, half the mass to each."""
    weight, positives = scores.sum(dim=0), scores[1]
    share = weight / weight.sum().clamp(min=1e-300) + positives / positives.sum().clamp(min=1e-300)
    return reliability(weight * torch.sigmoid(bins.centres(scores.device)), positives, weight, mass=share)


def _report(
    sums: list[float], area: bins.Area | None, best: bins.Area | None, error: float | None, has_truth: bool
) -> dict[str, Any]:
    rows, positives, weight, label, predicted, loss, broken, truth_rows, truth_loss = sums
    reason = _why_null(int(rows), int(positives), int(broken))
    entropy = _entropy(label / weight) if weight > 0 else 0.0
    whole = reason is None
    some = rows > 0 and broken == 0
    report: dict[str, Any] = {
        "kind": "binary",
        "auc": area.auc if whole and area else None,
        "auc_error": area.error if whole and area else None,
        "logloss": loss / weight if some else None,
        "ne": loss / weight / entropy if whole and entropy > 0 else None,
        "calibration": predicted / label if some and label > 0 else None,
        "calibration_error": error if some else None,
        "count": int(rows),
        "positives": int(positives),
        "positive_rate": positives / rows if rows else None,
        "mean_label": label / weight if rows else None,
        "mean_prediction": predicted / weight if some else None,
        "null_reason": reason,
    }
    if has_truth:
        # The gap to the best is meaningful only on the same rows.
        same = whole and truth_rows == rows
        report["truth_auc"] = best.auc if same and best else None
        report["truth_logloss"] = truth_loss / weight if some and truth_rows == rows else None
        report["truth_count"] = int(truth_rows)
    return report


def _why_null(rows: int, positives: int, broken: int) -> str | None:
    if broken:
        return non_finite_reason(broken, rows)
    if rows == 0:
        return "no observed labels"
    if positives == 0:
        return f"no positives among {rows:,} observed labels"
    if positives == rows:
        return f"no negatives among {rows:,} observed labels"
    return None


def _entropy(rate: float) -> float:
    p = torch.tensor([rate, 1 - rate], dtype=torch.float64)
    return float(-torch.special.xlogy(p, p).sum())
