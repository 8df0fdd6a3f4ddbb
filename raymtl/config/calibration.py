"""Recalibration of predicted probabilities after training: its options, and their checks."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from raymtl.config.base import Section, not_a_task, quoted
from raymtl.config.roles import Role
from raymtl.config.tasks import Task


class Calibration(Section):
    """A map from each binary task's logit to a calibrated one, fitted after training on users that the model was not trained on.
    It is applied wherever predictions are made: metrics, scoring and exported programs."""

    method: Annotated[Literal["platt", "isotonic"], Role.LEARNING] = "platt"
    """`platt`: a line with a positive slope, which keeps the order of the rows. `isotonic`: any ascending curve, for models whose
    error changes its sign with the score; it needs thousands of positives."""
    by: Annotated[Literal["all", "scenario"], Role.LEARNING] = "all"
    """`all`: one map for all rows. `scenario`: one for each value of `data.scenario`, pulled to that of all rows where positives
    are few."""
    tasks: Annotated[Annotated[list[str], Field(min_length=1)] | None, Role.LEARNING] = None
    """Binary tasks to calibrate; null: all of them."""
    share: Annotated[float, Field(gt=0, lt=1), Role.LEARNING] = 0.5
    """Share of the users of `data.eval`, in the daily job of the held-out users, on whose rows the maps are fitted. All metrics
    are of the other users, so that no map is judged on rows that it was fitted to."""
    prior_positives: Annotated[PositiveFloat, Role.LEARNING] = 200.0
    """Weight of what is assumed before the fit, in positives: that the model is calibrated, and for a scenario that the map of
    all rows fits it. Lower it where levels change by much from day to day and hold-outs are small."""

    def chosen(self, tasks: Mapping[str, Task]) -> list[str]:
        """The names of the tasks to calibrate, out of those that are trained."""
        wanted = [name for name, task in tasks.items() if task.is_event] if self.tasks is None else self.tasks
        return [name for name in tasks if name in wanted]


def calibration_problems(
    calibration: Calibration | None,
    tasks: Mapping[str, Task],
    active: Mapping[str, Task],
    has_scenario: bool,
    has_group: bool,
    is_fitted: bool,
) -> Iterator[str]:
    """The problems of `calibration`; `is_fitted` is whether there are evaluation days or a daily job, whose users it needs."""
    if calibration is None:
        return
    for name in calibration.tasks or []:
        if name not in tasks:
            yield f"calibration.tasks has `{name}`, {not_a_task(name, tasks)}"
        elif not tasks[name].is_event:
            yield (
                f"calibration.tasks has `{name}`, a `{tasks[name].kind}` task; only a `binary` one has a probability to "
                "calibrate: remove it"
            )
    if calibration.tasks and len({*calibration.tasks}) < len(calibration.tasks):
        yield f"calibration.tasks names a task twice: {quoted(calibration.tasks)}; list each once"
    if not any(task.is_event for task in tasks.values()):
        yield "calibration is set, but no task is `binary`; remove it"
    elif not calibration.chosen(active) and all(name in tasks for name in calibration.tasks or []):
        yield "calibration has none of the tasks that are trained; list one of them in calibration.tasks, or change tasks_subset"
    if calibration.by == "scenario" and not has_scenario:
        yield "calibration.by is `scenario`, but data.scenario is not set; set that, or calibration.by to `all`"
    if not has_group:
        yield (
            "calibration needs data.group, the user column: it is fitted on some users and measured on others; set data.group, "
            "or remove calibration"
        )
    if not is_fitted:
        yield (
            "calibration is fitted on users of data.eval, or of the rows that `daily` holds out, and neither is set; set "
            "data.eval, or remove calibration"
        )


def delay_problems(
    calibration: Calibration | None, active: Mapping[str, Task], delays: Mapping[str, int], multiplies: bool
) -> Iterator[str]:
    """The problems of `calibration` with a daily job; `delays` are the days until the labels of each task are final."""
    if calibration is None or not multiplies:
        return
    chosen = calibration.chosen(active)
    late = [name for name in chosen if (up := active[name].parent) is not None and delays[name] > delays[up]]
    if late:
        rest = [name for name in chosen if name not in late]
        remedy = f"set calibration.tasks to [{', '.join(rest)}]" if rest else "remove calibration"
        yield (
            f"calibration of `{late[0]}` is that of P({late[0]} | {active[late[0]].parent}), whose labels `raymtl daily` never "
            f"reads together, because tasks.{late[0]}.delay_days is longer; {remedy}"
        )
