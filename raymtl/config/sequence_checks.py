"""Check the slots that name features (histories, the user, the candidate, the scenario) against the features."""

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.features import (
    DenseFeature,
    Feature,
    IdsFeature,
    Pooled,
    SequenceDenseFeature,
    SequenceFeature,
    SingleId,
    table_of,
)
from raymtl.config.model import Model
from raymtl.config.slots.refine import EPNet, TaskFeatures
from raymtl.config.slots.sequence import DINSequence, DUPNSequence, NoSequence, TIMSequence, TransformerSequence
from raymtl.config.slots.towers import PPNet
from raymtl.config.slots.trunk import M2M

Features = Mapping[str, Feature]

_POOLED = get_args(Pooled)
_SINGLE = get_args(SingleId)
_FLAT = (*_POOLED, DenseFeature)


def sequence_problems(model: Model, features: Features, has_scenario: bool) -> Iterator[str]:
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
    if isinstance(section, TransformerSequence | TIMSequence) and section.width % section.heads:
        yield (
            f"model.sequence.width is {section.width}, not divisible by model.sequence.heads = {section.heads}; set it to a "
            f"multiple of {section.heads}"
        )
    if isinstance(section, TransformerSequence | TIMSequence | DINSequence) and section.behaviours is not None:
        yield from _groups(features, "model.sequence.behaviours", section.behaviours, histories)
    if isinstance(section, DINSequence):
        yield from _din(section, features, histories)
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
        if all(isinstance(features.get(name), SequenceDenseFeature) for name in item):
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


def _din(section: DINSequence, features: Features, histories: list[str]) -> Iterator[str]:
    """What DIN compares: features of the steps and of the target by their tables."""
    yield from _named(features, "model.sequence.target", section.target, _POOLED)
    groups = section.behaviours or {name: [name] for name in histories}
    tables = {n: table_of(n, f) for n, f in features.items() if isinstance(f, SequenceFeature | IdsFeature | SingleId)}
    target = [n for n in section.target if n in tables]
    for table in sorted({tables[n] for n in target}):
        readers = [n for n in target if tables[n] == table]
        if len(readers) > 1:
            yield (
                f"model.sequence.target names {quoted(readers)}, which read the same table `{table}`; keep the one that steps "
                "are compared with"
            )
    for name, steps in groups.items():
        if not {tables.get(n) for n in steps} & {tables[n] for n in target}:
            read = quoted(dict.fromkeys(tables[n] for n in steps if n in tables))
            yield (
                f"model.sequence.target has no feature that reads a table of the behaviour `{name}` ({read}), so its steps "
                "cannot be compared with the candidate; add the candidate's feature to the target, or let the history read its "
                "`table`"
            )
    if section.search_steps != DINSequence.model_fields["search_steps"].default and not section.search:
        yield (
            f"model.sequence.search_steps is {section.search_steps}, but model.sequence.search is empty; name the behaviours to "
            "search there, or remove search_steps"
        )
    for name, wanted in section.search.items():
        yield from _named(features, f"model.sequence.search.{name}", [wanted], _SINGLE)
        if name not in groups:
            yield (
                f"model.sequence.search names `{name}`, which is not one of the behaviours {quoted(groups)}"
                f"{did_you_mean(name, groups)}"
            )
        elif wanted in tables:
            same = [n for n in groups[name] if tables.get(n) == tables[wanted]]
            if len(same) != 1:
                yield (
                    f"model.sequence.search.{name} is `{wanted}`, whose table `{tables[wanted]}` is read by "
                    f"{quoted(same) if same else 'no feature'} of the behaviour; it must be one: the attribute of the steps that "
                    "is compared with the candidate's"
                )


def _groups(
    features: Features, path: str, groups: Mapping[str, list[str]], histories: list[str], together: bool = False
) -> Iterator[str]:
    """Groups of features of the same steps; with `together` all groups are of the same steps."""
    for group, names in groups.items():
        yield from _named(features, f"{path}.{group}", names, (SequenceFeature, SequenceDenseFeature))
        same = [name for others in groups.values() for name in others] if together else names
        for name in names:
            number = features.get(name)
            if isinstance(number, SequenceDenseFeature) and number.of not in same:
                yield (
                    f"{path}.{group} names `{name}`, whose numbers are of the steps of `{number.of}`, which is not there; move "
                    "the two together"
                )
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
        since = {n: f.since for n in same if isinstance(f := features.get(n), SequenceFeature)}
        if len(set(since.values())) > 1:
            found = ", ".join(f"`{name}` {day or 'none'}" for name, day in since.items())
            yield (
                f"{path}: features of the same steps need one `since`, as the lists must have one length, but they have {found}; "
                "set it alike, or write the column for the earlier days too, with an ID for an unknown value"
            )


def _named(features: Features, path: str, names: Iterable[str], kinds: tuple[type, ...]) -> Iterator[str]:
    fitting = [n for n, f in features.items() if isinstance(f, kinds)]
    for name in names:
        if name not in features:
            yield f"{path} names `{name}`, which is not one of the features {quoted(fitting)}{did_you_mean(name, fitting)}"
        elif name not in fitting:
            yield f"{path} names `{name}`, a feature of kind `{features[name].kind}`; these would fit: {quoted(fitting)}"
