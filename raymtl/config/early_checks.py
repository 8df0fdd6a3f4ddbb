"""Check `tasks.<name>.early_labels` against the other tasks, the data and the model."""

from collections.abc import Collection, Iterator, Mapping

from raymtl.config.data import Data
from raymtl.config.model import Model
from raymtl.config.task_kinds import Binary
from raymtl.config.tasks import Task


def early_problems(
    tasks: Mapping[str, Task],
    delays: Mapping[str, int],
    made_with: Mapping[str, Collection[str]],
    data: Data,
    model: Model,
    columns: Collection[str],
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
                f"{key}.early_labels is set, but its labels need those of `{late[0]}`, which are final {delays[late[0]]} days "
                f"later; remove early_labels, or tasks.{late[0]}.delay_days"
            )
        if others := [name for name in task.losses.chosen() if name != "own"]:
            yield (
                f"{key}.early_labels is set, and {key}.losses.{others[0]}, which needs labels of 0 and 1; remove one of the two"
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
        if early.time in columns:
            yield (
                f"{key}.early_labels.time is `{early.time}`, a column of a feature, but a time tells that the label is 1; remove "
                "the feature"
            )
