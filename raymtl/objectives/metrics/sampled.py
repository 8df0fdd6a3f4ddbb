"""What the sample of complete groups adds to the reports: GAUC, the metrics of requests and of order, and the intervals of all.

Shapes: N rows of the sample, G groups in a part of it, m metrics of a task that are means (`TaskKind.own`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raymtl.config.metrics import METRICS
from raymtl.config.task_kinds import KINDS, Binary, Values
from raymtl.config.tasks import Task
from raymtl.objectives.metrics import intervals
from raymtl.objectives.metrics.binary import binary_effects, binary_sums
from raymtl.objectives.metrics.grouped import INTERVAL_ROWS, LEVELS, MISSING, grouped_auc, hash_limit
from raymtl.objectives.metrics.intervals import ratio_effects
from raymtl.objectives.metrics.ordered import average_precision, concordance, decile_error, gini
from raymtl.objectives.metrics.ranked import CUTOFFS, rank_requests
from raymtl.objectives.metrics.values import value_effects, value_sums
from raymtl.objectives.tasks import TaskObjective, objective_of
from raymtl.words import count_of

Report = dict[str, Any]
_Ordered = tuple[float | None, Tensor | None]
"""A metric of order, and the effects [G] of the groups on it; None: no interval."""
ORDER_METRICS = ("pr_auc", "concordance", "gini", "decile_error")
"""The metrics of `ordered.py`."""
_RANKED = {kind.name for kind in KINDS if issubclass(kind, Binary | Values)}
"""Kinds whose labels are gains, or events, of a ranking."""


@dataclass(frozen=True)
class _Part:
    """The rows [n] of one task in one scenario or in all, sorted by group and request."""

    index: Tensor
    group: Tensor
    """[G] hash of each group."""
    logits: Tensor
    labels: Tensor
    weight: Tensor
    request: Tensor | None
    """Index of each row's request, from 0 on; None: no requests."""
    own: Tensor | None = None
    """[n, m] the task's own metrics of each row."""

    @property
    def rows(self) -> int:
        return len(self.index)

    @property
    def groups(self) -> int:
        return len(self.group)

    def sum_by_group(self, terms: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Sums [G, …] of the terms of the rows, computed from logits, labels, and weights."""
        return self.by_group(terms(self.logits, self.labels, self.weight))

    def by_group(self, values: Tensor) -> Tensor:
        """Sums [G, …] of values [n, …] of the rows."""
        if self.groups == self.rows:
            return values
        return values.new_zeros(self.groups, *values.shape[1:]).index_add_(0, self.index, values)


class Sample:
    """The rows of all workers, which complete the reports of the tasks."""

    def __init__(self, rows: dict[str, Tensor], level: int, grouped: bool, with_requests: bool) -> None:
        """`rows` as `GroupedSample.rows_at(level)` of all workers; `grouped`: whether there is a group column."""
        self._level, self._grouped, self._with_requests = level, grouped, with_requests
        self._sorted = grouped or with_requests
        order: Tensor | slice = rows["group"].argsort() if self._sorted else slice(None)
        if grouped and with_requests:
            inner = rows["request"].argsort()
            order = inner[rows["group"][inner].argsort(stable=True)]
        self._rows = self._few = {name: column[order] for name, column in rows.items()}
        while len(self._few["group"]) > INTERVAL_ROWS and level < LEVELS - 1:
            level += 1
            inside = (self._few["group"] & hash_limit(0)) <= hash_limit(level)
            self._few = {name: column[inside] for name, column in self._few.items()}

    @property
    def rows(self) -> dict[str, Tensor]:
        """All rows, sorted by group and request."""
        return self._rows

    def complete_binary(self, column: int, reports: list[Report]) -> dict[str, list[float]]:
        """Complete the reports of a binary task, of all rows first and then of each scenario, and return its folded effects."""

        def part_of(rows: dict[str, Tensor], scenario: int) -> _Part:
            labels = rows["labels"][:, column]
            return self._part(rows, scenario, rows["logits"][:, column], labels, labels != MISSING, column)

        return self._complete(reports, part_of, _binary_effects, _binary_order)

    def complete_values(self, column: int, own: slice, task: Task, reports: list[Report]) -> dict[str, list[float]]:
        """The same of a task that is not binary, whose own metrics are `own` among those of all."""
        kind = objective_of(task)

        def part_of(rows: dict[str, Tensor], scenario: int) -> _Part:
            labels = rows["value_labels"][:, column]
            terms = rows["own"][:, own] if own.stop > own.start else None
            place = column + (rows["labels"].shape[1] if "labels" in rows else 0)
            return self._part(rows, scenario, rows["value_logits"][:, column], labels, ~labels.isnan(), place, terms)

        def effects_of(part: _Part) -> dict[str, Tensor]:
            return _value_effects(part, kind)

        return self._complete(reports, part_of, effects_of, lambda part: _value_order(part, kind))

    def _complete(
        self,
        reports: list[Report],
        part_of: Callable[[dict[str, Tensor], int], _Part],
        effects_of: Callable[[_Part], dict[str, Tensor]],
        order_of: Callable[[_Part], dict[str, _Ordered]],
    ) -> dict[str, list[float]]:
        folded: dict[str, list[float]] = {}
        for scenario, report in enumerate(reports, -1):
            whole = part_of(self._rows, scenario)
            part = whole if self._few is self._rows else part_of(self._few, scenario)
            found = {name: (effects, part) for name, effects in (effects_of(part) if part.rows else {}).items()}
            found |= {name: (effects, part) for name, effects in self._complete_order(report, part, order_of).items()}
            if "auc" in report:
                gauc_effects = self._complete_gauc(report, whole)
                found |= {"gauc": (gauc_effects, whole)} if gauc_effects is not None else {}
            found |= {name: (effects, whole) for name, effects in self._complete_ranked(report, whole).items()}
            report["groups"] = whole.groups << self._level if self._grouped else None
            report["intervals"] = {}
            missing = []
            for name, (effects, its) in found.items():
                if report[name] is None:
                    continue
                # A metric that is measured on the sample is as uncertain as the sample, others as all rows
                share = 1.0 if name in ORDER_METRICS else its.rows / report["count"]
                if pair := intervals.interval(name, report[name], effects, its.groups, share):
                    report["intervals"][name] = list(pair)
                else:
                    missing.append(name)
                if scenario < 0 and self._sorted:
                    folded[name] = intervals.fold(effects, its.group, share)
            report["interval_null_reason"] = self._why_none(part, missing)
        return folded

    def _part(
        self,
        rows: dict[str, Tensor],
        scenario: int,
        logits: Tensor,
        labels: Tensor,
        counted: Tensor,
        place: int,
        terms: Tensor | None = None,
    ) -> _Part:
        """`place` is that of the task among all of the sample, the binary ones first."""
        pick = (counted if scenario < 0 else counted & (rows["scenario"] == scenario)).nonzero().squeeze(1)
        group = rows["group"][pick]
        index = torch.arange(len(pick), device=pick.device)
        request = None
        if self._with_requests:
            own = rows["request"][pick]
            opens = torch.zeros_like(own, dtype=torch.bool)
            opens[1:] = (own[1:] != own[:-1]) | (group[1:] != group[:-1])
            request = opens.cumsum(0)
        if self._sorted:
            group, index = torch.unique_consecutive(group, return_inverse=True)
        terms = None if terms is None else terms[pick]
        weight = rows["weight"][:, min(place, rows["weight"].shape[1] - 1)]
        return _Part(index, group, logits[pick], labels[pick], weight[pick], request, terms)

    def _complete_order(
        self, report: Report, part: _Part, order_of: Callable[[_Part], dict[str, _Ordered]]
    ) -> dict[str, Tensor]:
        """Complete a report by its metrics of order, or by the reason why there are none, and return the effects of groups."""
        found = order_of(part)
        reason = report["null_reason"]
        if found and reason is None and not part.rows:
            reason = "no row of this slice is in the sample"
        report |= {name: value if reason is None else None for name, (value, _) in found.items()}
        if found:
            nulls = [name for name, (value, _) in found.items() if value is None]
            if reason is None and nulls:
                reason = f"{' and '.join(nulls)}: the labels of {count_of(part.rows, 'row')} are all the same"
            report["order_sampled_share"] = part.rows / report["count"] if part.rows else None
            report["order_null_reason"] = reason
        return {
            name: effects
            for name, (value, effects) in found.items()
            if effects is not None and report[name] is not None
        }

    def _complete_gauc(self, report: Report, part: _Part) -> Tensor | None:
        """Complete a report by its GAUC, or by the reason why there is none, and return the effects of the groups on it."""
        gauc, groups, effects = None, 0, None
        if self._grouped:
            gauc, groups, effects = grouped_auc(part.index, part.groups, part.logits, part.labels == 1, part.weight)
        reason = report["null_reason"]
        if reason is None and not self._grouped:
            reason = "no group column"
        elif reason is None and not part.rows:
            reason = "no row of this slice is in the sample"
        elif reason is None and gauc is None:
            reason = f"no group has both a positive and a negative among {part.rows:,} rows"
        report["gauc"] = gauc if reason is None else None
        report["gauc_groups"] = groups
        report["gauc_sampled_share"] = part.rows / report["count"] if self._grouped and part.rows else None
        report["gauc_null_reason"] = reason
        return effects

    def _complete_ranked(self, report: Report, part: _Part) -> dict[str, Tensor]:
        """Complete a report by the metrics of its requests, or by the reason why there are none, and return the effects of the
        groups on them."""
        if report["kind"] not in _RANKED:
            return {}
        binary = "auc" in report
        names = [*CUTOFFS, *(["mrr"] if binary else [])]
        reason = report["null_reason"] or _why_unranked(part)
        ranked, values, effects = None, dict.fromkeys(names), {}
        if reason is None and part.request is not None:
            requests = int(part.request[-1]) + 1
            ranked = rank_requests(part.request, requests, part.logits, part.labels, part.weight, binary)
            if ranked.count:
                values = {name: ranked.mean(name) for name in names}
                effects = {name: ranked.effects(name, part.index, part.groups) for name in names}
            else:
                reason = f"none of {count_of(requests, 'request')} has two different labels"
        report |= values
        report["requests_ranked"] = ranked and ranked.count
        report["requests_left_out"] = ranked and ranked.left_out
        report["requests_sampled_share"] = part.rows / report["count"] if ranked else None
        report["requests_null_reason"] = reason
        return effects

    def _why_none(self, part: _Part, missing: list[str]) -> str | None:
        """Why metrics that have a value have no interval."""
        if not missing:
            return None
        if part.groups < intervals.MIN_GROUPS:
            what = "group" if self._grouped else "request" if self._with_requests else "row"
            return f"{count_of(part.groups, what)}, fewer than {intervals.MIN_GROUPS}"
        return f"too few distinct rows for {', '.join(METRICS[name].label for name in missing)}"


def _value_effects(part: _Part, kind: TaskObjective) -> dict[str, Tensor]:
    effects = {}
    if issubclass(kind.kind, Values):
        effects = value_effects(part.sum_by_group(lambda x, y, w: value_sums(x, y, w, kind)))
    if part.own is not None:
        w = part.weight.double()
        above, below = part.by_group(w.unsqueeze(1) * part.own.double()), part.by_group(w)
        effects |= {name: ratio_effects(column, below) for name, column in zip(kind.kind.own, above.T, strict=True)}
    return {name: effect for name, effect in effects.items() if name not in kind.kind.without}


def _value_order(part: _Part, kind: TaskObjective) -> dict[str, _Ordered]:
    if not issubclass(kind.kind, Values):
        return {}
    rows = part.logits, part.labels, part.weight, part.index, part.groups
    found: dict[str, _Ordered] = {"concordance": concordance(*rows)}
    if "gini" not in kind.kind.without:
        found["gini"] = gini(*rows)
        predictions = kind.predict(part.logits.double())
        found["decile_error"] = decile_error(part.logits, predictions, part.labels, part.weight), None
    return found


def _binary_order(part: _Part) -> dict[str, _Ordered]:
    return {"pr_auc": average_precision(part.logits, part.labels == 1, part.weight, part.index, part.groups)}


def _binary_effects(part: _Part) -> dict[str, Tensor]:
    effects = binary_effects(part.sum_by_group(binary_sums))
    positive = part.labels == 1
    if 0 < int(positive.sum()) < part.rows:
        effects["auc"] = intervals.auc_effects(part.logits, positive, part.weight, part.index, part.groups)
    return effects


def _why_unranked(part: _Part) -> str | None:
    """Why there is no NDCG, whatever the labels within each request."""
    if part.request is None:
        return "no requests"
    if not part.rows:
        return "no row of this slice is in the sample"
    return "a label is below 0, and no gain" if float(part.labels.min()) < 0 else None
