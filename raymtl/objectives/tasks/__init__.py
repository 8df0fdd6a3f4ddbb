"""What each kind of task does with tensors: one file per kind, found by the task."""

from raymtl.config.task_kinds import TaskKind
from raymtl.config.tasks import Task
from raymtl.objectives.tasks.base import MIN_RATE, TaskObjective
from raymtl.objectives.tasks.binary import BinaryObjective
from raymtl.objectives.tasks.count import CountObjective
from raymtl.objectives.tasks.real import LogRealObjective, RealObjective

OBJECTIVES: dict[type[TaskKind], TaskObjective] = {
    objective.kind: objective
    for objective in (BinaryObjective(), CountObjective(), RealObjective(), LogRealObjective())
}
"""One objective for each of `KINDS`."""

__all__ = ["MIN_RATE", "OBJECTIVES", "TaskObjective", "objective_of"]


def objective_of(task: Task) -> TaskObjective:
    """The objective of a task's kind and transform."""
    return OBJECTIVES[task.traits]
