"""What the report of a search is about: its trials, and their numbers as the user knows them (not signed)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raymtl.config.metrics import RUN_METRICS, Metric, find_metric, parse_metric
from raymtl.intervals import MeanInterval, mean_interval
from raymtl.objectives.metrics.choose import lower_is_better, signed_value
from raymtl.reports import style
from raymtl.tuning.objective import unsigned
from raymtl.tuning.recommendation import keeps_limits
from raymtl.tuning.search import SEARCHED, Search
from raymtl.tuning.trial_store import Trial

POINTS = "% points"


@dataclass(frozen=True)
class View:
    """A search to be shown."""

    search: Search
    result: Mapping[str, Any]
    """What `result.json` holds."""

    @cached_property
    def trials(self) -> list[Trial]:
        """Those of the search, without the repeats."""
        return sorted(self.search.trial_store.of_kind(*SEARCHED), key=lambda t: t.number)

    @cached_property
    def finished(self) -> list[Trial]:
        """The finished ones."""
        return [t for t in self.trials if t.status == "finished" and t.metrics is not None]

    @cached_property
    def default(self) -> Trial | None:
        return next((t for t in self.trials if t.kind == "default"), None)

    @cached_property
    def best(self) -> Trial | None:
        """The one that measured best within the limits."""
        return next((t for t in self.trials if t.number == self.result["best"]), None)

    @cached_property
    def recommended(self) -> Trial | None:
        """The best one if its gain is beyond chance, else the default."""
        return next((t for t in self.trials if t.number == self.result["recommended"]), None)

    def over_seeds(self, trial: Trial, name: str) -> MeanInterval | None:
        """A number over the fresh seeds of a trial; None: it was not repeated."""
        repeats = [t for t in self.search.trial_store.of_kind("repeat") if t.of == trial.number]
        values = [v for t in repeats if t.status == "finished" and (v := self.value(t, name)) is not None]
        return mean_interval(values) if values else None

    @property
    def goals(self) -> list[str]:
        """The numbers of the objective."""
        return self.search.evaluator.names

    @property
    def limits(self) -> list[str]:
        """Metrics of `subject_to`."""
        return list(self.search.evaluator.objective.subject_to)

    @cached_property
    def tasks(self) -> dict[str, str]:
        """Names of the tasks, and the metric that stands for each."""
        found = self.search.config.active_tasks()
        return {name: f"{name}.{task.traits.headline}" for name, task in found.items()}

    @cached_property
    def colours(self) -> dict[str, str]:
        """Of the tasks."""
        return style.task_colours(list(self.tasks))

    # Numbers

    def value(self, trial: Trial, name: str) -> float | None:
        """A number of the objective or a metric, of the trial's last evaluation."""
        return self.value_in(trial.metrics, name)

    def value_in(self, metrics: Mapping[str, Any] | None, name: str) -> float | None:
        """The same of any evaluation."""
        if metrics is None:
            return None
        if self._is_mean(name):
            values = self.search.evaluator.values(dict(metrics))
            return None if values is None else values[0]
        try:
            value = signed_value(dict(metrics), name)
        except (KeyError, ValueError):  # a task that this evaluation does not have
            return None
        return None if value is None or not math.isfinite(value) else unsigned(name, value)

    def lower(self, name: str) -> bool:
        """Whether lower is better."""
        return not self._is_mean(name) and lower_is_better(name)

    def _is_mean(self, name: str) -> bool:
        return self.search.evaluator.objective.mean is not None and name in self.goals

    def meets_limits(self, trial: Trial) -> bool:
        """Whether it keeps all limits; the default and the best trial by their repeats, if there are any."""
        if trial.metrics is not None and trial in (self.default, self.best):
            return keeps_limits(self.search, trial)
        default = None if self.default is None else self.default.metrics
        return trial.metrics is None or self.search.evaluator.meets_limits(trial.metrics, default)

    def limit(self, name: str, base: float | None = None) -> float | None:
        """Where the limit on a metric lies, if there is one; `base` stands for the default's value."""
        bound = self.search.evaluator.objective.subject_to.get(name)
        if bound is None:
            return None
        if bound.max_drop is None:
            return bound.at_least if bound.at_least is not None else bound.at_most
        if base is None and self.default is not None:
            base = self.value(self.default, name)
        return None if base is None else base + bound.max_drop * (1 if self.lower(name) else -1)

    def limit_is_ceiling(self, name: str) -> bool:
        """Whether it is kept below the limit."""
        bound = self.search.evaluator.objective.subject_to[name]
        return bound.at_most is not None or (bound.max_drop is not None and self.lower(name))

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """The recommended one first, then by the objective; those that break a limit, were stopped or failed follow."""
        points = {
            t.number: v for t in trials if t.metrics and (v := self.search.evaluator.values(t.metrics)) is not None
        }
        whole = [points[t.number] for t in self.finished if t.number in points] or list(points.values())
        spreads = [statistics.pstdev(values) or 1.0 for values in zip(*whole, strict=True)]
        order = {"finished": 1, "running": 3, "stopped": 4, "failed": 5}

        def place(trial: Trial) -> tuple[int, float, int]:
            group = order[trial.status] + (trial.status == "finished" and not self.meets_limits(trial))
            values = points.get(trial.number)
            score = sum(v / s for v, s in zip(values, spreads, strict=True)) if values else -math.inf
            return (0 if trial is self.recommended else group, -score, trial.number)

        return sorted(trials, key=place)

    def colour(self, name: str, other: str) -> str:
        """That of the task that a metric is about; `other` where it is about none."""
        return self.colours.get(parse_metric(name).task, other)

    # Paragraph

    @staticmethod
    def is_share(name: str) -> bool:
        """Whether a metric is shown as per cent."""
        return name in RUN_METRICS and RUN_METRICS[name].is_share

    def label(self, name: str) -> str:
        """A metric as the label of an axis."""
        metric = find_metric(name)
        words = name
        if isinstance(metric, Metric):
            words = f"{parse_metric(name).task}: {metric.axis}"
        elif metric is not None:
            words = metric.label
        return text(f"{words}, lower is better" if self.lower(name) else words)

    def show(self, name: str, value: float | None) -> str:
        """A value of a metric."""
        if value is None:
            return "–"
        if self.is_share(name):
            return style.percent(value, 2)
        return style.number(value, 4) if abs(value) < 10 else style.significant(value, 4)

    def difference(self, name: str, value: float) -> str:
        """A difference of two values of a metric, with its sign."""
        return f"{style.change(100 * value, 2)} {POINTS}" if self.is_share(name) else style.change(value)


def text(words: str) -> str:
    """Words for a drawing, where dollars would begin a formula."""
    return words.replace("$", r"\$")


def config_value(config: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path of a configuration; None where nothing does."""
    inner: Any = config
    for key in path.split("."):
        if not isinstance(inner, Mapping) or key not in inner:
            return None
        inner = inner[key]
    return inner
