"""The gate: whether a candidate may replace the previous version, judged on rows that neither was trained on.

A check passes, fails, or is not judged, for the reason in its note; one that fails refuses the candidate. A judged value that is
not finite fails. Every check is an entry of `CHECKS`, or of `TASK_CHECKS` if it judges each task separately.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from raymtl.config.daily import Gate
from raymtl.config.metrics import METRICS, Metric, metrics_of_kind
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.daily.record import Check, GateResult
from raymtl.objectives.metrics.changes import EFFECTS, MIN_GROUPS, Interval
from raymtl.objectives.metrics.non_finite import is_non_finite
from raymtl.words import count_of

Metrics = dict[str, Any]
Changes = Mapping[str, Mapping[str, Interval]]

RECALIBRATION = "recalibration"
"""Name of the check of the calibrator."""
_LABELS_PER_POSITIVE = 10
"""Labels of a count or real task that count as one positive of a binary task: a few large values dominate squared errors."""


@dataclass(frozen=True)
class TaskContext:
    """One task of the day."""

    gate: Gate
    name: str
    task: Task
    base: Metrics | None
    """Its metrics in the previous version; None: there is no previous version, or it lacks the task."""
    candidate: Metrics


@dataclass(frozen=True)
class GateContext:
    """What the checks know about the day."""

    config: Config
    base: Metrics | None
    """Metrics of the previous version, as `metrics` of `result.json`; None: there is none."""
    candidate: Metrics
    norms: dict[str, tuple[float | None, float]]
    """Root mean square of each table's weights in the previous version (None: the table is new) and in the candidate."""
    not_finite: dict[str, int]
    """NaN and infinite numbers in each table and dense weight of the candidate."""
    holdout_rows: int
    """Rows that both were scored on."""
    changes: Changes
    """95 % intervals of the changes of the metrics from the previous version to the candidate, by task and metric."""

    @property
    def gate(self) -> Gate:
        """The limits."""
        assert self.config.daily is not None
        return self.config.daily.gate

    @cached_property
    def task_checks(self) -> list[Check]:
        """Of all tasks."""
        found = []
        for name, task in self.config.active_tasks().items():
            base = (self.base or {}).get("eval", {}).get(name)
            changes = self.changes.get(name, {})
            found += _task(self.gate, name, task, base, self.candidate["eval"].get(name), changes)
        return found


@dataclass(frozen=True)
class GateCheck:
    """One entry of the gate."""

    evaluate: Callable[[GateContext], Iterable[Check]]
    name: str = ""
    """`Check.name` of its checks, or the first word of it; empty: the name of a metric."""
    label: str = ""
    """Its name in reports; empty: `name`."""
    scale: Literal["count", "ratio", "significant"] = "significant"
    """How reports show its values."""


def evaluate_gate(
    config: Config,
    base: Metrics | None,
    candidate: Metrics,
    norms: dict[str, tuple[float | None, float]],
    not_finite: dict[str, int],
    holdout_rows: int,
    changes: Changes,
) -> GateResult:
    """Compare a candidate with the previous version on the held-out rows; the arguments are the fields of `GateContext`.

    Without a previous version, only AUC above 0.5, calibration and finite numbers are checked. The limits decide, not the
    intervals: a candidate that is worse by chance is worse as well. The intervals say how much the rows can tell.
    """
    context = GateContext(config, base, candidate, norms, not_finite, holdout_rows, changes)
    checks = [check for entry in CHECKS for check in entry.evaluate(context)]
    passed = all(check.passed is not False for check in checks)
    return GateResult(passed=passed, checks=checks, holdout_rows=holdout_rows, base=base, candidate=candidate)


def summary(result: GateResult) -> str:
    """One sentence: the failed checks with their values, or that none failed."""
    failed = [_check_text(check) for check in result.checks if check.passed is False]
    if failed:
        return f"the gate refuses the candidate: {'; '.join(failed)}"
    judged = sum(check.passed is not None for check in result.checks)
    return f"the gate passes the candidate: {judged} checks passed, {len(result.checks) - judged} could not be judged"


