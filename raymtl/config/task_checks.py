"""Checks of `tasks`, before those of the model."""

from collections.abc import Iterator, Mapping, Sequence

from raymtl.config.base import not_a_task, quoted
from raymtl.config.task_kinds import KINDS, OPTIONS
from raymtl.config.tasks import Task

Tasks = Mapping[str, Task]


def task_problems(tasks: Tasks, subset: Sequence[str] | None) -> Iterator[str]:
    """The problems of `tasks` and `tasks_subset`."""
    if subset == []:
        yield "tasks_subset is empty; leave it out to train all tasks"
    for name in subset or []:
        if name not in tasks:
            yield f"tasks_subset names `{name}`, {not_a_task(name, tasks)}"
    seen: list[str] = []
    for name, task in tasks.items():
        if task.parent is not None:
            if task.parent not in tasks:
                yield f"tasks.{name}.parent is `{task.parent}`, {not_a_task(task.parent, tasks)}"
            elif task.parent == name:
                yield f"tasks.{name}.parent is the task itself; set it to the task before it in the funnel, or remove it"
            elif task.parent not in seen:
                yield f"tasks.{name} is listed before its parent `{task.parent}`; move `{task.parent}` before `{name}`"
            elif not (task.is_event and tasks[task.parent].is_event):
                yield f"tasks.{name}.parent is `{task.parent}`; both ends of a funnel step must be `binary` tasks"
        if task.given is not None:
            yield from _condition_problems(name, task.given, tasks, seen)
        yield from _option_problems(f"tasks.{name}", task)
        yield from _value_problems(f"tasks.{name}", task)
        high = task.traits.labels.high
        if high is not None and task.base_rate is not None and task.base_rate >= high:
            yield f"tasks.{name}.base_rate is {task.base_rate}; a `{task.kind}` task needs a value below {high:g}"
        if task.transform != task.traits.transform:
            fitting = quoted(kind.name for kind in KINDS if kind.transform == task.transform)
            yield f"tasks.{name}.transform is `{task.transform}`; only a {fitting} task can be transformed"
        seen.append(name)
    yield from _column_problems(tasks)


def _column_problems(tasks: Tasks) -> Iterator[str]:
    """Columns of predictions that would have the same name."""
    taken = dict.fromkeys(tasks, "a task")
    for name, task in tasks.items():
        for part in task.traits.parts(task):
            column = f"{name}_{part}"
            if column in taken:
                yield f"tasks.{name} predicts `{column}`, which is also {taken[column]}; rename one of them"
            taken[column] = f"a prediction of tasks.{name}"


def _option_problems(key: str, task: Task) -> Iterator[str]:
    """The problems of fields that only some kinds read."""
    for option in OPTIONS:
        if getattr(task, option) is not None and option not in task.traits.options:
            fitting = quoted(dict.fromkeys(kind.name for kind in KINDS if option in kind.options))
            yield f"{key} is `{task.kind}` but has `{option}`; remove it, or set {key}.kind to {fitting}"
    if task.base_rate is not None and not task.traits.has_base_rate:
        yield f"{key}.base_rate is {task.base_rate}, but a `{task.kind}` task starts from more than a mean label; remove it"
    if task.truth is not None and not task.traits.has_truth:
        yield f"{key}.truth is `{task.truth}`, but a `{task.kind}` task is not measured by a true mean; remove it"
    yield from task.traits.problems(key, task)


def _value_problems(key: str, task: Task) -> Iterator[str]:
    """The problems of a task's `positive` and `negative`."""
    if not task.is_event or (task.positive is None and task.negative is None):
        return
    if task.positive is None or task.negative is None:
        there, other = ("positive", "negative") if task.negative is None else ("negative", "positive")
        yield f"{key} has `{there}` but no `{other}`; set {key}.{other} to the values that count as {'01'[there == 'negative']}"
    else:
        words = [str(value) for value in (*task.positive, *task.negative)]
        if twice := next((word for word in words if words.count(word) > 1), None):
            yield f"{key}.positive and negative have `{twice}` {words.count(twice)} times; list it once"


def _condition_problems(name: str, given: str, tasks: Tasks, before: list[str]) -> Iterator[str]:
    """The problems of a task's `given`; the tasks of `before` are listed before it."""
    task, key = tasks[name], f"tasks.{name}.given"
    if given not in tasks:
        yield f"{key} is `{given}`, {not_a_task(given, tasks)}"
    elif given == name:
        yield f"{key} is the task itself; set it to the task that must have happened, or remove it"
    elif given not in before:
        yield f"tasks.{name} is listed before its condition `{given}`; move `{given}` before `{name}`"
    elif not tasks[given].is_event:
        yield f"{key} is `{given}`, a `{tasks[given].kind}` task; only a `binary` one can be a condition"
    if task.parent is not None:
        yield (
            f"tasks.{name} has both `parent` and `given`; a conditional task cannot be part of the funnel, whose tasks are all "
            "defined on all impressions: remove one of the two"
        )
    if children := [n for n, t in tasks.items() if t.parent == name]:
        yield (
            f"tasks.{children[0]}.parent is `{name}`, which has `given`; a conditional task cannot be part of the funnel: "
            "remove one of the two"
        )
