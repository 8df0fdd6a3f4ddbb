"""Metrics of the formulas of `score`: how well the fused score ranks the rows of each list (`docs/score.md`).

A list is the rows of a request, or of a group where there are no requests. Its *value@k* is the gain of the first k rows, its
NDCG@k that of Järvelin & Kekäläinen (TOIS 20, 2002) with the gain as it is, and GAUC is AUC of the score for each event that has
a gain, within groups. Rows of equal scores have no order: every value is the mean over all orders of them.

Shapes: B rows, T tasks, S formulas, N rows of the sample, L lists, G groups.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raymtl.config.score import Score
from raymtl.config.tasks import Task
from raymtl.objectives.metrics import intervals
from raymtl.objectives.metrics.changes import EFFECTS
from raymtl.objectives.metrics.grouped import MISSING, grouped_auc
from raymtl.objectives.metrics.ranked import discount_shares, top_shares
from raymtl.words import count_of


def session_gain(score: Score, tasks: Mapping[str, Task], labels: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """The gain [B] float32 of rows, Σ weight · label, and where it is known, [B] bool.

    `labels` and `observed` [B, ≥ T] have the tasks in their order. It is known where every label is observed; one that is only
    defined where another event happened counts 0 where that did not happen.
    """
    columns = {name: column for column, name in enumerate(tasks)}
    gain = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    known = torch.ones_like(gain, dtype=torch.bool)
    for name, weight in score.gain.items():
        if not weight:
            continue
        column = columns[name]
        seen = observed[:, column]
        gain += weight * labels[:, column].double().masked_fill(~seen, 0.0)
        given = tasks[name].given
        while given is not None and given in columns:
            seen = seen | (observed[:, columns[given]] & (labels[:, columns[given]] <= 0))
            given = tasks[given].given
        known &= seen
    return gain.float(), known


class FusedMetrics:
    """Counters of all rows, and the reports from the sample of groups."""

    def __init__(self, score: Score, tasks: Mapping[str, Task], device: torch.device) -> None:
        self._score, self._tasks = score, tasks
        self._names = list(score.formulas)
        self._rows = torch.zeros(1, dtype=torch.int64, device=device)
        self._not_finite = torch.zeros(len(self._names), dtype=torch.int64, device=device)

    def update(self, scores: Tensor, labels: Tensor, observed: Tensor, weight: Tensor) -> Tensor:
        """Count a batch with the weight [B] of its rows for all tasks; one of weight 0 is in no list, and a task's own weight
        says nothing about a gain.

        Returns the columns of the sample [B, S + 2]: the scores, the weight, and the gain, NaN where it is not known.
        """
        gain, known = session_gain(self._score, self._tasks, labels, observed)
        known &= weight > 0
        self._rows += known.sum()
        finite = scores.isfinite()
        self._not_finite += (~finite & known.unsqueeze(1)).sum(0)
        gain = gain.masked_fill(~known, torch.nan)
        return torch.cat((scores.masked_fill(~finite, 0.0), weight.float().unsqueeze(1), gain.unsqueeze(1)), 1)

    def state(self) -> dict[str, Tensor]:
        """Counters that add up over the workers."""
        return {"rows": self._rows, "not_finite": self._not_finite}

    def compute(
        self, rows: Mapping[str, Tensor], events: list[str], lists: str
    ) -> tuple[dict[str, Any], dict[str, dict[str, list[float]]]]:
        """The reports by formula, and the folded effects of the groups.

        `rows` are sorted by group and request, `events` are the tasks of the columns of their labels, and `lists` is `request` or
        `group`.
        """
        rows = {name: column[~rows["scores"][:, -1].isnan()] for name, column in rows.items()}
        group, index = torch.unique_consecutive(rows["group"], return_inverse=True)
        opens = torch.zeros_like(index, dtype=torch.bool)
        opens[1:] = index[1:] != index[:-1]
        if lists == "request":
            opens[1:] |= rows["request"][1:] != rows["request"][:-1]
        reports, effects = {}, {}
        for column, name in enumerate(self._names):
            sampled = _Formula(rows, column, opens.cumsum(0), index, group, self._score.at)
            report: dict[str, Any] = {"at": self._score.at, "lists": lists, "rows": int(self._rows)}
            wrong = int(self._not_finite[column])
            reason = f"{count_of(wrong, 'score')} of {int(self._rows):,} NaN or infinite" if wrong else None
            reason = reason or (None if len(index) else "no row with a known gain")
            reports[name] = report | sampled.report(self._gained(events), int(self._rows), reason)
            effects[EFFECTS + name] = sampled.effects
        return reports, {name: found for name, found in effects.items() if found}

    def _gained(self, events: list[str]) -> dict[str, int]:
        """Columns of the labels of the events that have a gain, by task."""
        return {name: events.index(name) for name, weight in self._score.gain.items() if weight and name in events}


class _Formula:
    """One formula on the sample."""

    def __init__(
        self,
        rows: Mapping[str, Tensor],
        column: int,
        lists: Tensor,
        index: Tensor,
        group: Tensor,
        at: int,
    ):
        self._rows, self._scores, self._gain = rows, rows["scores"][:, column], rows["scores"][:, -1].double()
        self._row_weight = rows["scores"][:, -2].double()
        self._lists, self._index, self._group, self._at = lists, index, group, at
        self._count = int(lists[-1]) + 1 if len(lists) else 0
        self.effects: dict[str, list[float]] = {}
        """Folded effects of the groups, by metric."""

    def report(self, events: Mapping[str, int], total: int, reason: str | None) -> dict[str, Any]:
        """The metrics, or None with the reason; `total` rows are in the evaluation."""
        names = ["value", "best_value", "random_value", "ndcg", *(f"gauc_{name}" for name in events)]
        found: dict[str, Any] = {
            "count": self._count,
            "groups": 0,
            **dict.fromkeys(names),
            "null_reason": reason,
            "intervals": {},
        }
        if reason is not None:
            return found
        found["sampled_share"], found["groups"] = len(self._index) / total, len(self._group)
        measured = {"value": self._mean(self._value(self._scores))}
        found["best_value"] = self._mean(self._value(self._gain.float()))[0]
        found["random_value"] = self._mean(self._value(torch.zeros_like(self._scores)))[0]
        ndcg = self._ndcg()
        measured |= {} if ndcg is None else {"ndcg": ndcg}
        for name, column in events.items():
            labels = self._rows["labels"][:, column]
            seen = labels != MISSING
            weight = self._rows["weight"][:, min(column, self._rows["weight"].shape[1] - 1)]
            gauc, _, effects = grouped_auc(
                self._index[seen], len(self._group), self._scores[seen], labels[seen] == 1, weight[seen]
            )
            if gauc is not None:
                measured[f"gauc_{name}"] = gauc, effects
        for name, (value, effects) in measured.items():
            found[name] = value
            # The values are those of the sample, so their intervals are too
            if pair := intervals.scaled_interval(name != "value", value, effects, len(self._group), share=1.0):
                found["intervals"][name] = list(pair)
            self.effects[name] = intervals.fold(effects, self._group, share=1.0)
        return found

    def _value(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Gain of the first k rows of each list, and the weight of the list: the mean of its rows, both [L]."""
        shares = top_shares(self._lists, self._count, scores, self._at)
        return self._sum(shares * self._gain), self._weight()

    def _ndcg(self) -> tuple[float, Tensor] | None:
        """NDCG@k over the lists whose order matters; None if there is none, or if a gain is below 0, which NDCG does not know."""
        best = self._sum(self._gain * discount_shares(self._lists, self._count, self._gain.float(), self._at))
        found = self._sum(self._gain * discount_shares(self._lists, self._count, self._scores, self._at))
        low = self._gain.new_full((self._count,), torch.inf).scatter_reduce(0, self._lists, self._gain, "amin")
        high = self._gain.new_full((self._count,), -torch.inf).scatter_reduce(0, self._lists, self._gain, "amax")
        differs = high > low
        if float(low.min()) < 0 or not bool(differs.any()):
            return None
        return self._mean((torch.where(differs, found / best.clamp(min=1e-300), 0.0), self._weight() * differs))

    def _weight(self) -> Tensor:
        return self._sum(self._row_weight) / self._sum(torch.ones_like(self._gain))

    def _mean(self, pair: tuple[Tensor, Tensor]) -> tuple[float, Tensor]:
        """The weighted mean over the lists, and the effects [G] of the groups on it."""
        values, weight = pair
        total = weight.sum()
        mean = float((weight * values).sum() / total)
        of_list = torch.zeros_like(self._lists[: self._count]).scatter_(0, self._lists, self._index)
        moved = weight * (values - mean) / total
        return mean, moved.new_zeros(len(self._group)).index_add_(0, of_list, moved)

    def _sum(self, values: Tensor) -> Tensor:
        return values.new_zeros(self._count).index_add_(0, self._lists, values)
