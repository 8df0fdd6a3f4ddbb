"""Turn pydantic's errors into messages: the dotted path, what was found, what was expected, the closest name."""

import json
import math
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from raymtl.config.base import Section, did_you_mean
from raymtl.config.schema import FieldType, Place, field_type, in_words, locate, sections

_LARGEST = 3.4e38
LONGEST = 60
"""Maximum number of characters of a value that a message quotes."""

RENAMED = {
    "passes": "epochs",
    "ready_made": "presets",
    "loses_at_most": "max_drop",
    "forget_after_days": "evict_after_days",
}
"""New names of renamed fields, by the old ones."""


def explain(error: ValidationError, root: type[Section]) -> list[str]:
    """One message per problem; its first word is the dotted path, if there is one."""
    found: dict[tuple[str, int], str] = {}
    for detail in error.errors(include_url=False):
        place = locate(root, detail["loc"])
        for n, sentence in enumerate(_sentences(detail, place, root)):
            # A plain union gives one error per member at the same path, and one sentence says it all.
            found.setdefault((place.path, n), sentence)
    return list(found.values())


def number_problems(raw: Any, field: FieldType, path: str = "") -> Iterator[str]:
    """A message for every `true` or `false` in place of a number, which pydantic would read as 1 or 0, and for every number that
    no tensor holds, whether of 64-bit integers or of 32-bit floats."""
    if isinstance(raw, int | float) and field.takes_numbers:
        if isinstance(raw, bool):
            yield f"{path} is {_quoted(raw)}; expected {in_words(field)}"
        elif isinstance(raw, int) and not -(2**63) <= raw < 2**63:
            yield f"{path} is a number of {raw.bit_length()} bits; expected one that 64 bits hold"
        elif isinstance(raw, float) and _LARGEST < abs(raw) < math.inf:
            yield f"{path} is {raw}; expected a number up to {_LARGEST}"
    elif isinstance(raw, list) and field.item is not None:
        for n, value in enumerate(raw):
            yield from number_problems(value, field.item, f"{path}[{n}]")
    elif isinstance(raw, dict):
        chosen = field.section or field.variants.get(str(raw.get(field.discriminator)))
        sections = [chosen] if chosen else list(field.variants.values())  # a preset may add the type
        for key, value in raw.items():
            section = next((s for s in sections if key in s.model_fields), None)
            inner = field_type(section, key) if section else field.item
            if inner is not None:
                yield from number_problems(value, inner, f"{path}.{key}".removeprefix("."))


def printable(sentence: str) -> str:
    """The sentence with control characters of the user's names and values as escapes: a terminal would obey them."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in sentence)


def _sentences(detail: ErrorDetails, place: Place, root: type[Section]) -> list[str]:
    path, field, value = place.path, place.field, detail["input"]
    if detail["type"] == "value_error":
        return [_of_validator(line, place, value) for line in str(detail["ctx"]["error"]).split("\n")]
    if detail["type"] == "extra_forbidden" or field is None:
        return [_unknown_key(place, root)]
    if detail["type"] == "missing":
        return [f"{path} is missing; expected {in_words(field)}"]
    if place.is_key:
        return [f"{path}: {_quoted(value)} cannot be a name here; expected {in_words(field)}"]
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        tag = value.get(field.discriminator) if isinstance(value, dict) else None
        says = "is missing" if tag is None else f"is {_quoted(tag)}"
        expected = ", ".join(f"`{t}`" for t in field.variants)
        near = "" if tag is None else did_you_mean(str(tag), field.variants)
        return [f"{path}.{field.discriminator} {says}; expected one of {expected}{near}"]
    hint = did_you_mean(value, map(str, get_args(field.type))) if isinstance(value, str) else ""
    if field.type is str and isinstance(value, int | float):
        hint = "; put it in quotes to make it text"
    return [f"{path} is {_quoted(value, field)}; expected {in_words(field)}{hint}"]


def _of_validator(message: str, place: Place, value: Any) -> str:
    """A message of one of raymtl's own validators, which may start with a key of its section."""
    if not place.path:
        return message
    section = place.field.section if place.field else None
    if section is None:
        return f"{place.path} is {_quoted(value)}; {message}"
    return f"{place.path}{'.' if message.split()[0] in section.model_fields else ': '}{message}"


def _unknown_key(place: Place, root: type[Section]) -> str:
    key = place.path.rpartition(".")[2]
    known = place.holder.model_fields if place.holder else {}
    says = f"{place.path} is an unknown key" + (f" of `{place.tag}`" if place.tag else "")
    if place.tag == "sequence_dense" and key in ("side", "max_length"):
        return f"{says}; numbers have that of their history: set it at the feature that `of` names"
    if RENAMED.get(key) in known:
        return f"{says}; use `{RENAMED[key]}`"
    if near := did_you_mean(key, known):
        return says + near
    others = [
        f for f in sections(root) if f.path and key in f.section.model_fields and f.choice.partition(":")[0] != key
    ]
    if others:
        named = dict.fromkeys(f"`{f.path}`" + (f" with `{f.choice}`" if f.choice else "") for f in others)
        return f"{says}; it belongs to {' or '.join(list(named)[:3])}"
    return f"{says}; use one of {', '.join(f'`{k}`' for k in known)}"


def _quoted(value: Any, field: FieldType | None = None) -> str:
    """The value as the user would recognise it, shortened if it is long."""
    if isinstance(value, str) and "\n" not in value and value:
        text = value if len(value) <= LONGEST else value[:LONGEST] + "…"
        return f"the text `{text}`" if field is not None and field.type in (int, float) else f"`{text}`"
    if isinstance(value, float):
        return str(value)
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
