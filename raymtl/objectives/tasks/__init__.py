"""What each kind of task does with tensors: one file per kind, found by the task."""

from raymtl.config.task_kinds import TaskKind
from raymtl.config.tasks import Task
from raymtl.objectives.tasks.base import MIN_RATE, TaskObjective
from raymtl.objectives.tasks.binary import BinaryObjective
from raymtl.objectives.tasks.count import CountObjective
from raymtl.objectives.tasks.fraction import FractionObjective
from raymtl.objectives.tasks.multiclass import MulticlassObjective
from raymtl.objectives.tasks.ordinal import OrdinalObjective
from raymtl.objectives.tasks.quantile import QuantileObjective
from raymtl.objectives.tasks.real import LogRealObjective, RealObjective
from raymtl.objectives.tasks.watch_time import WatchTimeObjective
from raymtl.objectives.tasks.ziln import ZilnObjective

OBJECTIVES: dict[type[TaskKind], type[TaskObjective]] = {
    objective.kind: objective
    for objective in (
        BinaryObjective,
        FractionObjective,
        MulticlassObjective,
        OrdinalObjective,
        CountObjective,
        WatchTimeObjective,
        ZilnObjective,
        RealObjective,
        LogRealObjective,
        QuantileObjective,
    )
}
"""One class for each of `KINDS`."""

__all__ = ["MIN_RATE", "OBJECTIVES", "TaskObjective", "objective_of"]


def objective_of(task: Task) -> TaskObjective:
    """The objective of a task: its kind and transform, with its options."""
    return OBJECTIVES[task.traits].of(task)
