"""The metrics of a run on the Prometheus endpoint of each Ray node: one table that declares them, and what sets them.

All are gauges. A run goes on after its workers were started anew, so what counts it (rows, steps, units) comes from its progress;
a counter of a worker would begin at nought with each start. Ray sends the values on every 10 s by itself, and forgets those of a
process that has ended. To set one costs microseconds and no device is asked, but only the log lines do it, not the steps.
"""

import math
from dataclasses import dataclass

from ray.util.metrics import Gauge

PREFIX = "raymtl_"
RAY_PREFIX = "ray_"
"""What Ray puts before every name on its endpoint."""

COMMON_TAGS = ("run", "rank")
"""Tags of every metric: `name` of the configuration, and the rank of the worker."""


@dataclass(frozen=True)
class Metric:
    """One metric; its name ends with its unit."""

    name: str
    """Without `raymtl_`."""
    ranks: str
    """Who sets it: `all` workers or the `first`."""
    meaning: str
    tags: tuple[str, ...] = ()
    """Tags besides `run` and `rank`."""


METRICS = (
    Metric("trained_rows", "first", "rows that the run has trained on so far, of all workers, earlier starts included"),
    Metric("trained_steps", "first", "steps so far, earlier starts included"),
    Metric("done_units", "first", "units of the current pass that are done"),
    Metric("unit_count", "first", "units of one pass"),
    Metric("pass_number", "first", "pass that the run is in, from 0"),
    Metric("train_rows_per_second", "first", "rows of all workers per second of training since the last log line"),
    Metric("step_seconds", "all", "mean time of a step since the last log line, waiting for data included"),
    Metric("data_wait_ratio", "all", "share of that time in which this worker waited for its next batch"),
    Metric(
        "collective_seconds",
        "all",
        "time of one sampled step in which a collective of that kind was under way (see below)",
        ("collective",),
    ),
    Metric("private_memory_bytes", "all", "memory of the worker's process that nobody shares"),
    Metric("task_loss_mean", "first", "mean loss of a task over the steps since the last log line", ("task",)),
    Metric("eval_auc_ratio", "first", "AUC of a task at the last evaluation; absent where it has none", ("task",)),
    Metric("eval_seconds", "first", "time of the last evaluation"),
    Metric("checkpoint_seconds", "all", "time that training stood still for the last checkpoint"),
    Metric("table_used_rows", "first", "rows of a `map` table that an ID holds", ("table",)),
    Metric("table_capacity_rows", "first", "rows of a `map` table", ("table",)),
    Metric("table_admitted_ids", "first", "IDs that the run's count of its logs admitted to a `map` table", ("table",)),
    Metric("table_evicted_ids", "first", "IDs that were evicted before that, by age or to make room", ("table",)),
    Metric("table_unknown_ratio", "first", "share of the lookups in the run's logs whose ID has no row", ("table",)),
    Metric(
        "next_day_auc_ratio",
        "first",
        "daily job: AUC of the published version on a day that it had not seen",
        ("task", "delay_days"),
    ),
)


class Gauges:
    """The metrics of one worker. Where its process has no Ray with an agent for metrics, setting them does nothing."""

    def __init__(self, run: str = "", rank: int = 0):
        self._tags = {"run": run, "rank": str(rank)}
        self._gauges: dict[str, Gauge] = {}

    def set(self, name: str, value: float | None, **tags: str) -> None:
        """Set a metric of `METRICS`; a value that there is not (None, not a number) is left out."""
        if value is None or not math.isfinite(value):
            return
        gauge = self._gauges.get(name)
        if gauge is None:
            metric = _BY_NAME[name]
            gauge = Gauge(PREFIX + name, metric.meaning, (*COMMON_TAGS, *metric.tags)).set_default_tags(self._tags)
            self._gauges[name] = gauge
        gauge.set(float(value), tags)


_BY_NAME = {metric.name: metric for metric in METRICS}
