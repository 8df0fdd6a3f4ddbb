"""Check `tasks.<name>.early_labels` against the other tasks, the data and the model."""

from collections.abc import Collection, Iterator, Mapping

from raymtl.config.daily import Daily
from raymtl.config.data import Data
from raymtl.config.model import Model
from raymtl.config.task_kinds import Binary
from raymtl.config.tasks import Task
from raymtl.words import count_of


def early_problems(
    tasks: Mapping[str, Task],
    delays: Mapping[str, int],
    made_with: Mapping[str, Collection[str]],
    data: Data,
    model: Model,
    columns: Collection[str],
    daily: Daily | None,
) -> Iterator[str]:
    """The problems of all `early_labels`.

    `delays` are the days until the labels of each task are final, `made_with` the tasks that its labels use, `columns` those of
    the features.
    """
    for name, task in tasks.items():
        early, key = task.early_labels, f"tasks.{name}"
        if early is None:
            continue
        if not issubclass(task.traits, Binary):
            yield f"{key}.early_labels is set, but the task is `{task.kind}`; remove it: it is for `binary` tasks"
            continue
        yield from _daily_problems(key, delays[name], daily)
        if not task.delay_days:
            yield (
                f"{key}.early_labels is set, but delay_days is 0, so the labels are final on their own day; set "
                f"{key}.delay_days to the days until they are, or remove early_labels"
            )
        elif early.cutoff_hours >= 24 * (task.delay_days + 1):
            yield (
                f"{key}.early_labels.cutoff_hours is {early.cutoff_hours:g}, when the labels are final (delay_days is "
                f"{task.delay_days}); set it below {24 * (task.delay_days + 1)}"
            )
        if late := [other for other in made_with.get(name, ()) if delays[other]]:
            yield (
                f"{key}.early_labels is set, but its labels need those of `{late[0]}`, which are final after "
                f"{count_of(delays[late[0]], 'day')}; remove early_labels, or tasks.{late[0]}.delay_days"
            )
        if others := [name for name in task.losses.chosen() if name != "own"]:
            yield (
                f"{key}.early_labels is set, and {key}.losses.{others[0]}, which needs final labels; remove one of the two"
            )
        if data.sampling is not None and data.sampling.task == name:
            yield (
                f"{key}.early_labels is set, but data.sampling.task is `{name}`: a negative that was dropped cannot turn into a "
                "positive later; remove early_labels"
            )
        if model.conversion_loss.weight and made_with.get(name):
            yield (
                f"{key}.early_labels is set, but model.conversion_loss learns `{name}` too, from labels as they are; remove one "
                "of the two"
            )
        other = {
            f"{key}.label": task.label_column(name),
            f"{key}.observed": task.observed,
            f"{key}.weight_column": task.weight_column,
            "data.timestamp": data.timestamp,
        }
        if taken := next((where for where, column in other.items() if column == early.time), None):
            yield (
                f"{key}.early_labels.time is `{early.time}`, the column of {taken}; set it to the one with the time at which the "
                "label became 1"
            )
        if early.time in columns:
            yield (
                f"{key}.early_labels.time is `{early.time}`, a column of a feature, but a time tells that the label is 1; remove "
                "the feature"
            )


def _daily_problems(key: str, delay: int, daily: Daily | None) -> Iterator[str]:
    if daily is None:
        return
    if daily.bootstrap_days <= delay:
        yield (
            f"{key}.early_labels is set, but the first version trains on {count_of(daily.bootstrap_days, 'day')} "
            f"(daily.bootstrap_days), of which none has final labels: it would not learn how many are in time; set it to "
            f"at least {delay + 1}"
        )
    if not daily.dense_lr_factor:
        yield (
            f"{key}.early_labels is set, but daily.dense_lr_factor is 0, so the head that knows how many labels are in time "
            "would not learn; set it above 0"
        )
