"""The role of each configuration field (what it affects), and the field lists derived from the roles.

A field has its role in its type: `steps: Annotated[PositiveInt, Role.LEARNING] = 100`. A section without roles on its fields,
such as a range of days, is one value: the field that holds it has the role.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Flag, auto
from functools import cache
from typing import Any

from raymtl.config.base import Section
from raymtl.config.schema import FieldType, field_type, sections


class Role(Flag):
    """What a field affects: exactly one of `PURPOSES`, and any of the others in addition."""

    NAME = auto()
    """Names the run."""
    OUTPUT = auto()
    """Where results are stored."""
    EXECUTION = auto()
    """Where and how a run computes, not what; it may change between a stop and a resume."""
    LEARNING = auto()
    """Affects what is learned: a run or a day of `raymtl daily` with another value is a different one."""
    SINGLE_RUN = auto()
    """What a single run learns or measures; `raymtl daily` sets it for each day, whatever the file says."""
    PUBLISHING = auto()
    """When a day of `raymtl daily` is ready, and whether its version is published and kept; not how it is trained."""
    SERVING = auto()
    """How a version is served; training ignores it."""
    SEARCH = auto()
    """Defines a search: trials with another value are not comparable."""
    SEARCH_SIZE = auto()
    """Size and speed of a search; it may change between a stop and a resume."""

    STRUCTURE = auto()
    """The model's structure: a version fits only a model with the same value."""
    READ = auto()
    """Which rows reading produces from the logs; trials with the same values share the rows that were read."""
    LOOKUP = auto()
    """How a table looks up its IDs; trials share the map of a `map` table."""
    COUPLING = auto()
    """How tasks are weighted and coupled; a search in two stages searches it in the second."""
    PATH = auto()
    """A folder or a URL; a relative folder becomes absolute on loading."""

    MODEL = LEARNING | STRUCTURE


PURPOSES = (
    Role.NAME, Role.OUTPUT, Role.EXECUTION, Role.LEARNING, Role.SINGLE_RUN, Role.PUBLISHING, Role.SERVING, Role.SEARCH,
    Role.SEARCH_SIZE,
)  # fmt: skip

_RUN = Role.NAME | Role.LEARNING | Role.SINGLE_RUN | Role.PUBLISHING
_HASHED = Role.EXECUTION | Role.LEARNING | Role.SINGLE_RUN | Role.PUBLISHING


@dataclass(frozen=True)
class NotSearched:
    """In an `Annotated` type: `raymtl tune` must not change the field, or any field of the section."""

    reason: str


# Lists that follow from the roles


def run_fields(config: Section) -> dict[str, Any]:
    """The fields that identify a run, by dotted key; a run with another value is a different run."""
    return _flat(_kept(config, _RUN))


def day_fields(config: Section) -> dict[str, Any]:
    """The fields that affect how a day of `raymtl daily` is trained, by dotted key."""
    return _flat(_kept(config, Role.LEARNING))


def search_fields(config: Section) -> dict[str, Any]:
    """The fields that identify a search, by dotted key; a search with another value is a different search."""
    return _flat(_kept(config, _RUN | Role.SEARCH))


def read_fields(config: Section) -> dict[str, Any]:
    """The fields that affect which rows reading produces, by dotted key."""
    return _flat(_kept(config, Role.READ))


def hashed_fields(config: Section) -> dict[str, Any]:
    """The fields in the hash of a configuration, by section."""
    return _kept(config, _HASHED)


def path_fields(root: type[Section]) -> list[str]:
    """Dotted keys of the folders and URLs."""
    return [path for path, role in field_roles(root).items() if Role.PATH in role]


def not_searched(root: type[Section], path: str) -> str | None:
    """The reason why `raymtl tune` must not change a field or section; None: it may."""
    return next((reason for fixed, reason in _reasons(root).items() if _overlaps(fixed, path)), None)


def roles_at(root: type[Section], path: str) -> list[Role]:
    """The role of a field, those of all fields of a section, or that of the field that holds a key such as `options.depth`."""
    return [role for field, role in field_roles(root).items() if _overlaps(field, path)]


# Roles of the classes' fields


@cache
def field_roles(root: type[Section]) -> dict[str, Role]:
    """The role of every field by dotted key, with `<name>` for the names in mappings; the sections of a choice are combined."""
    found: dict[str, Role] = {}
    for at in sections(root):
        for key in at.section.model_fields:
            if is_group(at.section) and not groups(field_type(at.section, key)):
                path = f"{at.path}.{key}".removeprefix(".")
                found[path] = found.get(path, Role(0)) | own_role(at.section, key)
    return found


def own_role(section: type[Section], key: str) -> Role:
    """The role in the type of a field; none: `Role(0)`."""
    role = Role(0)
    for mark in field_type(section, key).metadata:
        role |= mark if isinstance(mark, Role) else Role(0)
    return role


def purpose(section: type[Section], key: str) -> str:
    """The purpose of a field in words; empty if the field holds a section whose fields have their own."""
    role = own_role(section, key)
    return next(((each.name or "").lower().replace("_", " ") for each in PURPOSES if each in role), "")


@cache
def is_group(section: type[Section]) -> bool:
    """Whether a section is a group of fields, each with its role; else it is one value, and its holder has the role."""
    return any(own_role(section, key) or groups(field_type(section, key)) for key in section.model_fields)


def groups(field: FieldType) -> list[type[Section]]:
    """The groups of fields in a value, directly or by name; empty: the value has one role."""
    inner = field.item or field
    members = [inner.section] if inner.section is not None else list(inner.variants.values())
    return [member for member in members if is_group(member)]


@cache
def _reasons(root: type[Section]) -> dict[str, str]:
    return {
        f"{at.path}.{key}".removeprefix("."): mark.reason
        for at in sections(root)
        for key in at.section.model_fields
        for mark in field_type(at.section, key).metadata
        if isinstance(mark, NotSearched)
    }


def _overlaps(pattern: str, path: str) -> bool:
    """Whether one of the two equals or contains the other."""
    pairs = zip(pattern.split("."), path.split("."), strict=False)
    return all(known in ("<name>", given) for known, given in pairs)


# Values of a configuration


def _kept(section: Section, roles: Role) -> dict[str, Any]:
    """The fields with one of these roles as plain values, in the order of the fields; a group without any is omitted."""
    return dict(_walk(section, section.model_dump(mode="json"), lambda role: bool(role & roles)))


def _walk(section: Section, plain: dict[str, Any], keep: Callable[[Role], bool]) -> Iterator[tuple[str, Any]]:
    for key in type(section).model_fields:
        value, field = getattr(section, key), field_type(type(section), key)
        if not (below := groups(field)):
            if keep(own_role(type(section), key)):
                yield key, plain[key]
        elif not value:  # null, or a mapping without entries
            if any(keep(role) for member in below for role in field_roles(member).values()):
                yield key, plain[key]
        elif isinstance(value, Section):
            if inner := dict(_walk(value, plain[key], keep)):
                yield key, inner
        else:
            named = {name: dict(_walk(one, plain[key][name], keep)) for name, one in value.items()}
            if named := {name: inner for name, inner in named.items() if inner}:
                yield key, named


def _flat(nested: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        here = f"{path}.{key}" if path else key
        flat |= _flat(value, here) if isinstance(value, dict) and value else {here: value}
    return flat
