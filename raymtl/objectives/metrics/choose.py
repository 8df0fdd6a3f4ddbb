"""One number out of a result, by the name that `train.select`, `train.early_stop.metric` and `tune.objective` use."""

import math
from typing import Any

ORDER = "order_violations"
"""The share of evaluation rows in which a child of the funnel is more probable than its parent; lower is better."""

LOWER_IS_BETTER = frozenset({"logloss", "ne", "poisson_deviance", "mse", "rmse", "mae", "nmae", "smape"})
"""Losses and errors: the smaller the better."""
HIGHER_IS_BETTER = frozenset({"mean_auc", "auc", "gauc"})
"""Ranking metrics: the larger the better. Calibration is in neither set: its best value is 1."""


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of `mean_auc` or `<task>.<metric>` is the better one.

    Raises:
        ValueError: the metric is unknown, or has no better direction (such as `calibration` or `count`).
    """
    metric = name.rpartition(".")[2]
    if metric in LOWER_IS_BETTER or metric in HIGHER_IS_BETTER:
        return metric in LOWER_IS_BETTER
    known = ", ".join(sorted(LOWER_IS_BETTER | HIGHER_IS_BETTER - {"mean_auc"}))
    raise ValueError(f"`{name}` cannot choose a checkpoint; use mean_auc or <task>.<metric> with one of {known}")


def signed_value(result: dict[str, Any], name: str) -> float | None:
    """The value of a metric, negated where lower is better, so that higher always is; None where it is null or not finite."""
    if name == ORDER:
        rate = (result.get("order_violation_rate") or {}).get("overall")
        return None if rate is None else -float(rate)
    value = value_of(result, name)
    if value is None or not math.isfinite(value):
        return None
    return -value if lower_is_better(name) else value


def value_of(result: dict[str, Any], name: str) -> float | None:
    """The value of `mean_auc` or `<task>.<metric>` in what `EvalMetrics.compute` returned; None where it is null.

    Raises:
        ValueError: the result has no such task or metric.
    """
    if name == "mean_auc":
        return result["mean_auc"]
    task, _, metric = name.rpartition(".")
    tasks = result["tasks"]
    if task not in tasks:
        raise ValueError(f"`{name}` names the task `{task}`, but the result has {list(tasks)}")
    if metric not in tasks[task]:
        kind = tasks[task]["kind"]
        raise ValueError(f"`{name}`: a {kind} task has no metric `{metric}`")
    return tasks[task][metric]
