"""Check the losses of the tasks, and the columns of their weights."""

from collections.abc import Iterator, Mapping

from raymtl.config.base import quoted
from raymtl.config.data import Data
from raymtl.config.losses import ListTerm, OwnLoss
from raymtl.config.task_kinds import KINDS, Binary
from raymtl.config.tasks import Task

_KEY_OF = {"request": "data.request", "group": "data.group"}


def loss_problems(tasks: Mapping[str, Task], data: Data) -> Iterator[str]:
    """The problems of `tasks.<name>.losses` and `tasks.<name>.weight_column`."""
    for name, task in tasks.items():
        if task.weight_column is not None and task.weight_column == data.weight:
            yield (
                f"tasks.{name}.weight_column is `{task.weight_column}`, the column of data.weight, which would count twice; "
                "remove one of the two"
            )
        yield from _of_task(f"tasks.{name}", task, data)


def _of_task(key: str, task: Task, data: Data) -> Iterator[str]:
    chosen = task.losses.chosen()
    if all(isinstance(term, ListTerm) for term in chosen.values()):
        have = f"only {quoted(chosen)}" if chosen else "no loss"
        yield (
            f"{key}.losses has {have}, so nothing learns the level of the predictions; add `own`, with a small weight if "
            "only the order matters"
        )
    is_binary = issubclass(task.traits, Binary)
    for type_, term in chosen.items():
        where = f"{key}.losses.{type_}"
        if term.events_only and not is_binary:
            yield f"{where} is set, but the task is `{task.kind}`; remove it: the loss is one of `binary` tasks"
        if isinstance(term, OwnLoss) and term.smoothing and not is_binary:
            yield f"{where}.smoothing is {term.smoothing}, but the task is `{task.kind}`; set it to 0, or the kind to `binary`"
        if not isinstance(term, ListTerm):
            continue
        if not task.traits.ranks:
            fitting = quoted(dict.fromkeys(kind.name for kind in KINDS if kind.ranks and kind.transform == "none"))
            yield (
                f"{where} is set, but the logits of a `{task.kind}` task have no scale or no order; remove it, or use {fitting}, "
                "or `real` with `transform: log1p`"
            )
        if not (data.by_request if term.within == "request" else data.group):
            other = " or data.impressions" if term.within == "request" else ""
            yield f"{where}.within is `{term.within}`, but {_KEY_OF[term.within]} is not set; set it{other}, or remove the loss"
