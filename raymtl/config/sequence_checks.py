"""Check the slots that name features (histories, the user, the candidate, the scenario) against the features."""

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.features import DenseFeature, Feature, Pooled, SequenceFeature, Table, table_of
from raymtl.config.model import Model
from raymtl.config.slots.refine import EPNet, TaskFeatures
from raymtl.config.slots.sequence import DUPNSequence, NoSequence, TIMSequence, TransformerSequence
from raymtl.config.slots.towers import PPNet
from raymtl.config.slots.trunk import M2M

Features = Mapping[str, Feature]

_POOLED = get_args(Pooled)
_FLAT = (*_POOLED, DenseFeature)


def sequence_problems(
    model: Model, features: Features, tables: Mapping[str, Table], has_scenario: bool
) -> Iterator[str]:
    """The problems of `model.sequence` and of the features that the refine slot, the trunk and the towers name."""
    section, trunk, refine = model.sequence, model.trunk, model.refine
    if isinstance(refine, EPNet):
        yield from _named(features, "model.refine.features", refine.features, _FLAT)
    if isinstance(refine, TaskFeatures):
        for task, names in refine.reads.items():
            yield from _named(features, f"model.refine.reads.{task}", names, (*_FLAT, SequenceFeature))
    if isinstance(model.towers, PPNet):
        yield from _named(features, "model.towers.features", model.towers.features, _FLAT)
    histories = [n for n, f in features.items() if isinstance(f, SequenceFeature)]
    if histories and isinstance(section, NoSequence):
        yield (
            "model.sequence is `none` but there are features of kind `sequence`; "
            "set model.sequence.type to `pooled`, or remove them"
        )
    if not histories and not isinstance(section, NoSequence):
        yield f"model.sequence is `{section.type}` but no feature has the kind `sequence`; add one, or set it to `none`"
        return
    dims = {(table := table_of(name, features[name])): tables[table].dim for name in histories}
    if len(set(dims.values())) > 1:
        found = ", ".join(f"`{table}` {dim}" for table, dim in dims.items())
        yield f"tables that are read as sequences need one `dim` (TorchRec keeps them in one module), but they have {found}"
    if isinstance(section, TransformerSequence | TIMSequence):
        if section.width % section.heads:
            yield (
                f"model.sequence.width is {section.width}, not divisible by model.sequence.heads = {section.heads}; set it to a "
                f"multiple of {section.heads}"
            )
        if section.behaviours is not None:
            yield from _groups(features, "model.sequence.behaviours", section.behaviours, histories)
    if isinstance(section, TIMSequence):
        yield from _named(features, "model.sequence.target", section.target, _POOLED)
    if isinstance(section, DUPNSequence):
        item = section.item if section.item is not None else [n for n in histories if n not in section.properties]
        if section.item is None and len(item) > 1:
            yield (
                f"model.sequence.item is left out, but there are several histories: {quoted(item)}; list those that "
                "identify the item in model.sequence.item, those that describe the action in model.sequence.properties, and "
                "remove the others"
            )
        if not item:
            yield "model.sequence.item is empty; list the `sequence` features that identify the item of each step"
        yield from _groups(
            features, "model.sequence", {"item": item, "properties": section.properties}, histories, True
        )
        yield from _named(features, "model.sequence.user", section.user, _FLAT)
    if isinstance(trunk, M2M):
        yield from _named(features, "model.trunk.knowledge", trunk.knowledge, _FLAT)
        if not trunk.knowledge and not has_scenario and (trunk.meta_attention or trunk.meta_tower):
            yield (
                "model.trunk is `m2m` but nothing distinguishes the scenarios; set data.scenario, or list features in "
                "model.trunk.knowledge"
            )


def _groups(
    features: Features, path: str, groups: Mapping[str, list[str]], histories: list[str], together: bool = False
) -> Iterator[str]:
    """Groups of sequence features of the same steps; with `together` all groups are of the same steps."""
    for group, names in groups.items():
        yield from _named(features, f"{path}.{group}", names, (SequenceFeature,))
    named = [name for names in groups.values() for name in names]
    for name in sorted({name for name in named if named.count(name) > 1}):
        yield f"{path} names `{name}` {named.count(name)} times; list it once"
    for name in histories:
        if name not in named:
            yield f"features.{name} has the kind `sequence` but {path} leaves it out; add it there, or remove the feature"
    for same in [named] if together else groups.values():
        lengths = {n: f.max_length for n in same if isinstance(f := features.get(n), SequenceFeature)}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"`{name}` {length}" for name, length in lengths.items())
            yield f"{path}: features of the same steps need one max_length, but they have {found}"


def _named(features: Features, path: str, names: Iterable[str], kinds: tuple[type, ...]) -> Iterator[str]:
    fitting = [n for n, f in features.items() if isinstance(f, kinds)]
    for name in names:
        if name not in features:
            yield f"{path} names `{name}`, which is not one of the features {quoted(fitting)}{did_you_mean(name, fitting)}"
        elif name not in fitting:
            yield f"{path} names `{name}`, a feature of kind `{features[name].kind}`; these would fit: {quoted(fitting)}"
