"""Check that the metrics for checkpoint selection and early stopping exist."""

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.metrics import MEAN_AUC, choosable, parse_metric
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.objectives.metrics.choose import lower_is_better


def check_metric_names(config: Config) -> None:
    """Raise ConfigError if `train.select` or `train.early_stop.metric` names an unknown task or metric."""
    wanted = {"train.select": config.train.select}
    if config.train.early_stop is not None:
        wanted["train.early_stop.metric"] = config.train.early_stop.metric
    tasks = config.active_tasks()
    for key, what in wanted.items():
        if what == MEAN_AUC.name:
            if not any(task.is_event for task in tasks.values()):
                name, task = next(iter(tasks.items()))
                raise ConfigError(
                    f"{key} is `{what}`, but no task is binary; use <task>.<metric>, such as {name}.{task.traits.headline}"
                )
            continue
        name, metric = parse_metric(what)
        if name not in tasks:
            raise ConfigError(
                f"{key} is `{what}`; expected `mean_auc` or `<task>.<metric>` with one of the tasks {list(tasks)}"
            )
        try:
            lower_is_better(what)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        known = choosable(tasks[name].traits)
        if metric not in known:
            raise ConfigError(
                f"{key} is `{what}`; the `{tasks[name].kind}` task `{name}` can be judged by {quoted(known)}"
                f"{did_you_mean(metric, known)}"
            )