def check_label(name: str) -> str:
    """The name of a check in reports."""
    if name in METRICS:
        return METRICS[name].in_words
    entry = _entry(name)
    return entry.label if entry is not None and entry.label else name


def check_scale(name: str) -> Literal["count", "ratio", "significant"]:
    """How reports show the values of a check."""
    if name in METRICS:
        return "significant" if METRICS[name].decimals is None else "ratio"
    entry = _entry(name)
    return "significant" if entry is None else entry.scale


def _entry(name: str) -> GateCheck | None:
    return next((e for e in CHECKS if e.name and (name == e.name or name.startswith(f"{e.name} "))), None)


def _check_text(check: Check) -> str:
    subject = f"tasks.{check.task} {check.name}" if check.task else check.name
    if check.name == "not finite":
        return f"{subject}: {check.note}"
    before = "" if check.base is None else f", before {check.base:.4g}"
    if check.change is not None:
        low, high = check.change
        before += f", change {low:+.2g} to {high:+.2g} with 95 % confidence"
    doubt = f"; {check.note}" if check.note else ""
    return f"{subject} is {check.candidate:.4g} (allowed {check.limit}{before}){doubt}"


def _task(
    gate: Gate, name: str, task: Task, base: Metrics | None, candidate: Metrics | None, changes: Mapping[str, Interval]
) -> list[Check]:
    compared = [what for what in task.traits.gated if base is not None or METRICS[what].chance is not None]
    names = (*compared, *(["calibration"] if _has_calibration(task) else []))
    if candidate is None:
        return [_not_judged(name, what, None, None, "it has no held-out labels") for what in names]
    if is_non_finite(reason := candidate["null_reason"]):
        return [Check(task=name, name="not finite", base=None, candidate=None, limit="0", passed=False, note=reason)]
    if few := _too_few_labels(gate, task, candidate) or _too_few_users(candidate):
        return [_not_judged(name, what, _get(base, what), _get(candidate, what), few) for what in names]
    context = TaskContext(gate, name, task, base, candidate)
    return [_with_change(check, changes) for evaluate in TASK_CHECKS for check in evaluate(context)]


def _with_change(check: Check, changes: Mapping[str, Interval]) -> Check:
    """The check with the interval of the change, and a note if it fails although chance alone may have made the change."""
    change = changes.get(check.name)
    if change is None:
        return check
    doubtful = check.passed is False and check.base is not None and change[0] <= 0 <= change[1]
    note = "chance alone can make such a change; raise daily.gate.holdout to tell" if doubtful else check.note
    return check.model_copy(update={"change": change, "note": note})


def _too_few_labels(gate: Gate, task: Task, metrics: Metrics) -> str | None:
    """Why the labels are too few for a judgement, or None."""
    count, least = metrics["count"], gate.min_positives
    if not task.is_event:
        wanted, rate = _LABELS_PER_POSITIVE * least, metrics.get("positive_rate")
        few = [f"{count:,} held-out labels, fewer than {_LABELS_PER_POSITIVE} times"] if count < wanted else []
        if rate is not None and (above := round(rate * count)) < least:  # amounts that are mostly 0
            few.append(f"{above:,} labels above 0 among {count:,} held-out ones, fewer than")
    else:
        sides = {"positives": metrics["positives"], "negatives": count - metrics["positives"]}
        few = [f"{n:,} {side} among {count:,} held-out labels, fewer than" for side, n in sides.items() if n < least]
    return f"{few[0]} daily.gate.min_positives ({least:,})" if few else None


def _too_few_users(metrics: Metrics) -> str | None:
    """Why the users are too few for a judgement, or None."""
    users = metrics.get("groups")
    return None if users is None or users >= MIN_GROUPS else _few_users(users)


def _few_users(users: int) -> str:
    return (
        f"{count_of(users, 'held-out user')}, fewer than {MIN_GROUPS}, are too few to judge; raise daily.gate.holdout"
    )


