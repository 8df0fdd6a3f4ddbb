"""Check the model against the tasks and the features, once those are valid."""

from collections.abc import Iterator, Mapping

from raymtl.config.base import quoted
from raymtl.config.coupling_checks import coupling_problems
from raymtl.config.features import Feature, Table
from raymtl.config.input_checks import input_problems
from raymtl.config.model import Model
from raymtl.config.sequence_checks import sequence_problems
from raymtl.config.tasks import Task
from raymtl.config.tower_checks import tower_problems


def model_problems(
    model: Model,
    tasks: Mapping[str, Task],
    active: Mapping[str, Task],
    features: Mapping[str, Feature],
    tables: Mapping[str, Table],
    has_scenario: bool,
) -> Iterator[str]:
    """The problems of `model`; `active` are the tasks that are trained, `has_scenario` is whether `data.scenario` is set."""
    yield from input_problems(model, features, tables)
    yield from sequence_problems(model, features, has_scenario)
    yield from coupling_problems(model, tasks, active, features)
    yield from tower_problems(model, tasks, active, features, has_scenario)
    if model.trunk.type == "single_task" and len(active) != 1:
        yield (
            f"model.trunk is `single_task` but there are {len(active)} tasks {quoted(active)}; "
            f"train one at a time with `--set tasks_subset=[{next(iter(active))}]`"
        )
    if model.trunk.type == "ple" and model.trunk.task_experts + model.trunk.shared_experts == 0:
        yield "model.trunk has no experts at all; set task_experts or shared_experts above 0"
