"""Check the towers, and the features that each task may read, against the tasks and the other slots."""

from collections.abc import Iterator, Mapping

from raymtl.config.base import not_a_task, quoted
from raymtl.config.features import Feature, SequenceFeature
from raymtl.config.model import Model
from raymtl.config.slots.coupler import AIT, Product
from raymtl.config.slots.input import FieldWise
from raymtl.config.slots.refine import EPNet, TaskFeatures
from raymtl.config.slots.sequence import DUPNSequence, NoSequence, PooledSequence, TransformerSequence
from raymtl.config.slots.towers import MLPTowers, PPNet
from raymtl.config.slots.trunk import M2M, PLE
from raymtl.config.tasks import Task
from raymtl.config.wiring import listened_to, parents

Tasks = Mapping[str, Task]


def tower_problems(
    model: Model, tasks: Tasks, active: Tasks, features: Mapping[str, Feature], has_scenario: bool
) -> Iterator[str]:
    """The problems of `model.towers`, and of `model.refine` where it concerns tasks or scenarios; `active` are the tasks that are
    trained."""
    if isinstance(model.towers, MLPTowers):
        yield from _mlp_problems(model, tasks, model.towers)
    if isinstance(model.refine, EPNet) and not model.refine.features and not has_scenario:
        yield (
            "model.refine is `epnet` but nothing distinguishes the scenarios; set data.scenario, or list features in "
            "model.refine.features"
        )
    if isinstance(model.refine, TaskFeatures):
        yield from _reads_problems(model, tasks, active, features, model.refine)


def _mlp_problems(model: Model, tasks: Tasks, towers: MLPTowers) -> Iterator[str]:
    if not towers.hidden:
        given = {"activation": "relu", "norm": "none", "dropout": 0.0, "per_task": {}}
        for key, without in given.items():
            if getattr(towers, key) != without:
                yield f"model.towers.{key} is set but model.towers.hidden is [], so there are no towers; add widths, or remove it"
        return
    if towers.per_task and model.coupler.type == "esm2":
        yield "model.towers.per_task needs one tower per task, but the coupler `esm2` has four for three tasks; remove it"
    for name, own in towers.per_task.items():
        path = f"model.towers.per_task.{name}"
        if name not in tasks:
            yield f"model.towers.per_task has an entry for `{name}`, {not_a_task(name, tasks)}"
        elif own.hidden is None and own.dropout is None:
            yield f"{path} sets nothing; set hidden or dropout there, or remove it"
        elif own.hidden is not None and own.hidden[-1] != towers.hidden[-1]:
            yield (
                f"{path}.hidden is {own.hidden}; its last width must be that of model.towers.hidden, {towers.hidden[-1]}, "
                "because the coupler reads all towers"
            )


def _reads_problems(
    model: Model, tasks: Tasks, active: Tasks, features: Mapping[str, Feature], section: TaskFeatures
) -> Iterator[str]:
    unknown = [name for name in section.reads if name not in tasks]
    for name in unknown:
        yield f"model.refine.reads has an entry for `{name}`, {not_a_task(name, tasks)}"
    if isinstance(model.input, FieldWise):
        yield "model.refine is `task_features` but the input `field_wise` mixes features; use the input `concat`"
    if not isinstance(model.sequence, NoSequence | PooledSequence | TransformerSequence | DUPNSequence):
        yield (
            f"model.refine is `task_features` but the sequence `{model.sequence.type}` mixes the histories with the candidate; "
            "use `pooled`, `transformer` or `dupn`"
        )
    if isinstance(model.trunk, PLE) and model.trunk.shared_experts:
        yield (
            "model.refine is `task_features` but the shared experts of `ple` read the inputs of all tasks; set "
            "model.trunk.shared_experts to 0, or use another trunk"
        )
    if model.coupler.type == "esm2":
        yield "model.refine `task_features` needs one input per task, but the coupler `esm2` has four towers for three tasks"
        return
    if unknown:
        return
    histories = [name for name, feature in features.items() if isinstance(feature, SequenceFeature)]
    mixed = [*histories, *(model.sequence.user if isinstance(model.sequence, DUPNSequence) else [])]
    for name, reads in section.reads.items():
        left_out = [feature for feature in mixed if feature not in reads]
        if left_out and any(history in reads for history in histories):
            yield (
                f"model.refine.reads.{name} names a history but leaves out {quoted(left_out)}, which model.sequence mixes with "
                f"it; list all of {quoted(mixed)}, or no history"
            )
    yield from _leaks(model, active, section.reads)


def _leaks(model: Model, active: Tasks, reads: Mapping[str, list[str]]) -> Iterator[str]:
    """Features that reach a task by another way than its input."""
    read_by_all: dict[str, list[str]] = {}
    if isinstance(model.trunk, M2M):
        read_by_all["model.trunk.knowledge"] = model.trunk.knowledge
    if isinstance(model.towers, PPNet):
        read_by_all["model.towers.features"] = model.towers.features
    for name in (name for name in active if name in reads):
        for path, names in read_by_all.items():
            if hidden := [feature for feature in names if feature not in reads[name]]:
                yield f"model.refine.reads.{name} leaves out {quoted(hidden)}, which {path} brings to every task; remove it there"
    coupled: Mapping[str, list[str]] = {}
    if isinstance(model.coupler, AIT):
        coupled = listened_to(active, model.coupler.predecessors)
    elif isinstance(model.coupler, Product):
        coupled = parents(active)
    for name, above in coupled.items():
        for other in above:
            if name in reads and (other not in reads or not {*reads[other]} <= {*reads[name]}):
                more = quoted(f for f in reads[other] if f not in reads[name]) if other in reads else "every feature"
                yield (
                    f"model.refine.reads.{name} does not hold what `{other}` reads ({more}), but the coupler "
                    f"`{model.coupler.type}` passes it on; let `{other}` read no more than `{name}`, or use the coupler `none`"
                )
