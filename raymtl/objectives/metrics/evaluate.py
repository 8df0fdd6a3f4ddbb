"""All metrics of one evaluation: fed batch by batch on the device, summed over the workers, read once at the end.

    metrics = EvalMetrics(config.active_tasks(), scenarios, device)
    for batch in batches:
        metrics.update(logits, batch.labels, batch.observed, batch.weight, batch.valid, batch.scenario, batch.group)
    state = metrics.state()                         # same names and shapes on every worker
    for tensor in state.values():
        all_reduce(tensor)                          # plain sums
    metrics.load_state(state)
    rows = gather(metrics.gather_form())            # for GAUC, NDCG and intervals: ragged tensors of every worker
    result = metrics.compute(rows)                  # plain dict, ready for JSON

Nothing here knows about processes: the training code sends the tensors. `update` never makes the host wait for the device,
except when the sample of groups is compacted, each time it has grown by a quarter of its capacity.

Shapes: B rows, T tasks and derived outputs, O outputs (`Outputs`), S scenarios, N rows of the sample of groups.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raymtl.config.score import Score
from raymtl.config.tasks import Task
from raymtl.objectives.metrics.binary import BinaryMetrics
from raymtl.objectives.metrics.fused import FusedMetrics
from raymtl.objectives.metrics.grouped import GroupedSample, Rows, common_level
from raymtl.objectives.metrics.sampled import Sample
from raymtl.objectives.metrics.values import ValueMetrics
from raymtl.objectives.outputs import Outputs, with_derived


class EvalMetrics:
    """Metrics of all tasks, over all rows and per scenario.

    Memory: 1.4 MB per binary task and scenario, 0.6 MB more for one with a `truth` column, 0.9 MB per other task; 8
    binary tasks with truth in 20 scenarios take 310 MiB. The sample of groups takes 14 bytes, 8 more with requests, 5 per binary
    and 8 per other task and 4 per metric of its own, for each of at most 1.25 times `sample_rows` rows, and twice that while it
    is compacted.
    """

    def __init__(
        self,
        tasks: dict[str, Task],
        scenarios: list[str],
        device: torch.device | str = "cpu",
        sample_rows: int = 2_000_000,
        sample_rows_total: int = 4_000_000,
        derived: Mapping[str, tuple[str, str]] | None = None,
        with_requests: bool = False,
        score: Score | None = None,
    ) -> None:
        """Set all counters to zero.

        Args:
            tasks: the tasks in the order of the logits' columns.
            scenarios: names by scenario index, `other` last; empty without a scenario column.
            device: where the batches are.
            sample_rows: rows that each worker keeps for GAUC, NDCG and the intervals; beyond it, a sample of whole groups.
            sample_rows_total: rows of all workers together that `gather_form` lets through.
            derived: outputs P(child | given) by name, each (child, given). Their labels are the child's, on the rows where
                `given` is observed and 1.
            with_requests: whether `update` gets the request of each row.
            score: the formulas whose scores `update` gets, with a `gain`; None: none.
        """
        self._formulas = score
        derived = derived or {}
        self._outputs = Outputs(tasks, derived)
        self._main = list(tasks)
        self.tasks = {**tasks, **{name: _conditional(tasks, *pair) for name, pair in derived.items()}}
        self.scenarios = list(scenarios)
        self.device = torch.device(device)
        self.sample_rows = sample_rows
        self.sample_rows_total = sample_rows_total
        self.with_requests = with_requests
        columns = {name: i for i, name in enumerate(self.tasks)}
        self._binary_names = [n for n, task in self.tasks.items() if task.is_event]
        self._value_names = [n for n, task in self.tasks.items() if not task.is_event]
        self._binary_columns = self._index([columns[n] for n in self._binary_names])
        self._value_columns = self._index([columns[n] for n in self._value_names])
        self._value_places = [columns[n] for n in self._value_names]
        self.edges = [(task.parent, name) for name, task in self.tasks.items() if task.parent in columns]
        self._parents = self._index([columns[str(parent)] for parent, _ in self.edges])
        self._children = self._index([columns[child] for _, child in self.edges])
        self._derived_children = self._index([columns[child] for child, _ in derived.values()])
        self._derived_givens = self._index([columns[given] for _, given in derived.values()])
        self.reset()

    def _index(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    @torch.inference_mode(False)
    def reset(self) -> None:
        """Forget all rows, for the next evaluation."""
        count = max(len(self.scenarios), 1)
        truths = [self.tasks[n].truth is not None for n in self._binary_names]
        self._binary = BinaryMetrics(self._binary_names, truths, count, self.device)
        self._values = ValueMetrics({n: self.tasks[n] for n in self._value_names}, count, self.device)
        self._sample = GroupedSample(
            len(self._binary_names),
            len(self._value_names),
            self.sample_rows,
            self.device,
            self.with_requests,
            self._values.own,
            any(task.weight_column for task in self.tasks.values()),
            0 if self._formulas is None else len(self._formulas.formulas) + 2,
        )
        self._fused = None if self._formulas is None else FusedMetrics(self._formulas, self.tasks, self.device)
        self._rows = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._order = torch.zeros(len(self.edges) + 1, dtype=torch.int64, device=self.device)
        self._summed: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(
        self,
        logits: Tensor,
        labels: Tensor,
        observed: Tensor,
        weight: Tensor,
        valid: Tensor,
        scenario: Tensor | None = None,
        group: Tensor | None = None,
        truth: Tensor | None = None,
        request: Tensor | None = None,
        scores: Tensor | None = None,
        row_weight: Tensor | None = None,
    ) -> None:
        """Add one batch.

        Args:
            logits: [B, O] with the columns of `Outputs`, read as 32-bit floats.
            labels: [B, T]; whatever stands where a label is not observed (NaN too) has no effect.
            observed: [B, T] bool.
            weight: [B] ≥ 0, or [B, T] if a task has a `weight_column`; a row of weight 0 counts nowhere but in the order of the
                funnel.
            valid: [B] bool, false for rows that only fill up the batch.
            scenario: [B] int64 index into `scenarios`; beyond either end it is taken for the nearest. None: the first.
            group: [B] int64 id of the row's group; None: no GAUC, and every request, or every row, is a group of its own.
            truth: [B, T] true probability or mean, NaN where absent; read only for tasks with a `truth` column.
            request: [B] int64 id of the row's request within its group; None: no NDCG and no MRR.
            scores: [B, S] of the formulas of `score`, given with it and only with it.
            row_weight: [B] the weight for all tasks, which counts for `scores`; None: `weight`, if it is [B].
        """
        if len(self._derived_children):
            children, givens = self._derived_children, self._derived_givens
            labels, observed = with_derived(labels, observed, children, givens)
            # The true P(child | given) is the quotient of the two
            truth = None if truth is None else torch.cat((truth, truth[:, children] / truth[:, givens]), 1)
        if scores is not None and row_weight is None and weight.dim() > 1:
            raise ValueError("tasks have their own weights; `scores` need the `row_weight` too")
        if row_weight is None:
            row_weight = weight
        if weight.dim() == 1:
            weight = weight.unsqueeze(1)
        elif len(self._derived_children):
            weight = torch.cat((weight, weight[:, self._derived_children]), 1)
        if self._summed is not None:
            raise RuntimeError("these metrics hold the sums of all workers; call reset() before the next evaluation")
        if (request is not None) != self.with_requests:
            raise ValueError("`request` is given to metrics made `with_requests`, and only to them")
        if (scores is not None) != (self._formulas is not None):
            raise ValueError("`scores` are given to metrics made with a `score`, and only to them")
        logits = logits.float()
        if scenario is None:
            scenario = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        scenario = scenario.clamp(0, max(len(self.scenarios), 1) - 1)
        weight = weight.double().masked_fill(~(valid.unsqueeze(1) & (weight > 0)), 0.0)
        taken = observed & (weight > 0)
        self._rows += valid.sum()
        if self.edges:
            wrong = (logits[:, self._children] > logits[:, self._parents]) & valid.unsqueeze(1)
            self._order += torch.cat([wrong.sum(dim=0), wrong.any(dim=1).sum().unsqueeze(0)])
        binary = Rows(*(_columns(v, self._binary_columns) for v in (logits, labels, taken)))
        outputs = [self._outputs.of(logits, column) for column in self._value_places]
        ordered = [self._score(column, own) for column, own in zip(self._value_places, outputs, strict=True)]
        values = Rows(
            torch.stack(ordered, 1) if ordered else logits[:, :0],
            *(_columns(v, self._value_columns) for v in (labels, taken)),
        )
        own, several = None, weight.shape[1] > 1
        binary_weight, value_weight = (
            _columns(weight, columns) if several else weight for columns in (self._binary_columns, self._value_columns)
        )
        if self._binary_names:
            best = None if truth is None else _columns(truth, self._binary_columns)
            self._binary.update(*binary, binary_weight, scenario, best)
        if self._value_names:
            best = None if truth is None else _columns(truth, self._value_columns)
            own = self._values.update(outputs, *values, value_weight, scenario, best)
        ranked = None
        if self._fused is not None and scores is not None:
            ranked = self._fused.update(scores, labels, observed & valid.unsqueeze(1), row_weight)
        kept = torch.cat((binary_weight, value_weight), 1) if several else weight
        self._sample.update(binary, values, kept, scenario, group, request, own, ranked)

    def _score(self, column: int, outputs: Tensor) -> Tensor:
        """The scores [B] of a task's outputs; NaN where one of several is not finite."""
        objective = self._outputs.objectives[column]
        score = objective.score(outputs)
        return score if objective.outputs == 1 else score.masked_fill(~outputs.isfinite().all(1), torch.nan)

    def state(self) -> dict[str, Tensor]:
        """All counters by name; the sum over workers of each is the counter of all rows.

        Names and shapes depend on the configuration alone. Most are the live tensors, not copies: reducing them in place and
        then calling `load_state` costs no extra memory, but clone them if this object is to be used further.
        """
        if self._summed is not None:
            return self._summed
        parts = {"binary": self._binary.state(), "values": self._values.state(), "sample": self._sample.counts()}
        parts |= {} if self._fused is None else {"fused": self._fused.state()}
        state = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        state |= {"rows": self._rows, "order": self._order}
        return {name: tensor for name, tensor in state.items() if tensor.numel()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put in the counters summed over all workers; from here on only `gather_form`, `compute` and `reset` make sense."""
        own = self.state()
        if own.keys() != state.keys() or any(own[n].shape != state[n].shape for n in own):
            raise ValueError("the state belongs to other tasks or scenarios")
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self._summed = own

    def merge(self, state: dict[str, Tensor]) -> None:
        """Add the counters of another worker, for use without collectives."""
        own = self.state()
        self.load_state({name: tensor + state[name].to(tensor.device) for name, tensor in own.items()})

    def gather_form(self) -> dict[str, Tensor]:
        """This worker's rows of the sample of groups: tensors whose first dim is N, its own on each worker.

        Call it after `load_state`: the summed counters tell every worker which groups all of them have kept, and how many of
        them fit into `sample_rows_total`. Names, dtypes and the other dims are the same on all workers; N may be 0.
        """
        return self._sample.rows_at(self._level())

    def _level(self) -> int:
        state = self.state()
        return common_level(state["sample.rows_by_level"], state["sample.workers_by_level"], self.sample_rows_total)

    @torch.no_grad()
    def compute(self, gathered: list[dict[str, Tensor]] | None = None) -> dict[str, Any]:
        """Read all metrics off the counters: a nested dict of plain numbers, strings, lists and None.

        Args:
            gathered: `gather_form()` of every worker, this one included; none: GAUC, NDCG and intervals from this worker's rows.

        Returns:
            `tasks`: metrics by task; `scenarios`: the same by scenario and task; `order_violation_rate`: by edge
            (`parent>child`) and `overall`, None without a funnel; `mean_auc` over the tasks that have an AUC, derived outputs
            left out; `scores`: metrics by formula, only with a `score`; `rows`; `group_effects`: by task and metric what
            `intervals.difference` compares two results with, empty without a group column and without requests.
            What each number means is in `docs/metrics.md`.
        """
        overall, parts = self._binary.compute()
        more, more_parts = self._values.compute()
        overall = {name: (overall | more)[name] for name in self.tasks}
        parts = [{name: (a | b)[name] for name in self.tasks} for a, b in zip(parts, more_parts, strict=True)]
        effects, scores = self._complete([overall, *parts], gathered)
        areas = [overall[n]["auc"] for n in self._main if overall[n].get("auc") is not None]
        return {
            "rows": int(self._rows),
            "mean_auc": sum(areas) / len(areas) if areas else None,
            "tasks": overall,
            "scenarios": dict(zip(self.scenarios, parts, strict=True)) if self.scenarios else {},
            "order_violation_rate": self._order_rates(),
            **({} if self._fused is None else {"scores": scores}),
            "group_effects": effects,
        }

    def _complete(
        self, reports: list[dict[str, Any]], gathered: list[dict[str, Tensor]] | None
    ) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any]]:
        """Add to the reports what needs the rows of all workers; returns the folded effects of the groups, and the reports of the
        formulas."""
        shards = [self.gather_form()] if gathered is None else gathered
        rows = {name: torch.cat([shard[name].to(self.device) for shard in shards]) for name in shards[0]}
        sample = Sample(rows, self._level(), bool(self.state()["sample.grouped_batches"]), self.with_requests)
        effects = {}
        for column, name in enumerate(self._binary_names):
            effects[name] = sample.complete_binary(column, [report[name] for report in reports])
        for column, name in enumerate(self._value_names):
            own = self._values.own_of(column)
            effects[name] = sample.complete_values(column, own, self.tasks[name], [report[name] for report in reports])
        effects = {name: effects[name] for name in self.tasks if effects[name]}
        if self._fused is None:
            return effects, {}
        lists = "request" if self.with_requests else "group"
        scores, moved = self._fused.compute(sample.rows, self._binary_names, lists)
        return effects | moved, scores

    def _order_rates(self) -> dict[str, float] | None:
        rows = int(self._rows)
        if not self.edges or rows == 0:
            return None
        names = [f"{parent}>{child}" for parent, child in self.edges]
        return {name: count / rows for name, count in zip([*names, "overall"], self._order.tolist(), strict=True)}


def _conditional(tasks: Mapping[str, Task], child: str, given: str) -> Task:
    """The task whose metrics a derived output gets; with truth where both of its parts have it."""
    known = tasks[child].truth is not None and tasks[given].truth is not None
    return Task(label=child, given=given, truth=f"{child}|{given}" if known else None)


def _columns(values: Tensor, index: Tensor) -> Tensor:
    """The columns `index` of [B, ≥ T]; the tensor itself where it is all of them."""
    return values if len(index) == values.shape[1] else values.index_select(1, index)