def _quality(day: TaskContext) -> Iterator[Check]:
    """The metrics of the task's kind that are compared with the previous version."""
    for what in day.task.traits.gated:
        check = _compared(day, METRICS[what])
        if check is not None:
            yield check


def _compared(day: TaskContext, metric: Metric) -> Check | None:
    gate, name, what = day.gate, day.name, metric.name
    before, after = _get(day.base, what), _get(day.candidate, what)
    if day.base is None and metric.chance is None:
        return None
    if after is None:
        return _not_judged(name, what, before, after, day.candidate.get("null_reason") or "the metric is null")
    if day.base is None:
        chance = metric.chance or 0.0
        return _make_check(name, what, None, after, f"> {chance:g}", after > chance)
    if before is None or not math.isfinite(before):
        note = day.base.get("null_reason") or "the metric is not finite"
        return _not_judged(name, what, before, after, f"the previous version: {note}")
    if metric.better == "higher":
        low = before - gate.auc_drop * _ranking_scale(metric)
        return _make_check(name, what, before, after, f"≥ {low:.4g}", after >= low)
    most = before * (1 + gate.ne_rise)
    return _make_check(name, what, before, after, f"≤ {most:.4g}", after <= most)


def _ranking_scale(metric: Metric) -> float:
    """How many times as wide as that of an AUC the range from chance to a perfect ranking is: 2 for Gini = 2·AUC − 1."""
    return (1 - (metric.chance or 0.0)) / 0.5


def _calibration(day: TaskContext) -> Iterator[Check]:
    if not _has_calibration(day.task):
        return
    what, (low, high) = "calibration", day.gate.calibration
    before, after = _get(day.base, what), _get(day.candidate, what)
    note = None
    if after is None:
        note = day.candidate.get("null_reason") or "the metric is null"
    elif day.task.traits.labels.low is None and _labels_cancel(day.candidate):
        note = "labels of both signs cancel each other in the sum"
    if after is None or note is not None:
        yield _not_judged(day.name, what, before, after, note or "")
        return
    closer = before is not None and _log_distance_from_one(after) < _log_distance_from_one(before)
    limit = f"{low:.4g} to {high:.4g}, or closer to 1 than before" if day.base else f"{low:.4g} to {high:.4g}"
    yield _make_check(day.name, what, before, after, limit, low <= after <= high or closer)


def _has_calibration(task: Task) -> bool:
    return METRICS["calibration"] in metrics_of_kind(task.traits)


def _labels_cancel(metrics: Metrics) -> bool:
    """Whether positive and negative labels cancel: their sum is below half the sum of their absolute values."""
    mae, nmae, mean = metrics["mae"], metrics["nmae"], metrics["mean_label"]
    return bool(nmae) and abs(mean) < 0.5 * mae / nmae


def _log_distance_from_one(calibration: float) -> float:
    """Distance from 1 on a log scale: 0.5 is as far as 2."""
    return abs(math.log(calibration)) if 0 < calibration < math.inf else math.inf


def _order(day: GateContext) -> Iterator[Check]:
    found = day.candidate.get("order_violation_rate")
    if day.base is None or found is None:  # no previous version, no funnel, or no rows
        return
    after, old = found["overall"], day.base.get("order_violation_rate")
    if old is None:
        yield _not_judged(None, "order", None, after, "the previous version has no funnel")
        return
    before = old["overall"]
    most = before + day.gate.order_rise
    yield _make_check(None, "order", before, after, f"≤ {most:.4g}", after <= most)


def _scores(day: GateContext) -> Iterator[Check]:
    """The value at the top of each list of every formula."""
    before_all = (day.base or {}).get("scores") or {}
    for name, report in (day.candidate.get("scores") or {}).items():
        what, after, before = f"value {name}", report["value"], before_all.get(name, {}).get("value")
        if day.base is None:
            continue
        if after is None or before is None:
            whose = report if after is None else before_all.get(name, {})
            reason = whose.get("null_reason") or "the previous version was not measured"
            yield _not_judged(None, what, before, after, reason)
        elif report["groups"] < MIN_GROUPS:
            yield _not_judged(None, what, before, after, _few_users(report["groups"]))
        else:
            least = before - day.gate.value_drop * abs(before)
            check = _make_check(None, what, before, after, f"≥ {least:.4g}", after >= least)
            change = day.changes.get(f"{EFFECTS}{name}", {}).get("value")
            yield _with_change(check, {what: change} if change else {})


