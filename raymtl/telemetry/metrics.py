"""The metrics of a run on the Prometheus endpoint of each Ray node: the table that declares them, and the gauges.

All are gauges. A run resumes after its workers restart, so its counts (rows, steps, units) come from its progress; a worker's
counter would start from zero at each restart. Ray exports the values every 10 s and drops those of a process that has ended.
Setting one costs microseconds and does not synchronize the device; still, only the log lines set them, not the steps.
"""

import math
from dataclasses import dataclass

from ray.util.metrics import Gauge

PREFIX = "raymtl_"
RAY_PREFIX = "ray_"
"""Prefix that Ray adds to every name on its endpoint."""

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
    Metric("trained_rows", "first", "rows that all workers of the run have trained on, earlier starts included"),
    Metric("trained_steps", "first", "steps of the run, earlier starts included"),
    Metric("done_units", "first", "units of the current epoch that are done"),
    Metric("unit_count", "first", "units of one epoch"),
    Metric("epoch", "first", "epoch that the run is in, from 0"),
    Metric("train_rows_per_second", "first", "rows of all workers per second of training since the last log line"),
    Metric("step_fill_ratio", "first", "rows per step since the last log line, as a share of `train.batch_size`"),
    Metric("step_seconds", "all", "mean time of a step since the last log line, waiting for data included"),
    Metric("data_wait_ratio", "all", "share of that time in which this worker waited for its next batch"),
    Metric(
        "collective_seconds",
        "all",
        "time of one sampled step during which a collective of that kind ran (see below)",
        ("collective",),
    ),
    Metric("private_memory_bytes", "all", "memory that the worker's process shares with no other"),
    Metric("task_loss_mean", "first", "mean loss of a task over the steps since the last log line", ("task",)),
    Metric("eval_auc_ratio", "first", "AUC of a task at the last evaluation; absent if it is undefined", ("task",)),
    Metric("eval_seconds", "first", "time of the last evaluation"),
    Metric("checkpoint_seconds", "all", "time that the last checkpoint paused training"),
    Metric("table_used_rows", "first", "rows of a `map` table that are assigned to an ID", ("table",)),
    Metric("table_capacity_rows", "first", "rows of a `map` table", ("table",)),
    Metric("table_admitted_ids", "first", "IDs that the run's count of its logs admitted to a `map` table", ("table",)),
    Metric("table_evicted_ids", "first", "IDs evicted before that, by age or for lack of rows", ("table",)),
    Metric("table_unknown_ratio", "first", "share of the lookups in the run's logs whose ID has no row", ("table",)),
    Metric(
        "next_day_auc_ratio",
        "first",
        "daily job: AUC of the published version on a day after its training data",
        ("task", "delay_days"),
    ),
)


class Gauges:
    """The metrics of one worker. Setting them does nothing in a process without Ray's metrics agent."""

    def __init__(self, run: str = "", rank: int = 0):
        self._tags = {"run": run, "rank": str(rank)}
        self._gauges: dict[str, Gauge] = {}

    def set(self, name: str, value: float | None, **tags: str) -> None:
        """Set a metric of `METRICS`; a missing value (None, not a number) is ignored."""
        if value is None or not math.isfinite(value):
            return
        gauge = self._gauges.get(name)
        if gauge is None:
            metric = _BY_NAME[name]
            gauge = Gauge(PREFIX + name, metric.meaning, (*COMMON_TAGS, *metric.tags)).set_default_tags(self._tags)
            self._gauges[name] = gauge
        gauge.set(float(value), tags)


_BY_NAME = {metric.name: metric for metric in METRICS}
