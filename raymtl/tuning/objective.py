"""The objective of a search: one number or several from an evaluation, and the limits a trial must meet.

Every number here is signed: higher is better, whatever the metric.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.metrics import MEAN_AUC, ORDER, RUN_METRICS, parse_metric, why_not_choosable
from raymtl.config.root import Config
from raymtl.config.tune import ASHA, Bound, MedianStop, Objective, Tune
from raymtl.errors import ConfigError
from raymtl.objectives.metrics.choose import lower_is_better, signed_value

Metrics = dict[str, Any]


def unsigned(name: str, value: float) -> float:
    """A signed value as the metric itself."""
    return -value if lower_is_better(name) else value


def excess(name: str, bound: Bound, value: float, base: float | None) -> float:
    """By how much a metric violates a limit; 0 or less: it is met. `value` and that of the default, `base`, are signed."""
    if bound.max_drop is not None:
        return 0.0 if base is None else base - bound.max_drop - value
    if bound.at_least is not None:
        return bound.at_least - unsigned(name, value)
    return unsigned(name, value) - float(bound.at_most or 0.0)


@dataclass(frozen=True)
class ObjectiveEvaluator:
    """An objective that evaluates metrics."""

    objective: Objective

    @property
    def names(self) -> list[str]:
        """What `values` holds, one name per value."""
        if self.objective.metric is not None:
            return [self.objective.metric]
        return ["weighted mean"] if self.objective.mean is not None else list(self.objective.pareto or [])

    def values(self, metrics: Metrics | None) -> list[float] | None:
        """The numbers to maximise; None if there are no metrics yet or one of them is null."""
        if not metrics:
            return None
        weights = self.objective.mean
        found = [signed_value(metrics, name) for name in self.objective.goals()]
        if any(v is None for v in found):
            return None
        numbers = [float(v) for v in found if v is not None]
        if weights is None:
            return numbers
        return [sum(w * v for w, v in zip(weights.values(), numbers, strict=True)) / sum(weights.values())]

    def violations(self, metrics: Metrics, default: Metrics | None) -> list[float]:
        """By how much each limit of `subject_to` is violated, in their order; 0 or less: it is met.

        Without the metrics of the default configuration, a limit relative to it counts as met.
        """
        found = []
        for name, bound in self.objective.subject_to.items():
            value = signed_value(metrics, name)
            base = signed_value(default, name) if default is not None else None
            found.append(1.0 if value is None else excess(name, bound, value, base))
        return found

    def meets_limits(self, metrics: Metrics, default: Metrics | None) -> bool:
        """Whether every limit is met."""
        return all(excess <= 0 for excess in self.violations(metrics, default))


def stopping_value(tune: Tune, metrics: Metrics) -> float | None:
    """The signed number by which the stopping rule judges a trial."""
    by = getattr(tune.stopping, "by", None)
    if by is not None:
        return signed_value(metrics, by)
    values = ObjectiveEvaluator(tune.objective).values(metrics)
    return None if values is None else values[0]


def objective_problems(config: Config, tune: Tune) -> Iterator[str]:
    """One message for each fault of the metrics that the search names."""
    goals = tune.objective
    where = "metric" if goals.metric is not None else "mean" if goals.mean is not None else "pareto"
    named = {f"tune.objective.{where}": goals.goals(), "tune.objective.subject_to": list(goals.subject_to)}
    stopping = tune.stopping
    if isinstance(stopping, ASHA | MedianStop):
        if stopping.by is not None:
            named["tune.stopping.by"] = [stopping.by]
        elif goals.pareto is not None:
            yield (
                "tune.stopping.by is missing: with a `pareto` objective no single number says which trial is behind; name one, "
                "such as `mean_auc`"
            )
    for key, names in named.items():
        for name in names:
            if problem := metric_problem(config, name):
                yield f"{key} {problem}"
    for name in {n for n in goals.goals() if goals.goals().count(n) > 1}:
        yield f"tune.objective.{where} names `{name}` twice"


def metric_problem(config: Config, name: str) -> str | None:
    """What is wrong with a metric's name, if anything."""
    tasks = config.active_tasks()
    if name in ("loss", "train.loss", "total_loss"):
        return (
            f"is `{name}`, but the training loss changes with the weights that are searched; use a metric of the evaluation, "
            f"such as `{next(iter(tasks))}.logloss`"
        )
    if name == MEAN_AUC.name:
        return None if any(t.is_event for t in tasks.values()) else f"is `{name}`, but no task is binary"
    if name == ORDER.name:
        return None if any(t.parent for t in tasks.values()) else f"is `{name}`, but no task has a `parent`"
    task, metric = parse_metric(name)
    if task not in tasks:
        known = [f"{t}.{metric if task else 'auc'}" for t in tasks]
        near = did_you_mean(name, [*RUN_METRICS, *known])
        return f"names `{name}`; expected {quoted(RUN_METRICS)} or `<task>.<metric>` with one of the tasks {quoted(tasks)}{near}"
    problem = why_not_choosable(metric, task, tasks[task].traits, config.data)
    return f"names `{name}`{problem}" if problem else None


def check_objective(config: Config, tune: Tune) -> None:
    """Raise ConfigError if the objective cannot be computed."""
    problems = list(objective_problems(config, tune))
    if config.data.eval is None:
        problems.insert(0, "data.eval is missing; a search compares trials on evaluation days")
    if problems:
        raise ConfigError("\n".join(problems))


def front(points: Mapping[int, Sequence[float]]) -> list[int]:
    """The keys of the points that no other one beats: at least as good everywhere and better somewhere (higher is better)."""
    return [
        key
        for key, point in points.items()
        if not any(
            all(o >= p for o, p in zip(other, point, strict=True))
            and any(o > p for o, p in zip(other, point, strict=True))
            for other in points.values()
        )
    ]


def area(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Area that points of two objectives dominate above a reference point (the hypervolume in two dimensions)."""
    best = sorted((p for p in points if p[0] > reference[0] and p[1] > reference[1]), key=lambda p: (-p[0], -p[1]))
    total, height = 0.0, float(reference[1])
    for x, y in best:
        if y > height:
            total += (x - reference[0]) * (y - height)
            height = y
    return total