def _recalibration(day: GateContext) -> Iterator[Check]:
    """Recalibration must not make the calibration error of the scenarios larger, beyond what chance can."""
    for name, found in (day.candidate.get("calibration") or {}).items():
        before, after, chance = (found["scenario_error"][key] for key in ("before", "after", "chance"))
        metrics = day.candidate["eval"][name]
        few = _too_few_labels(day.gate, Task(), metrics) or _too_few_users(metrics)
        if few is None and after is None:
            few = metrics.get("null_reason") or "a scenario has no finite predictions"
        if few is not None:
            yield _not_judged(name, RECALIBRATION, None, after, few)
            continue
        most = before + chance
        check = _make_check(name, RECALIBRATION, None, after, f"≤ {most:.4g}", after <= most)
        note = f"without recalibration it is {before:.4g}, and chance alone makes {chance:.4g}"
        yield check.model_copy(update={"note": note})


def _finite(day: GateContext) -> Iterator[Check]:
    found = {name: count for name, count in day.not_finite.items() if count}
    for name, count in found.items():
        yield Check(
            task=None, name="not finite", base=None, candidate=count, limit="0", passed=False,
            note=f"{count:,} numbers of `{name}` are NaN or infinite",
        )  # fmt: skip
    if day.not_finite and not found:
        yield _make_check(None, "not finite", None, 0.0, "0", True)


def _norms(day: GateContext) -> Iterator[Check]:
    for table, (before, after) in day.norms.items():
        what = f"norm {table}"
        if not math.isfinite(after):
            yield _make_check(None, what, before, after, "a finite number", False)
        elif day.base is None:
            continue
        elif before is None:
            yield _not_judged(None, what, before, after, "the previous version does not have the table")
        elif before == 0 or not math.isfinite(before):
            yield _not_judged(None, what, before, after, "the previous weights were all 0, or not finite")
        else:
            low, high = before / day.gate.norm_growth, before * day.gate.norm_growth
            yield _make_check(None, what, before, after, f"{low:.4g} to {high:.4g}", low <= after <= high)


def _no_task(day: GateContext) -> Iterator[Check]:
    if any(check.passed is not None for check in day.task_checks):
        return
    note = f"no task could be judged on {day.holdout_rows:,} held-out rows, so no metric could refuse the candidate"
    yield _not_judged(None, "held-out rows", None, float(day.holdout_rows), note)


def _get(metrics: Metrics | None, what: str) -> float | None:
    return None if metrics is None else metrics.get(what)


def _make_check(task: str | None, what: str, base: float | None, candidate: float, limit: str, passed: bool) -> Check:
    return Check(
        task=task, name=what, base=base, candidate=candidate, limit=limit, passed=passed and math.isfinite(candidate)
    )


def _not_judged(task: str | None, what: str, base: float | None, candidate: float | None, note: str) -> Check:
    return Check(task=task, name=what, base=base, candidate=candidate, limit="", passed=None, note=note)


TASK_CHECKS: tuple[Callable[[TaskContext], Iterable[Check]], ...] = (_quality, _calibration)
"""The checks of a task that has enough finite predictions."""

CHECKS: tuple[GateCheck, ...] = (
    GateCheck(lambda day: day.task_checks),
    GateCheck(_recalibration, RECALIBRATION, label="calibration error after recalibration"),
    GateCheck(_order, "order", label="rows out of order", scale="ratio"),
    GateCheck(_scores, "value"),
    GateCheck(_finite, "not finite", scale="count"),
    GateCheck(_norms, "norm"),
    GateCheck(_no_task, "held-out rows", scale="count"),
)
"""The gate's checks, in the order of the report."""
