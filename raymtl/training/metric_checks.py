"""Check that the metrics for checkpoint selection and early stopping exist, and whether those of a run make sense."""

from collections.abc import Iterator, Mapping
from typing import Any

from raymtl.config.metrics import MEAN_AUC, METRICS, parse_metric, why_not_choosable
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.objectives.metrics.choose import lower_is_better
from raymtl.reports.chance import is_above_constant, is_odd

_FAR_OFF = 2.0
"""Factor between predictions and labels that is worth a warning."""


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
        if problem := why_not_choosable(metric, name, tasks[name].traits, config.data):
            raise ConfigError(f"{key} is `{what}`{problem}")


def doubts(config: Config, metrics: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each task whose final metrics, by task, say that its predictions should not be used as they are.

    As on the pages, a value counts only if it is beyond chance.
    """
    for name, task in config.active_tasks().items():
        report = metrics.get(name, {})
        calibration = report.get("calibration")
        # Labels of both signs may cancel each other in the sum
        judged = is_odd(METRICS["calibration"], report) and task.traits.labels.low is not None
        if judged and not 1 / _FAR_OFF <= calibration <= _FAR_OFF:
            yield (
                f"tasks.{name}: the predictions sum to {calibration:.3g} times the labels; train on more steps (train.epochs, a "
                f"smaller train.batch_size), or look for a change between the training and evaluation days with `raymtl check`"
            )
        headline = METRICS[task.traits.headline]
        if is_above_constant(headline, report):
            value, constant = report[headline.name], report[f"constant_{headline.name}"]
            yield (
                f"tasks.{name}: the {headline.in_words} is {value:.4g}, above the {constant:.4g} of a constant prediction; "
                f"train on more steps, or lower train.dense_optimizer.lr"
            )
