"""The one place where a slot's class is found: built-in by (slot, type), or by import path for `type: custom`."""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from raymtl.config.base import Section
from raymtl.config.slots.common import Custom
from raymtl.errors import ConfigError
from raymtl.models.slots import (
    BiasSlot,
    Context,
    CouplerSlot,
    InputSlot,
    RefineSlot,
    SequenceSlot,
    TowersSlot,
    TrunkSlot,
)

CONTRACTS: dict[str, type] = {
    "input": InputSlot,
    "sequence": SequenceSlot,
    "refine": RefineSlot,
    "trunk": TrunkSlot,
    "towers": TowersSlot,
    "coupler": CouplerSlot,
    "bias": BiasSlot,
}
"""Every slot and the base class whose docstring is its contract."""

_BUILT_IN: dict[tuple[str, str], type] = {}

C = TypeVar("C", bound=type)


def register(slot: str, type_: str) -> Callable[[C], C]:
    """Class decorator: `type: <type_>` in the section `model.<slot>` now means this class."""

    def keep(cls: C) -> C:
        if not issubclass(cls, CONTRACTS[slot]):
            raise TypeError(f"{cls.__name__} is registered for the slot {slot} but is not a {CONTRACTS[slot].__name__}")
        if (slot, type_) in _BUILT_IN:
            raise ValueError(f"model.{slot} already has the type {type_}: {_BUILT_IN[slot, type_].__name__}")
        _BUILT_IN[slot, type_] = cls
        return cls

    return keep


def find(slot: str, section: Section) -> Any:
    """The class that the section `model.<slot>` names."""
    if isinstance(section, Custom):
        return _import(slot, section.path)
    type_ = str(getattr(section, "type", None))
    if (slot, type_) not in _BUILT_IN:
        known = sorted(t for s, t in _BUILT_IN if s == slot)
        raise ConfigError(f"model.{slot}.type is `{type_}`; use one of {[*known, 'custom']}")
    return _BUILT_IN[slot, type_]


def build(slot: str, section: Section, context: Context) -> nn.Module:
    """The module of the section `model.<slot>`: its class called with the context and the section's other keys."""
    cls = find(slot, section)
    if not isinstance(section, Custom):
        return cls(context, **options_of(section))
    try:
        return cls(context, **options_of(section))
    except TypeError as error:
        raise ConfigError(
            f"model.{slot}.options {sorted(section.options)} do not match the constructor of {section.path}: {error}; use "
            "only its keyword arguments (it is called as Class(context, **options))"
        ) from error


def options_of(section: Section) -> dict[str, Any]:
    """The keyword arguments of the section's class."""
    return section.options if isinstance(section, Custom) else section.model_dump(exclude={"type"})


def _import(slot: str, path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"model.{slot}.path is `{path}`, which cannot be imported: {error}; "
            "write package.module:Class, and install the package on every node"
        ) from error
    contract = CONTRACTS[slot]
    if not (isinstance(cls, type) and issubclass(cls, contract)):
        raise ConfigError(
            f"model.{slot}.path is `{path}`, which is not a subclass of raymtl.models.slots.{contract.__name__}; "
            "derive the class from it (docs/extending.md)"
        )
    return cls
