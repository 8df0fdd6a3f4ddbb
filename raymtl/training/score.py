"""Check that the metrics for checkpoint selection and early stopping exist."""

from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.objectives.metrics import lower_is_better


def check_scores(config: Config) -> None:
    """Raise ConfigError if `train.select` or `train.early_stop.metric` names an unknown task or metric."""
    wanted = {"train.select": config.train.select}
    if config.train.early_stop is not None:
        wanted["train.early_stop.metric"] = config.train.early_stop.metric
    tasks = config.active_tasks()
    binary = [n for n, t in tasks.items() if t.kind == "binary"]
    for key, what in wanted.items():
        task = what.rpartition(".")[0]
        if what == "mean_auc":
            if not binary:
                raise ConfigError(
                    f"{key} is `mean_auc`, but no task is binary; use <task>.<metric>, such as {next(iter(tasks))}.mse"
                )
            continue
        if task not in tasks:
            raise ConfigError(
                f"{key} is `{what}`; expected `mean_auc` or `<task>.<metric>` with one of the tasks {list(tasks)}"
            )
        try:
            lower_is_better(what)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
