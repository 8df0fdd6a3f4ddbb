"""Labels as the tasks train on them: observed, conditioned, and multiplied along the funnel.

Both the reading tasks (`blocks.py`) and `raymtl check` (`validation/`) use this, so that they agree.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raymtl.config.tasks import Task
from raymtl.data import rules
from raymtl.data.contract import label_kind
from raymtl.data.rules import one_array

Broken = Callable[[str, np.ndarray, pa.Array], None]
"""Called with the task, a mask of its labels that break their rule [N] bool, and the label column."""


@dataclass
class Labels:
    """Labels of N rows by task, each [N] float32 and NaN where not observed."""

    final: dict[str, np.ndarray] = field(default_factory=dict)
    """The labels of the loss and the metrics."""
    events: dict[str, np.ndarray] = field(default_factory=dict)
    """The labels before a child is multiplied by its parent."""


def make_labels(
    raw: pa.Table, tasks: dict[str, Task], products: bool, broken: Broken, without: Container[str] = ()
) -> Labels:
    """The labels of the rows of a raw table, for `contract.label_tasks` and `Config.multiplies_labels()`.

    `without` are tasks whose columns the table lacks: they and all tasks that need them are left out. Labels that break their
    rule are reported and count as not observed.
    """
    made = Labels()
    for name, task in tasks.items():
        parent = task.parent if products else None
        if name in without or any(other not in made.final for other in (task.given, parent) if other is not None):
            continue
        column = one_array(raw, task.label_column(name), label_kind(task))
        flags = one_array(raw, task.observed, "flag") if task.observed else None
        values = rules.label_values(column, task)
        labels = rules.observed_labels(values, flags)
        if task.given is not None:
            labels = rules.kept(labels, made.final[task.given] == 1)
        if parent is not None:
            labels = rules.kept(labels, ~np.isnan(made.final[parent]))
        wrong = rules.broken_labels(labels, task)
        if wrong.any():
            broken(name, wrong, column)
            labels = rules.kept(labels, ~wrong)
        made.events[name] = made.final[name] = labels
        if parent is not None:
            made.final[name] = rules.product_labels(labels, made.final[parent], values, flags)
    return made
