"""Relations between tasks (parents, predecessors, order pairs), and the outputs of the model: one definition for the checks,
couplers and losses.

Tasks that are not trained (outside `tasks_subset`) are skipped.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from raymtl.config.base import not_a_task, quoted
from raymtl.config.losses import Within
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError


def parents(tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """For every task a list with its parent, or an empty list."""
    return {name: [up for up in [task.parent] if up is not None and up in tasks] for name, task in tasks.items()}


def listened_to(tasks: Mapping[str, Task], predecessors: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """For every task the tasks that it takes information from: the ones listed for it, or else its parent."""
    listed = {name: [p for p in dict.fromkeys(names) if p in tasks] for name, names in predecessors.items()}
    return {name: listed.get(name) or parent for name, parent in parents(tasks).items()}


def levels(above: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Tasks by level: a task is one level after the last of the tasks that it takes information from."""
    left = dict(above)
    found: list[list[str]] = []
    while left:
        ready = [name for name, names in left.items() if not any(other in left for other in names)]
        if not ready:
            raise ConfigError(
                f"model.coupler.predecessors form a cycle: {' → '.join(_cycle(left))}; remove one of them"
            )
        found.append(ready)
        left = {name: names for name, names in left.items() if name not in ready}
    return found


def _cycle(left: Mapping[str, Sequence[str]]) -> list[str]:
    path = [next(iter(left))]
    while path.count(path[-1]) == 1:
        path.append(next(name for name in left[path[-1]] if name in left))
    return path[path.index(path[-1]) :]


def order_pairs(tasks: Mapping[str, Task], predecessors: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Pairs (a, b) with p(a) ≤ p(b): a task with its parent, and with the tasks that it takes information from.

    Both must be probabilities on the same rows: a conditional probability may exceed that of its condition.
    """
    wired = listened_to(tasks, predecessors)
    pairs = [(name, other) for name, up in parents(tasks).items() for other in dict.fromkeys([*up, *wired[name]])]
    return [(a, b) for a, b in pairs if _comparable(tasks[a], tasks[b])]


def _comparable(a: Task, b: Task) -> bool:
    return a.is_event and b.is_event and a.given == b.given


def compared_lists(tasks: Mapping[str, Task]) -> list[tuple[str, Within]]:
    """Each task with a loss that compares rows, with what its lists are: one entry per normaliser of such losses."""
    return [(name, within) for name, task in tasks.items() for within in task.losses.lists()]


def bounds(tasks: Mapping[str, Task]) -> list[tuple[str, str, str]]:
    """Triples (g, c, o) with p(g)·p(c | g) = p(o): c has `given: g`, o is on all rows, and both have one label column."""
    binary = {name: task for name, task in tasks.items() if task.is_event}
    return [
        (task.given, name, order)
        for name, task in binary.items()
        if task.given in binary and binary[task.given].given is None
        for order, other in binary.items()
        if other.given is None and other.reads_label_of(order, task, name)
    ]


def trio(tasks: Mapping[str, Task], click: str | None, action: str | None, buy: str | None) -> tuple[str, str, str]:
    """The tasks of ESM²: the click, the decisive action after it and the purchase after it; those that are None are inferred."""
    for role, name in (("click", click), ("action", action), ("buy", buy)):
        if name is not None and name not in tasks:
            raise ConfigError(f"model.coupler.{role} is `{name}`, {not_a_task(name, tasks)}")
    click = click or _click(tasks, action or buy)
    children = [name for name, task in tasks.items() if task.parent == click]
    free = [name for name in children if name not in (action, buy)]
    if (action is None or buy is None) and len(free) != (action is None) + (buy is None):
        raise ConfigError(
            f"model.coupler is `esm2`, but it is ambiguous which child of `{click}` is the action and which the purchase "
            f"(children: {quoted(children) or 'none'}); set model.coupler.action and model.coupler.buy"
        )
    action, buy = action or free.pop(0), buy or free.pop(0)
    if action == buy:
        raise ConfigError(f"model.coupler.action and buy are both `{buy}`; `esm2` needs two tasks")
    for name in (action, buy):
        if name not in children:
            raise ConfigError(
                f"tasks.{name}.parent must be `{click}` for the coupler `esm2`: the purchase follows the click with or "
                "without the action"
            )
    return click, action, buy


def _click(tasks: Mapping[str, Task], child: str | None) -> str:
    """The parent of the child; without a child, the only top of a funnel that has two children."""
    if child is not None:
        above = tasks[child].parent
        if above is None:
            raise ConfigError(f"tasks.{child}.parent is null; the coupler `esm2` needs it to be the click")
        return above
    down = [up for names in parents(tasks).values() for up in names]
    tops = [name for name, task in tasks.items() if task.parent is None and down.count(name) == 2]
    if len(tops) != 1:
        raise ConfigError(
            f"model.coupler `esm2` needs a task whose two children are an action and a purchase, but {len(tops) or 'none'} of "
            f"{quoted(tasks)} {'have' if tops else 'has'} two children; set `parent`, or model.coupler.click, action and buy"
        )
    return tops[0]


def conditional_name(tasks: Mapping[str, Task], child: str, given: str) -> str:
    """Name of the output P(child | given)."""
    name = f"{child}_given_{given}"
    if name in tasks:
        raise ConfigError(f"tasks.{name} has the name of an output of model.coupler; rename the task")
    return name


def product_outputs(tasks: Mapping[str, Task]) -> dict[str, tuple[str, str]]:
    """The outputs P(child | given) of the coupler `product` by name, each (child, given)."""
    edges = [(name, up[0]) for name, up in parents(tasks).items() if up]
    if len(edges) == 1 and "cvr" not in tasks:
        return {"cvr": edges[0]}
    return {conditional_name(tasks, *edge): edge for edge in edges}


def esm2_outputs(
    tasks: Mapping[str, Task], click: str | None, action: str | None, buy: str | None
) -> dict[str, tuple[str, str]]:
    """The same of the coupler `esm2`, whose tasks are those of `trio`."""
    click, action, buy = trio(tasks, click, action, buy)
    cvr = "cvr" if "cvr" not in tasks else conditional_name(tasks, buy, click)
    return {cvr: (buy, click), conditional_name(tasks, action, click): (action, click)}


class Prediction(NamedTuple):
    """A column of predictions."""

    task: str
    """The task; of P(child | given) the child."""
    low: float | None
    """Smallest prediction; None: any."""


def predictions(tasks: Mapping[str, Task], derived: Mapping[str, tuple[str, str]]) -> dict[str, Prediction]:
    """What the model predicts, by name: for every task, for the `derived` outputs of the coupler, and the parts of the tasks."""
    found = {name: Prediction(name, task.traits.labels.low) for name, task in tasks.items()}
    found |= {name: Prediction(child, 0.0) for name, (child, _) in derived.items()}
    return found | {
        f"{name}_{part}": Prediction(name, task.traits.parts_low)
        for name, task in tasks.items()
        for part in task.traits.parts(task)
    }
