"""The gate: whether a candidate may take the place of the version before, judged on rows that neither was trained on.

A check passes, fails, or is not judged for a reason that its note gives; one that fails refuses the candidate. A judged value
that is not finite fails.
"""

import math
from typing import Any

from raymtl.config.daily import Gate
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.daily.record import Check, GateResult
from raymtl.objectives.metrics.broken import is_broken

Metrics = dict[str, Any]

_LABELS_PER_POSITIVE = 10
"""Labels of a count or real task that are worth one positive of a binary one: squared errors hang on few large values."""


def evaluate_gate(
    config: Config,
    base: Metrics | None,
    candidate: Metrics,
    norms: dict[str, tuple[float | None, float]],
    not_finite: dict[str, int],
    holdout_rows: int,
) -> GateResult:
    """Compare a candidate with the version before on the held-out rows.

    Args:
        config: with `daily.gate`.
        base: metrics of the version before, as `metrics` of `result.json`; None: there is none, and only AUC above 0.5,
            calibration and finite numbers are asked for.
        candidate: the candidate's, on the same rows.
        norms: root mean square of each table's weights before (None: the table is new) and after.
        not_finite: NaN and infinite numbers in each table and dense weight of the candidate.
        holdout_rows: rows that both were scored on.
    """
    assert config.daily is not None
    gate = config.daily.gate
    checks: list[Check] = []
    for name, task in config.active_tasks().items():
        checks += _task(gate, name, task, (base or {}).get("eval", {}).get(name), candidate["eval"].get(name))
    judged = any(check.passed is not None for check in checks)
    if base is not None:
        checks += _order(gate, base.get("order_violation_rate"), candidate.get("order_violation_rate"))
    checks += _weights(not_finite)
    for table, (before, after) in norms.items():
        checks += _norm(gate, table, before, after, first=base is None)
    if not judged:
        note = f"no task could be judged on {holdout_rows:,} held-out rows, so nothing speaks against the candidate"
        checks.append(_not_judged(None, "held-out rows", None, float(holdout_rows), note))
    passed = all(check.passed is not False for check in checks)
    return GateResult(passed=passed, checks=checks, holdout_rows=holdout_rows, base=base, candidate=candidate)


def summary(result: GateResult) -> str:
    """One sentence: what failed, with its numbers, or that nothing did."""
    failed = [_words(check) for check in result.checks if check.passed is False]
    if failed:
        return f"the gate refuses the candidate: {'; '.join(failed)}"
    judged = sum(check.passed is not None for check in result.checks)
    return (
        f"the gate lets the candidate pass: {judged} checks passed, {len(result.checks) - judged} could not be judged"
    )


def _words(check: Check) -> str:
    subject = f"tasks.{check.task} {check.what}" if check.task else check.what
    if check.what == "not finite":
        return f"{subject}: {check.note}"
    before = "" if check.base is None else f", before {check.base:.4g}"
    return f"{subject} is {check.candidate:.4g} (allowed {check.limit}{before})"


def _task(gate: Gate, name: str, task: Task, base: Metrics | None, candidate: Metrics | None) -> list[Check]:
    quality = {"binary": ("auc", "ne"), "count": ("poisson_deviance",), "real": ("mse",)}[task.kind]
    names = (*quality, "calibration")
    if candidate is None:
        return [_not_judged(name, what, None, None, "it has no held-out labels") for what in names]
    if is_broken(reason := candidate["null_reason"]):
        return [Check(task=name, what="not finite", base=None, candidate=None, limit="0", passed=False, note=reason)]
    if few := _few(gate, task, candidate):
        return [_not_judged(name, what, _get(base, what), _get(candidate, what), few) for what in names]
    checks = [_quality(gate, name, what, base, candidate) for what in quality]
    return [*[c for c in checks if c is not None], _calibration(gate, name, task, base, candidate)]


def _few(gate: Gate, task: Task, metrics: Metrics) -> str | None:
    """Why the labels are too few to judge by."""
    count, least = metrics["count"], gate.min_positives
    if task.kind != "binary":
        wanted = _LABELS_PER_POSITIVE * least
        few = [f"{count:,} held-out labels, fewer than {_LABELS_PER_POSITIVE} times"] if count < wanted else []
    else:
        sides = {"positives": metrics["positives"], "negatives": count - metrics["positives"]}
        few = [f"{n:,} {side} among {count:,} held-out labels, fewer than" for side, n in sides.items() if n < least]
    return f"{few[0]} daily.gate.min_positives ({least:,})" if few else None


