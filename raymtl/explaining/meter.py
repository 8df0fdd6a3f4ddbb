"""The main metric of every task on the rows of a sample, and how certain a difference of two is.

A metric is taken apart into the effects of the groups (usually users), as in `objectives/metrics/intervals.py`: the effects of a
difference are the differences of the effects, so the interval of a difference on the same rows is as narrow as the two agree.

Shapes: N rows of the sample, n of them in a part, T tasks, G groups.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from raymtl.config.metrics import METRICS, Metric
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.explaining.sample import Sample
from raymtl.objectives.metrics.changes import MIN_GROUPS, half_width
from raymtl.objectives.metrics.grouped import grouped_auc
from raymtl.objectives.metrics.intervals import auc_effects, ratio_effects
from raymtl.objectives.outputs import Outputs
from raymtl.objectives.tasks import objective_of
from raymtl.reports.tables import ALL

V = TypeVar("V")
Key = tuple[str, str]
"""A task, and a scenario or `ALL`."""


@dataclass(frozen=True)
class Measured:
    """A difference of a metric, above 0 where the metric gets worse, or the metric itself."""

    value: float
    half: float
    """Half the width of its 95 % interval; infinite if the data do not tell."""


@dataclass(frozen=True)
class Score:
    """A metric, negated where lower is better, that can be compared with others on the same rows."""

    value: float
    effects: Tensor
    """[G] of the groups, float64."""

    def __sub__(self, other: "Score") -> "Score":
        """The difference on the same rows."""
        return Score(self.value - other.value, self.effects - other.effects)

    @property
    def half(self) -> float:
        """Half the width of its 95 % interval; infinite if the data do not tell."""
        used = int((self.effects != 0).sum())
        if not used:
            return 0.0  # nothing has changed in any row
        squares = self.effects.square()
        half = half_width(float(squares.sum()), float(squares.square().sum()), used)
        return math.inf if used < MIN_GROUPS or half is None else half

    def measured(self) -> Measured:
        """Without the effects, which take a number per user."""
        return Measured(self.value, self.half)


@dataclass(frozen=True)
class _Part:
    """The rows of one task in one scenario or in all."""

    task: Task
    column: int
    rows: Tensor
    labels: Tensor
    weight: Tensor
    index: Tensor
    """[n] the group of each row."""


class Meter:
    """Measures logits of the rows of one sample."""

    def __init__(self, config: Config, sample: Sample, outputs: Outputs):
        """`outputs` are the columns of the logits."""
        _, index = torch.unique(sample.group, return_inverse=True)
        self.groups = int(index.max()) + 1
        self._outputs = outputs
        self._parts: dict[Key, _Part] = {}
        scenarios = {ALL: torch.ones(sample.rows, dtype=torch.bool)}
        if config.data.scenario is not None and sample.scenario is not None:
            names = config.data.scenario.names
            scenarios |= {name: sample.scenario == n for n, name in enumerate(names)}
        for column, (name, task) in enumerate(config.active_tasks().items()):
            labels, weight = sample.labels[:, column], sample.weight[:, column]
            for scenario, inside in scenarios.items():
                rows = (inside & ~labels.isnan() & (weight > 0)).nonzero().squeeze(1)
                part = _Part(task, column, rows, labels[rows], weight[rows], index[rows])
                if _tells(part):
                    self._parts[name, scenario] = part

    @property
    def keys(self) -> list[Key]:
        """What is measured: every task, and every task in every scenario with enough labels."""
        return list(self._parts)

    def scores(self, logits: Tensor) -> dict[Key, Score]:
        """The main metrics of logits [N, O]."""
        return {key: self._score(part, logits[part.rows]) for key, part in self._parts.items()}

    def _score(self, part: _Part, logits: Tensor) -> Score:
        outputs = self._outputs.of(logits, part.column)
        if part.task.is_event:
            positive = part.labels > 0.5
            area, _, _ = grouped_auc(torch.zeros_like(part.index), 1, outputs, positive, part.weight)
            assert area is not None
            return Score(area, auc_effects(outputs, positive, part.weight, part.index, self.groups))
        objective, x, y = objective_of(part.task), outputs.double(), part.labels.double()
        traits = part.task.traits
        if traits.headline == "mse":
            loss = (objective.predict(objective.score(x)) - y).square()
        else:
            loss = objective.terms(x, y)[:, traits.own.index(traits.headline)]
        sums = torch.zeros(self.groups, 2, dtype=torch.float64)
        weight = part.weight.double()
        sums.index_add_(0, part.index, torch.stack((weight * loss, weight), 1))
        above, below = sums.unbind(1)
        return Score(-float(above.sum() / below.sum()), -ratio_effects(above, below))


def _tells(part: _Part) -> bool:
    """Whether there are enough labels and groups for a metric with an interval."""
    if len(part.index.unique()) < MIN_GROUPS:
        return False
    if not part.task.is_event:
        return True
    positives = int((part.labels > 0.5).sum())
    return MIN_GROUPS <= positives <= len(part.rows) - MIN_GROUPS


def headline_of(task: Task) -> Metric:
    """The main metric of a task."""
    return METRICS[task.traits.headline]


def unsigned(metric: Metric, value: float) -> float:
    """The value of a metric out of that of a `Score`."""
    return -value if metric.better == "lower" else value


def of_tasks(scores: Mapping[Key, V]) -> dict[str, V]:
    """Those over all scenarios, by task."""
    return {task: score for (task, scenario), score in scores.items() if scenario == ALL}
