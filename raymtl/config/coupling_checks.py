"""Check the coupler, the position tower and the coupling losses against the tasks and the features."""

from collections.abc import Iterator, Mapping

from raymtl.config.base import not_a_task, quoted
from raymtl.config.features import BiasFeature, Feature
from raymtl.config.model import Model
from raymtl.config.slots.bias import NoBias, PositionTower
from raymtl.config.slots.coupler import AIT, ESM2, Product
from raymtl.config.task_kinds import Classes
from raymtl.config.tasks import Task
from raymtl.config.wiring import bounds, esm2_outputs, levels, listened_to, order_pairs, product_outputs
from raymtl.errors import ConfigError

Tasks = Mapping[str, Task]


def coupling_problems(model: Model, tasks: Tasks, active: Tasks, features: Mapping[str, Feature]) -> Iterator[str]:
    """The problems of the model's coupler, bias, order loss and KL bound; `active` are the tasks that are trained."""
    coupler = model.coupler
    if isinstance(coupler, AIT):
        yield from _ait_problems(model, tasks, active, coupler)
    if isinstance(coupler, Product | ESM2):
        yield from _product_problems(tasks, active, coupler)
    yield from _bias_problems(model, tasks, active, features)
    yield from _penalty_problems(model, active)


def _ait_problems(model: Model, tasks: Tasks, active: Tasks, ait: AIT) -> Iterator[str]:
    hidden = getattr(
        model.towers, "hidden", None
    )  # None: a class of the user's own, which has its width when it is built
    if hidden is not None and hidden[-1:] != [ait.width]:
        yield (
            f"model.towers.hidden is {hidden}; with the coupler `ait` its last width must be "
            f"model.coupler.width = {ait.width}"
        )
    wrong = [*_predecessor_problems(tasks, active, ait)]
    if not wrong and not any(listened_to(active, ait.predecessors).values()):
        wrong = [
            "model.coupler is `ait`, which passes information along the funnel, but no task has a `parent`; set one"
            + _left_out(tasks, active)
        ]
    yield from wrong


def _left_out(tasks: Tasks, active: Tasks) -> str:
    """The parents that `tasks_subset` leaves out, for a message about a missing one."""
    gone = [tasks[name].parent for name in active if tasks[name].parent not in (None, *active)]
    return f" (tasks_subset leaves out {quoted(str(name) for name in dict.fromkeys(gone))})" if gone else ""


def _predecessor_problems(tasks: Tasks, active: Tasks, ait: AIT) -> Iterator[str]:
    if ait.predecessors and ait.mode != "cross":
        yield (
            f"model.coupler.predecessors needs model.coupler.mode `cross`; in mode `{ait.mode}` a task listens to its parent"
        )
        return
    known = True
    for name, before in ait.predecessors.items():
        if name not in tasks:
            known = False
            yield f"model.coupler.predecessors has an entry for `{name}`, {not_a_task(name, tasks)}"
        for other in before:
            if other not in tasks:
                known = False
                yield f"model.coupler.predecessors.{name} names `{other}`, {not_a_task(other, tasks)}"
        if name in before:
            known = False
            yield f"model.coupler.predecessors.{name} names the task itself; list only tasks before it"
    if known:
        try:
            levels(listened_to(active, ait.predecessors))
        except ConfigError as error:
            yield str(error)


def _product_problems(tasks: Tasks, active: Tasks, coupler: Product | ESM2) -> Iterator[str]:
    for name in active:
        parent = tasks[name].parent
        if parent is not None and parent not in active:
            yield (
                f"tasks_subset leaves out `{parent}`, the parent of `{name}`, but the coupler `{coupler.type}` multiplies by its "
                f"probability; add `{parent}` to tasks_subset, or choose another coupler"
            )
            return
    try:
        if isinstance(coupler, ESM2):
            esm2_outputs(active, coupler.click, coupler.action, coupler.buy)
        else:
            product_outputs(active)
    except ConfigError as error:
        yield str(error)
    if isinstance(coupler, Product) and all(task.parent is None for task in active.values()):
        yield "model.coupler is `product`, which multiplies along the funnel, but no task has a `parent`; set one"


def _bias_problems(model: Model, tasks: Tasks, active: Tasks, features: Mapping[str, Feature]) -> Iterator[str]:
    bias = model.bias
    found = any(isinstance(f, BiasFeature) for f in features.values())
    if isinstance(bias, NoBias) and found:
        yield "model.bias is `none` but there are features of kind `bias`; set model.bias, or remove them"
    if not isinstance(bias, PositionTower):
        return
    if not found:
        yield "model.bias is `position` but no feature has the kind `bias`; add one, or set it to `none`"
    first = next(iter(tasks))
    if bias.tasks is None and first not in active:
        yield f"model.bias.tasks defaults to the first task, `{first}`, which tasks_subset leaves out; set model.bias.tasks"
    for name in bias.tasks or [first]:
        if name in tasks and issubclass(tasks[name].traits, Classes):
            yield (
                f"model.bias.tasks {'names' if bias.tasks else 'defaults to'} `{name}`, but a `{tasks[name].kind}` task has no "
                "single logit that a position could raise; list other tasks"
            )
    unknown = [name for name in bias.tasks or [] if name not in tasks]
    for name in unknown:
        yield f"model.bias.tasks names `{name}`, {not_a_task(name, tasks)}"
    if bias.tasks is not None and not unknown and not any(name in active for name in bias.tasks):
        yield f"model.bias.tasks is {bias.tasks}, none of which is trained; use {quoted(active)}"


def _penalty_problems(model: Model, tasks: Tasks) -> Iterator[str]:
    pairs = order_pairs(tasks, getattr(model.coupler, "predecessors", {}))
    if model.order_loss.alpha > 0 and not pairs:
        yield (
            f"model.order_loss.alpha is {model.order_loss.alpha} but no task has a `parent`; "
            "set tasks.<name>.parent, or alpha to 0"
        )
    if model.kl_bound.weight > 0 and not bounds(tasks):
        conditional = [n for n, t in tasks.items() if t.is_event and t.given in tasks]
        if conditional:
            columns = quoted(dict.fromkeys(tasks[name].label_column(name) for name in conditional))
            why = f"no binary task without `given` has the label column {columns}, so there is no order on all rows"
        else:
            why = "no binary task has `given`, so there is no conversion after a click"
        yield f"model.kl_bound.weight is {model.kl_bound.weight} but {why}; add such a task, or set the weight to 0"
    if model.conversion_loss.weight > 0 and not isinstance(model.coupler, Product | ESM2):
        yield (
            f"model.conversion_loss.weight is {model.conversion_loss.weight} but model.coupler is `{model.coupler.type}`, which "
            "has no conversion rate; choose the coupler `product` or `esm2`, or set the weight to 0"
        )
    if model.conversion_loss.min_propensity < 1 and not model.conversion_loss.weight:
        yield (
            f"model.conversion_loss.min_propensity is {model.conversion_loss.min_propensity}, but the weight is 0, which "
            "turns the term off; set model.conversion_loss.weight above 0, or remove min_propensity"
        )