def _quality(gate: Gate, name: str, what: str, base: Metrics | None, candidate: Metrics) -> Check | None:
    """AUC, NE, MSE or Poisson deviance; None where there is nothing to compare with."""
    before, after = _get(base, what), _get(candidate, what)
    if base is None and what != "auc":
        return None
    if after is None:
        return _not_judged(name, what, before, after, candidate.get("null_reason") or "the metric is null")
    if base is None:
        return _judged(name, what, None, after, "> 0.5", after > 0.5)
    if before is None or not math.isfinite(before):
        note = base.get("null_reason") or "the metric is not finite"
        return _not_judged(name, what, before, after, f"the version before: {note}")
    if what == "auc":
        return _judged(name, what, before, after, f"≥ {before - gate.auc_drop:.4g}", after >= before - gate.auc_drop)
    most = before * (1 + gate.ne_rise)
    return _judged(name, what, before, after, f"≤ {most:.4g}", after <= most)


def _calibration(gate: Gate, name: str, task: Task, base: Metrics | None, candidate: Metrics) -> Check:
    what, (low, high) = "calibration", gate.calibration
    before, after = _get(base, what), _get(candidate, what)
    if after is None:
        return _not_judged(name, what, before, after, candidate.get("null_reason") or "the metric is null")
    if task.transform == "log1p":
        note = "a task trained on log(1 + y) predicts about the median, whose sum is below that of the labels"
        return _not_judged(name, what, before, after, note)
    if task.kind == "real" and _cancel(candidate):
        return _not_judged(name, what, before, after, "labels of both signs cancel each other in the sum")
    nearer = before is not None and _far(after) < _far(before)
    limit = f"{low:.4g} to {high:.4g}, or nearer to 1 than before" if base else f"{low:.4g} to {high:.4g}"
    return _judged(name, what, before, after, limit, low <= after <= high or nearer)


def _cancel(metrics: Metrics) -> bool:
    """Whether the labels sum to less than half of what their sizes sum to."""
    mae, nmae, mean = metrics["mae"], metrics["nmae"], metrics["mean_label"]
    return bool(nmae) and abs(mean) < 0.5 * mae / nmae


def _far(calibration: float) -> float:
    """Distance to 1 as a ratio: 0.5 is as far as 2."""
    return abs(math.log(calibration)) if 0 < calibration < math.inf else math.inf


def _order(gate: Gate, base: Metrics | None, candidate: Metrics | None) -> list[Check]:
    if candidate is None:  # no funnel, or no rows
        return []
    after = candidate["overall"]
    if base is None:
        return [_not_judged(None, "order", None, after, "the version before has no funnel")]
    before = base["overall"]
    most = before + gate.order_rise
    return [_judged(None, "order", before, after, f"≤ {most:.4g}", after <= most)]


def _weights(not_finite: dict[str, int]) -> list[Check]:
    found = {name: count for name, count in not_finite.items() if count}
    failed = [
        Check(
            task=None, what="not finite", base=None, candidate=count, limit="0", passed=False,
            note=f"{count:,} numbers of `{name}` are NaN or infinite",
        )
        for name, count in found.items()
    ]  # fmt: skip
    if failed or not not_finite:
        return failed
    return [_judged(None, "not finite", None, 0.0, "0", True)]


def _norm(gate: Gate, table: str, before: float | None, after: float, first: bool) -> list[Check]:
    what = f"norm {table}"
    if not math.isfinite(after):
        return [_judged(None, what, before, after, "a finite number", False)]
    if first:
        return []
    if before is None:
        return [_not_judged(None, what, before, after, "the version before does not have the table")]
    if before == 0 or not math.isfinite(before):
        return [_not_judged(None, what, before, after, "the weights before were all 0, or not finite")]
    low, high = before / gate.norm_growth, before * gate.norm_growth
    return [_judged(None, what, before, after, f"{low:.4g} to {high:.4g}", low <= after <= high)]


def _get(metrics: Metrics | None, what: str) -> float | None:
    return None if metrics is None else metrics.get(what)


def _judged(task: str | None, what: str, base: float | None, candidate: float, limit: str, passed: bool) -> Check:
    return Check(
        task=task, what=what, base=base, candidate=candidate, limit=limit, passed=passed and math.isfinite(candidate)
    )


def _not_judged(task: str | None, what: str, base: float | None, candidate: float | None, note: str) -> Check:
    return Check(task=task, what=what, base=base, candidate=candidate, limit="", passed=None, note=note)
