"""Walk the configuration's classes as a tree: which type is at a path, and its description in plain words."""

import datetime as dt
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from raymtl.config.base import Section, Words

_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True)
class Kind:
    """The type of one value, without `Annotated` and `| None`, and their content."""

    type: Any
    marks: tuple[Any, ...] = ()
    """Constraints and `Words`."""
    discriminator: str | None = None
    """The key that distinguishes the members of a union of sections."""
    nullable: bool = False

    @property
    def section(self) -> type[Section] | None:
        """The class of the section, if the value is a section of exactly one class."""
        return self.type if isinstance(self.type, type) and issubclass(self.type, Section) else None

    @property
    def variants(self) -> dict[str, type[Section]]:
        """The sections that the value may be, by the value of the discriminator; empty if there is no such choice."""
        if self.discriminator is None:
            return {}
        return {_tag(member, self.discriminator): member for member in get_args(self.type)}

    @property
    def item(self) -> "Kind | None":
        """The kind of the entries of a list, or of the values of a mapping."""
        origin, args = get_origin(self.type), get_args(self.type)
        return kind_of(args[1 if origin is dict else 0]) if origin in (list, tuple, dict) else None

    @property
    def takes_numbers(self) -> bool:
        """Whether the value may be a number, or a number or text."""
        types_ = get_args(self.type) or (self.type,)
        return (int in types_ or float in types_) and self.item is None

    @property
    def key(self) -> "Kind | None":
        """The kind of the keys of a mapping."""
        return kind_of(get_args(self.type)[0]) if get_origin(self.type) is dict else None


def kind_of(annotation: Any, marks: tuple[Any, ...] = (), discriminator: str | None = None) -> Kind:
    """Parse an annotation."""
    nullable = False
    while True:
        args = get_args(annotation)
        if get_origin(annotation) is Annotated:
            annotation = args[0]
            for mark in args[1:]:
                if isinstance(mark, FieldInfo):
                    marks = (*marks, *mark.metadata)
                    discriminator = str(mark.discriminator) if mark.discriminator else discriminator
                else:
                    marks = (*marks, mark)
        elif get_origin(annotation) in (Union, types.UnionType) and types.NoneType in args:
            nullable = True
            annotation = Union[tuple(a for a in args if a is not types.NoneType)]  # noqa: UP007 (built at run time)
        else:
            return Kind(annotation, marks, discriminator, nullable)


def field_kind(section: type[Section], key: str) -> Kind:
    """The kind of a section's key."""
    field = section.model_fields[key]
    return kind_of(field.annotation, tuple(field.metadata), str(field.discriminator) if field.discriminator else None)


@dataclass(frozen=True)
class Place:
    """The place of a pydantic error."""

    path: str
    """Dotted path as the user writes it, without the tags of unions; empty: the root of the configuration."""
    kind: Kind | None
    """The expected type; None: the key is unknown."""
    holder: type[Section] | None
    """The section that the last key of the path belongs to."""
    tag: str | None
    """The discriminator's value that selected `holder`, if any."""
    is_key: bool
    """Whether the error is about the last part of the path itself, the key of a mapping."""


def locate(root: type[Section], loc: tuple[int | str, ...]) -> Place:
    """Follow a `loc` of pydantic through the classes."""
    path, is_key = "", False
    holder: type[Section] | None = None
    tag: str | None = None
    next_tag: str | None = None
    names: Kind | None = None
    current: Kind | None = kind_of(root)
    for part in loc:
        if part == "[key]":
            is_key, current = True, names
        elif current is None:
            path = f"{path}.{part}"
        elif isinstance(part, str) and part in current.variants:
            next_tag, current = part, kind_of(current.variants[part])
        elif current.section is not None:
            holder, tag, next_tag = current.section, next_tag, None
            path = f"{path}.{part}"
            current = field_kind(holder, str(part)) if part in holder.model_fields else None
        elif current.item is not None:
            path = f"{path}[{part}]" if isinstance(part, int) else f"{path}.{part}"
            names, current = current.key, current.item
        # What is left names a member of a plain union such as `text or whole number`: no part of the path.
    return Place(path.removeprefix("."), current, holder, tag, is_key)


def in_words(kind: Kind) -> str:
    """The expected value in words, such as `a whole number ≥ 1, or null`."""
    said = next((str(mark) for mark in kind.marks if isinstance(mark, Words)), None)
    return (said or _in_words(kind)) + (", or null" if kind.nullable else "")


def _in_words(kind: Kind) -> str:
    origin, args = get_origin(kind.type), get_args(kind.type)
    simple = {bool: "`true` or `false`", dt.date: "a day, `YYYY-MM-DD`", Any: "anything"}
    if kind.type in simple:
        return simple[kind.type]
    if kind.type in (int, float):
        return ("a whole number" if kind.type is int else "a number") + _range(kind.marks, whole=kind.type is int)
    if kind.type is str:
        return "text, not empty" if _least(kind) else "text"
    if origin is Literal:
        return f"`{args[0]}`" if len(args) == 1 else "one of " + ", ".join(f"`{a}`" for a in args)
    if kind.variants:
        return f"a section whose `{kind.discriminator}` is one of " + ", ".join(f"`{tag}`" for tag in kind.variants)
    if kind.section is not None:
        return "a section with keys such as " + ", ".join(f"`{key}`" for key in list(kind.section.model_fields)[:3])
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(kind_of(a)) for a in args)
    if origin is tuple and Ellipsis not in args:
        return f"a list of {len(args)} entries, each {in_words(kind_of(args[0]))}"
    least = _least(kind)
    size = f" with at least {least} {'entry' if least == 1 else 'entries'}" if least else ""
    if kind.key is not None and kind.item is not None:
        names = kind.item.section is not None or kind.item.variants
        return ("a mapping from names to sections" if names else "a mapping") + size
    if kind.item is not None:
        return f"a list{size}, each {in_words(kind.item)}"
    return f"a {getattr(kind.type, '__name__', kind.type)}"


def _least(kind: Kind) -> int:
    return max((m.min_length for m in kind.marks if hasattr(m, "min_length")), default=0)


def _range(marks: tuple[Any, ...], whole: bool) -> str:
    # A whole number > 0 reads better as ≥ 1.
    limits = [(sign, getattr(m, name)) for m in marks for name, sign in _SIGNS.items() if hasattr(m, name)]
    said = (f"≥ {limit + 1}" if whole and sign == ">" else f"{sign} {limit}" for sign, limit in limits)
    return " ".join(["", " and ".join(said)]).rstrip()


def _tag(member: type[Section], discriminator: str) -> str:
    return get_args(member.model_fields[discriminator].annotation)[0]


@dataclass(frozen=True)
class Found:
    """A section of the configuration, with its path."""

    path: str
    """Dotted path, with `<name>` for the keys of mappings and `[]` for the entries of lists."""
    section: type[Section]
    choice: str = ""
    """The key and value that select this section among the possible ones, such as `type: mmoe`."""


def sections(root: type[Section], path: str = "", choice: str = "") -> Iterator[Found]:
    """`root` and every section below it, in the order of the fields."""
    yield Found(path, root, choice)
    for key in root.model_fields:
        kind, below = field_kind(root, key), f"{path}.{key}".removeprefix(".")
        if kind.item is not None:
            kind, below = kind.item, f"{below}.<name>" if kind.key is not None else f"{below}[]"
        if kind.section is not None:
            yield from sections(kind.section, below)
        for tag, member in kind.variants.items():
            yield from sections(member, below, f"{kind.discriminator}: {tag}")
