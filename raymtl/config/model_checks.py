"""Whether the model fits the tasks and the features: what `Config` checks once those are right."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raymtl.config.base import quoted
from raymtl.config.coupling_checks import coupling_problems
from raymtl.config.input_checks import input_problems
from raymtl.config.sequence_checks import sequence_problems

if TYPE_CHECKING:
    from raymtl.config.root import Config


def model_problems(config: "Config") -> Iterator[str]:
    """What is wrong with `model`."""
    model, tasks = config.model, config.active_tasks()
    yield from input_problems(config)
    yield from sequence_problems(config)
    yield from coupling_problems(config)
    if model.trunk.type == "single_task" and len(tasks) != 1:
        yield (
            f"model.trunk is `single_task` but there are {len(tasks)} tasks {quoted(tasks)}; "
            f"train one at a time with `--set tasks_subset=[{next(iter(tasks))}]`"
        )
    if model.trunk.type == "ple" and model.trunk.task_experts + model.trunk.shared_experts == 0:
        yield "model.trunk has no experts at all; set task_experts or shared_experts above 0"
