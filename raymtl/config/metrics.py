"""The metrics of an evaluation: their names and directions, and the names that the configuration uses.

`raymtl/objectives/metrics/` computes them. `docs/metrics.md` says what each number means.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.data import Data
from raymtl.config.task_kinds import Binary, TaskKind, Values


@dataclass(frozen=True)
class Metric:
    """One metric of a task; `name` is its key in the task's report."""

    name: str
    label: str
    """Column header, and name next to a number."""
    better: Literal["higher", "lower"] | None
    """None: neither; the best value is `target`, so the metric cannot be used for selection."""
    kinds: tuple[type[TaskKind], ...] = ()
    """Task kinds that have it, including derived ones, unless they are `without` it; a kind names its `own` metrics itself."""
    words: str = ""
    """The name in a sentence; empty: the label."""
    unit: str = ""
    decimals: int | None = None
    """Decimals in a table; None: significant digits, for a metric on the scale of the label or the loss."""
    short: str = ""
    """Column header on a terminal; empty: the label."""
    wide_only: bool = False
    """Omitted on terminals, which are narrow, and last in other tables."""
    needs: Literal["group", "request"] | None = None
    """Null without this key of `data`; a column without any value is omitted."""
    chance: float | None = None
    """Value of a random model; values that are worse by more than chance allows are highlighted."""
    target: float | None = None
    """The best value; values that differ by more than 10 %, and by more than chance allows, are highlighted."""
    is_bounded: bool = False
    """Between 0 and 1: its interval is symmetric on the scale of log(a / (1 − a))."""

    @property
    def in_words(self) -> str:
        """The name in a sentence."""
        return self.words or self.label

    @property
    def axis(self) -> str:
        """The name with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def is_measured(self, data: Data) -> bool:
        """Whether the data have what the metric needs."""
        return {"group": data.group is not None, "request": data.has_complete_requests, None: True}[self.needs]

    def is_odd(self, value: float | None) -> bool:
        """Whether a value is suspicious, if the rows are so many that it is not chance."""
        if value is None:
            return False
        if self.target is not None and abs(value - self.target) > 0.1 * self.target:
            return True
        return self.chance is not None and (value > self.chance if self.better == "lower" else value < self.chance)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auc", "AUC", "higher", (Binary,), decimals=4, chance=0.5, is_bounded=True),
        Metric("gauc", "GAUC", "higher", (Binary,), decimals=4, needs="group", is_bounded=True),
        Metric("ndcg_10", "NDCG@10", "higher", (Binary, Values), decimals=4, needs="request", is_bounded=True),
        Metric(
            "ndcg", "NDCG", "higher", (Binary, Values), decimals=4, wide_only=True, needs="request", is_bounded=True
        ),
        Metric("mrr", "MRR", "higher", (Binary,), decimals=4, wide_only=True, needs="request", is_bounded=True),
        Metric(
            "pr_auc",
            "PR-AUC",
            "higher",
            (Binary,),
            decimals=4,
            wide_only=True,
            words="average precision",
            is_bounded=True,
        ),
        Metric(
            "concordance", "concordance", "higher", (Values,), decimals=4, chance=0.5, short="conc.", is_bounded=True
        ),
        Metric("gini", "Gini", "higher", (Values,), decimals=4, words="normalised Gini coefficient", chance=0.0),
        # NE says the same, and a terminal is narrow
        Metric("logloss", "log loss", "lower", (Binary,), unit="nats", wide_only=True),
        Metric("ne", "NE", "lower", (Binary,), decimals=4),
        Metric("accuracy", "accuracy", "higher", decimals=4, is_bounded=True),
        Metric("top_3_accuracy", "top-3 accuracy", "higher", decimals=4, short="top 3", is_bounded=True),
        Metric("poisson_deviance", "deviance", "lower", words="Poisson deviance"),
        Metric("geometric_deviance", "deviance", "lower", words="geometric deviance"),
        Metric("ziln_loss", "ZILN loss", "lower"),
        Metric("pinball", "pinball", "lower", words="pinball loss"),
        Metric("coverage", "coverage", None, decimals=4),
        Metric("mse", "MSE", "lower", (Values,), words="mean squared error"),
        Metric("rmse", "RMSE", "lower", (Values,), wide_only=True),
        Metric("mae", "MAE", "lower", (Values,)),
        Metric("nmae", "NMAE", "lower", (Values,), decimals=4, wide_only=True),
        Metric("mape", "MAPE", "lower", (Values,), decimals=4, wide_only=True),
        Metric("smape", "SMAPE", "lower", (Values,), decimals=4, wide_only=True),
        Metric("decile_error", "decile error", "lower", (Values,), decimals=4, wide_only=True),
        Metric(
            "calibration_error",
            "ECE",
            "lower",
            (Binary,),
            words="expected calibration error",
            decimals=5,
            wide_only=True,
        ),
        Metric("calibration", "calibration", None, (Binary, Values), decimals=3, short="calib.", target=1.0),
    )
}
"""All metrics of tasks, in the order of reports; tables have the calibration first, and those with `wide_only` last."""


FUSED: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("value", "value", "higher"),
        Metric("ndcg", "NDCG", "higher", decimals=4, is_bounded=True),
        Metric("gauc", "GAUC", "higher", decimals=4, chance=0.5, is_bounded=True),
    )
}
"""The metrics of a formula of `score`, in the order of reports; a report has `gauc_<task>` for each event with a gain."""


def fused_label(name: str, at: int) -> str:
    """The name of a metric of a formula in reports: `value@10`, `GAUC click`."""
    metric, _, task = name.partition("_")
    return f"{FUSED[metric].label} {task}" if task else f"{FUSED[metric].label}@{at}"


@dataclass(frozen=True)
class RunMetric:
    """One metric over all tasks; `name` is its name in the configuration."""

    name: str
    label: str
    better: Literal["higher", "lower"]
    place: tuple[str, ...]
    """Keys that lead to it in the result of an evaluation."""
    is_share: bool = False
    """Shown as a percentage."""


MEAN_AUC = RunMetric("mean_auc", "mean AUC", "higher", ("mean_auc",))
ORDER = RunMetric(
    "order_violations", "rows out of order", "lower", ("order_violation_rate", "overall"), is_share=True
)  # the share of evaluation rows in which a child of the funnel is more probable than its parent
RUN_METRICS: dict[str, RunMetric] = {metric.name: metric for metric in (MEAN_AUC, ORDER)}
"""All metrics over all tasks."""


class MetricName(NamedTuple):
    """What `train.select`, `train.early_stop.metric` and `tune.objective` name."""

    task: str
    """Empty: the metric is about all tasks together."""
    metric: str


def parse_metric(name: str) -> MetricName:
    """Split a name: `<task>.<metric>`, where the task may contain dots, or the name of a metric over all tasks."""
    task, _, metric = name.rpartition(".")
    return MetricName(task, metric)


def find_metric(name: str) -> Metric | RunMetric | None:
    """The metric with this name; None if there is none."""
    task, metric = parse_metric(name)
    return METRICS.get(metric) if task else RUN_METRICS.get(metric)


def metrics_of_kind(kind: type[TaskKind]) -> list[Metric]:
    """The metrics of the tasks of a kind, in the order of reports."""
    return [
        m for m in METRICS.values() if (issubclass(kind, m.kinds) and m.name not in kind.without) or m.name in kind.own
    ]


def choosable(kind: type[TaskKind], data: Data | None = None) -> list[str]:
    """Names of the metrics by which runs of a task of this kind can be compared; with `data`, of those that it allows."""
    known = [metric for metric in metrics_of_kind(kind) if metric.better is not None]
    return [metric.name for metric in known if data is None or metric.is_measured(data)]


def why_not_choosable(metric: str, task: str, kind: type[TaskKind], data: Data) -> str | None:
    """Why runs cannot be compared by a metric of a task, as the end of a sentence that names the metric; None: they can be."""
    known = choosable(kind, data)
    if metric in known:
        return None
    if metric in choosable(kind) and METRICS[metric].needs == "request" and data.by_request:
        return f", which needs complete requests, but data.sampling says that rows were dropped; choose one of {quoted(known)}"
    if metric in choosable(kind):
        return f", which needs data.{METRICS[metric].needs}; set that, or choose one of {quoted(known)}"
    return f"; the `{kind.name}` task `{task}` can be judged by {quoted(known)}{did_you_mean(metric, known)}"


def look_up(report: dict[str, Any] | None, place: tuple[str, ...]) -> Any:
    """The value at these keys of nested dicts; None if a key is missing."""
    found: Any = report
    for key in place:
        found = (found or {}).get(key)
    return found
