"""Walk the configuration's classes as a tree: which type is at a path, and its description in plain words."""

import datetime as dt
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from raymtl.config.base import ExpectedText, Section

_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True)
class FieldType:
    """The type of one value, without `Annotated` and `| None`, and their content."""

    type: Any
    metadata: tuple[Any, ...] = ()
    """Constraints and `ExpectedText`."""
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
    def item(self) -> "FieldType | None":
        """The kind of the entries of a list, or of the values of a mapping."""
        origin, args = get_origin(self.type), get_args(self.type)
        return parse_annotation(args[1 if origin is dict else 0]) if origin in (list, tuple, dict) else None

    @property
    def takes_numbers(self) -> bool:
        """Whether the value may be a number, or a number or text."""
        types_ = get_args(self.type) or (self.type,)
        return (int in types_ or float in types_) and self.item is None

    @property
    def key(self) -> "FieldType | None":
        """The kind of the keys of a mapping."""
        return parse_annotation(get_args(self.type)[0]) if get_origin(self.type) is dict else None


def parse_annotation(annotation: Any, metadata: tuple[Any, ...] = (), discriminator: str | None = None) -> FieldType:
    """Parse an annotation."""
    nullable = False
    while True:
        args = get_args(annotation)
        if get_origin(annotation) is Annotated:
            annotation = args[0]
            for mark in args[1:]:
                if isinstance(mark, FieldInfo):
                    metadata = (*metadata, *mark.metadata)
                    discriminator = str(mark.discriminator) if mark.discriminator else discriminator
                else:
                    metadata = (*metadata, mark)
        elif get_origin(annotation) in (Union, types.UnionType) and types.NoneType in args:
            nullable = True
            annotation = Union[tuple(a for a in args if a is not types.NoneType)]  # noqa: UP007 (built at run time)
        else:
            return FieldType(annotation, metadata, discriminator, nullable)


def field_type(section: type[Section], key: str) -> FieldType:
    """The kind of a section's key."""
    field = section.model_fields[key]
    return parse_annotation(
        field.annotation, tuple(field.metadata), str(field.discriminator) if field.discriminator else None
    )


@dataclass(frozen=True)
class Place:
    """The place of a pydantic error."""

    path: str
    """Dotted path as the user writes it, without the tags of unions; empty: the root of the configuration."""
    field: FieldType | None
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
    names: FieldType | None = None
    current: FieldType | None = parse_annotation(root)
    for part in loc:
        if part == "[key]":
            is_key, current = True, names
        elif current is None:
            path = f"{path}.{part}"
        elif isinstance(part, str) and part in current.variants:
            next_tag, current = part, parse_annotation(current.variants[part])
        elif current.section is not None:
            holder, tag, next_tag = current.section, next_tag, None
            path = f"{path}.{part}"
            current = field_type(holder, str(part)) if part in holder.model_fields else None
        elif current.item is not None:
            path = f"{path}[{part}]" if isinstance(part, int) else f"{path}.{part}"
            names, current = current.key, current.item
        # What is left names a member of a plain union such as `text or whole number`: no part of the path.
    return Place(path.removeprefix("."), current, holder, tag, is_key)


def in_words(field: FieldType) -> str:
    """The expected value in words, such as `a whole number ≥ 1, or null`."""
    said = next((str(mark) for mark in field.metadata if isinstance(mark, ExpectedText)), None)
    return (said or _in_words(field)) + (", or null" if field.nullable else "")


def _in_words(field: FieldType) -> str:
    origin, args = get_origin(field.type), get_args(field.type)
    simple = {bool: "`true` or `false`", dt.date: "a day, `YYYY-MM-DD`", Any: "anything"}
    if field.type in simple:
        return simple[field.type]
    if field.type in (int, float):
        return ("a whole number" if field.type is int else "a number") + _range(field.metadata, whole=field.type is int)
    if field.type is str:
        return "text, not empty" if _least(field) else "text"
    if origin is Literal:
        return f"`{args[0]}`" if len(args) == 1 else "one of " + ", ".join(f"`{a}`" for a in args)
    if field.variants:
        return f"a section whose `{field.discriminator}` is one of " + ", ".join(f"`{tag}`" for tag in field.variants)
    if field.section is not None:
        return "a section with keys such as " + ", ".join(f"`{key}`" for key in list(field.section.model_fields)[:3])
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(parse_annotation(a)) for a in args)
    if origin is tuple and Ellipsis not in args:
        return f"a list of {len(args)} entries, each {in_words(parse_annotation(args[0]))}"
    least = _least(field)
    size = f" with at least {least} {'entry' if least == 1 else 'entries'}" if least else ""
    if field.key is not None and field.item is not None:
        names = field.item.section is not None or field.item.variants
        return ("a mapping from names to sections" if names else "a mapping") + size
    if field.item is not None:
        return f"a list{size}, each {in_words(field.item)}"
    return f"a {getattr(field.type, '__name__', field.type)}"


def _least(field: FieldType) -> int:
    return max((m.min_length for m in field.metadata if hasattr(m, "min_length")), default=0)


def _range(metadata: tuple[Any, ...], whole: bool) -> str:
    # A whole number > 0 reads better as ≥ 1.
    limits = [(sign, getattr(m, name)) for m in metadata for name, sign in _SIGNS.items() if hasattr(m, name)]
    said = (f"≥ {limit + 1}" if whole and sign == ">" else f"{sign} {limit}" for sign, limit in limits)
    return " ".join(["", " and ".join(said)]).rstrip()


def _tag(member: type[Section], discriminator: str) -> str:
    return get_args(member.model_fields[discriminator].annotation)[0]


@dataclass(frozen=True)
class SectionAt:
    """A section of the configuration, with its path."""

    path: str
    """Dotted path, with `<name>` for the keys of mappings and `[]` for the entries of lists."""
    section: type[Section]
    choice: str = ""
    """The key and value that select this section among the possible ones, such as `type: mmoe`."""


def sections(root: type[Section], path: str = "", choice: str = "") -> Iterator[SectionAt]:
    """`root` and every section below it, in the order of the fields."""
    yield SectionAt(path, root, choice)
    for key in root.model_fields:
        field, below = field_type(root, key), f"{path}.{key}".removeprefix(".")
        if field.item is not None:
            field, below = field.item, f"{below}.<name>" if field.key is not None else f"{below}[]"
        if field.section is not None:
            yield from sections(field.section, below)
        for tag, member in field.variants.items():
            yield from sections(member, below, f"{field.discriminator}: {tag}")
