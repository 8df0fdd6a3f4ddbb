"""One number out of a result, by the name that `train.select`, `train.early_stop.metric` and `tune.objective` use."""

import math
from typing import Any

from raymtl.config.metrics import MEAN_AUC, METRICS, RUN_METRICS, find_metric, look_up, parse_metric


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of a metric is the better one.

    Raises:
        ValueError: the metric is unknown, or has no better direction (such as `calibration` or `count`).
    """
    metric = find_metric(name)
    if metric is not None and metric.better is not None:
        return metric.better == "lower"
    known = ", ".join(sorted(m.name for m in METRICS.values() if m.better is not None))
    raise ValueError(
        f"`{name}` has no direction in which it improves; use {MEAN_AUC.name} or <task>.<metric> with one of {known}"
    )


def signed_value(result: dict[str, Any], name: str) -> float | None:
    """The value of a metric, negated where lower is better, so that higher always is; None where it is null or not finite."""
    value = value_of(result, name)
    if value is None or not math.isfinite(value):
        return None
    return -value if lower_is_better(name) else value


def value_of(result: dict[str, Any], name: str) -> float | None:
    """The value of a metric in what `EvalMetrics.compute` returned; None where it is null.

    Raises:
        ValueError: the result has no such task or metric.
    """
    if name in RUN_METRICS:
        return look_up(result, RUN_METRICS[name].place)
    task, metric = parse_metric(name)
    tasks = result["tasks"]
    if task not in tasks:
        raise ValueError(f"`{name}` names the task `{task}`, but the result has {list(tasks)}")
    if metric not in tasks[task]:
        kind = tasks[task]["kind"]
        raise ValueError(f"`{name}`: a {kind} task has no metric `{metric}`")
    return tasks[task][metric]
