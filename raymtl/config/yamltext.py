"""YAML for the configuration: safe, strict about keys, and without the surprises of version 1.1."""

import re
from typing import Any

import yaml

from raymtl.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0x[0-9a-fA-F_]+|0o[0-7_]+|\d[\d_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_MERGE = re.compile(r"^<<$")


def parse_yaml(text: str, source: str) -> Any:
    """The single document in `text`; a ConfigError names `source`, the line and the column of the problem."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError(f"{source}: its lists or mappings are nested too deeply; write them flatter") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = ": ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{source}{where}: {said}") from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or str(error).splitlines()[0]
        before = text[: getattr(error, "position", 0)]
        raise ConfigError(f"{source}, line {before.count(chr(10)) + 1}: {reason}") from None


def dump_yaml(value: dict[str, Any]) -> str:
    """`value` as YAML in its order, the innermost lists and mappings on one line; `parse_yaml` reads it back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """Numbers as in YAML 1.2; days, `yes`, `no`, `on` and `12:30` stay text; keys are text and unique."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[misc]
        first: dict[str, int] = {}
        for key, _ in node.value:
            name, line = key.value, key.start_mark.line + 1
            if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
                shown = name if isinstance(key, yaml.ScalarNode) else "…"
                raise yaml.MarkedYAMLError(
                    None, None, f"the key `{shown}` is not text; put it in quotes", key.start_mark
                )
            if name in first:
                raise yaml.MarkedYAMLError(
                    None, None, f"the key `{name}` is given twice, first in line {first[name]}", key.start_mark
                )
            first[name] = line
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = node.value.replace("_", "")
        sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
        base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
        return sign * int(digits[2:] if base != 10 else digits, base)


class _Dumper(yaml.SafeDumper):
    """Quotes text that this loader, or a YAML 1.1 loader, would read as another type; days are plain."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Other styles write these line separators as they are, and a reader takes them for a fold.
        style = '"' if any(c in text for c in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar(f"{_TAG}str", text, style=style)


for _tag, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", _NULL, ["~", "n", "N", ""]),
    ("merge", _MERGE, "<"),
):
    _Loader.add_implicit_resolver(_TAG + _tag, _pattern, list(_first))
    if _tag in ("int", "float"):
        _Dumper.add_implicit_resolver(_TAG + _tag, _pattern, list(_first))
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Dumper.add_representer(str, _Dumper.represent_text)
