"""The metrics of an evaluation: what each is called and which way it is better, and the names that the configuration uses.

How they are computed is in `raymtl/objectives/metrics/`. `docs/metrics.md` says what each number means.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from raymtl.config.task_kinds import Binary, TaskKind, Values


@dataclass(frozen=True)
class Metric:
    """One metric of a task, by the key that it has in the task's report."""

    name: str
    label: str
    """Head of a column, and name beside a number."""
    better: Literal["higher", "lower"] | None
    """None: neither, the best value lies in between, so nothing can be chosen by it."""
    kinds: tuple[type[TaskKind], ...] = ()
    """Kinds that have it, with those derived from them; a kind names its own `deviance` itself."""
    words: str = ""
    """The name in a sentence; empty: the label."""
    unit: str = ""
    decimals: int | None = None
    """Decimals in a table; None: it has the scale of the label or the loss, so significant digits."""
    short: str = ""
    """Head of a column on a terminal; empty: the label."""
    wide_only: bool = False
    """Left out on terminals, which are narrow."""
    needs_group: bool = False
    """Null without `data.group`; without any value its column is left out."""
    chance: float | None = None
    """What guessing gets: a value on the wrong side of it is marked."""
    target: float | None = None
    """The best value; one that is further off than a tenth is marked."""

    @property
    def in_words(self) -> str:
        """The name in a sentence."""
        return self.words or self.label

    @property
    def axis(self) -> str:
        """The name with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def is_odd(self, value: float | None) -> bool:
        """Whether a value asks for a look."""
        if value is None:
            return False
        if self.target is not None and abs(value - self.target) > 0.1 * self.target:
            return True
        return self.chance is not None and (value > self.chance if self.better == "lower" else value < self.chance)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auc", "AUC", "higher", (Binary,), decimals=4, chance=0.5),
        Metric("gauc", "GAUC", "higher", (Binary,), decimals=4, needs_group=True),
        # NE says the same, and a terminal is narrow
        Metric("logloss", "log loss", "lower", (Binary,), unit="nats", wide_only=True),
        Metric("ne", "NE", "lower", (Binary,), decimals=4),
        Metric("poisson_deviance", "deviance", "lower", words="Poisson deviance"),
        Metric("mse", "MSE", "lower", (Values,), words="mean squared error"),
        Metric("rmse", "RMSE", "lower", (Values,)),
        Metric("mae", "MAE", "lower", (Values,)),
        Metric("nmae", "NMAE", "lower", (Values,), decimals=4),
        Metric("smape", "SMAPE", "lower", (Values,), decimals=4),
        Metric("calibration", "calibration", None, (Binary, Values), decimals=3, short="calib.", target=1.0),
    )
}
"""All metrics of tasks, in the order of reports."""


@dataclass(frozen=True)
class RunMetric:
    """One metric of all tasks together, by the name that the configuration uses."""

    name: str
    label: str
    better: Literal["higher", "lower"]
    place: tuple[str, ...]
    """Keys that lead to it in the result of an evaluation."""
    is_share: bool = False
    """Shown as per cent."""


MEAN_AUC = RunMetric("mean_auc", "mean AUC", "higher", ("mean_auc",))
ORDER = RunMetric(
    "order_violations", "rows out of order", "lower", ("order_violation_rate", "overall"), is_share=True
)  # the share of evaluation rows in which a child of the funnel is more probable than its parent
RUN_METRICS: dict[str, RunMetric] = {metric.name: metric for metric in (MEAN_AUC, ORDER)}
"""All metrics that belong to no task."""


class MetricName(NamedTuple):
    """What `train.select`, `train.early_stop.metric` and `tune.objective` name."""

    task: str
    """Empty: the metric is about all tasks together."""
    metric: str


def parse_metric(name: str) -> MetricName:
    """Take a name apart: `<task>.<metric>`, where a task may have dots, or the name of a metric of all tasks."""
    task, _, metric = name.rpartition(".")
    return MetricName(task, metric)


def find_metric(name: str) -> Metric | RunMetric | None:
    """What is known of a metric, by its name; None where it is not known."""
    task, metric = parse_metric(name)
    return METRICS.get(metric) if task else RUN_METRICS.get(metric)


def metrics_of_kind(kind: type[TaskKind]) -> list[Metric]:
    """The metrics of the tasks of a kind, in the order of reports."""
    return [m for m in METRICS.values() if issubclass(kind, m.kinds) or m.name == kind.deviance]


def choosable(kind: type[TaskKind], has_group: bool = True) -> list[str]:
    """Names of the metrics by which runs of a task of this kind can be compared."""
    return [m.name for m in metrics_of_kind(kind) if m.better is not None and (has_group or not m.needs_group)]


def look_up(report: dict[str, Any] | None, place: tuple[str, ...]) -> Any:
    """What lies at these keys of nested dicts; None where a key is missing."""
    found: Any = report
    for key in place:
        found = (found or {}).get(key)
    return found
