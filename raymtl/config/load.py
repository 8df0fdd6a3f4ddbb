"""Read the configuration (a YAML file, its base and `--set` overrides) into one validated object, and write it back.

Where YAML 1.1 surprises, the rules of version 1.2 apply: `1e-3` is a number, `no` and `on` are text, and so is `2026-01-31` (the
fields that hold days convert it). A key given twice is an error.

Local relative paths (the fields of type `Location`) become absolute, from the current working directory, and `~` is expanded,
because Ray starts its workers in another folder. URLs do not change.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from raymtl.config.base import Section
from raymtl.config.explain import explain, number_problems, printable
from raymtl.config.roles import hashed_fields, path_fields
from raymtl.config.root import Config
from raymtl.config.schema import parse_annotation
from raymtl.config.source import EXTENDS, Source, described, read_source
from raymtl.config.yamltext import dump_yaml, parse_yaml
from raymtl.errors import ConfigError
from raymtl.storage.paths import absolute

S = TypeVar("S", bound=Section)

MOST = 10
"""Maximum number of errors listed."""


def load_config(path: str | None, overrides: Sequence[str] = (), *, text: str | None = None) -> Config:
    """Read the file (or URL) at `path` and its base, apply `--set` overrides such as `train.workers=4`, and validate.

    If `text` is given, it is the YAML and `path` only names it; without both, the overrides alone make the configuration.
    Raises a ConfigError that lists every problem on a line with its dotted path.
    """
    nothing = path is None and text is None
    source = Source("the command line", {}) if nothing else read_source(path, text)
    raw = source.merged()
    set_paths = [_override(raw, override) for override in overrides]
    if EXTENDS in raw:
        raise ConfigError(
            f"--set {EXTENDS}={raw[EXTENDS]}: the command line cannot name a base; write `{EXTENDS}` in the file"
        )
    return _with_absolute_paths(_validated(Config, raw, source, set_paths))


def config_from_dict(raw: dict[str, Any], source: str = "the configuration") -> Config:
    """Validate a configuration given as a dict; `source` names it in errors."""
    return _with_absolute_paths(_validated(Config, raw, Source(source, raw), ()))


def with_score(config: Config, path: str) -> Config:
    """The configuration with the `score` section of another file, which may be a complete configuration."""
    source = read_source(path, None)
    raw = source.merged()
    if not isinstance(raw.get("score"), dict):
        raise ConfigError(f"{path} has no section `score`; name a file that has `score.formulas`")
    return _validated(Config, {**config.model_dump(mode="json"), "score": raw["score"]}, source, ())


def _with_absolute_paths(config: Config) -> Config:
    for path in path_fields(Config):
        config = _with_absolute(config, path.split("."))
    return config


def relative_paths(overrides: Sequence[str]) -> list[str]:
    """The paths that `--set` overrides give as relative or below `~`, each as `key=value`."""
    raw: dict[str, Any] = {}
    for override in overrides:
        _override(raw, override)
    found = [pair for path in path_fields(Config) for pair in _values(raw, path.split("."))]
    found = [(path, one) for path, value in found for one in (value if isinstance(value, list) else [value])]
    return [
        f"{path}={value}"
        for path, value in found
        if isinstance(value, str) and "://" not in value and not os.path.isabs(value)
    ]


def _with_absolute(section: S, keys: Sequence[str]) -> S:
    value = getattr(section, keys[0])
    if value is None:
        return section
    if keys[1:2] == ["<name>"]:
        named = {name: _with_absolute(one, keys[2:]) for name, one in value.items()}
        return section.model_copy(update={keys[0]: named})
    if keys[1:]:
        changed: Any = _with_absolute(value, keys[1:])
    else:
        changed = [absolute(one) for one in value] if isinstance(value, list) else absolute(value)
    return section.model_copy(update={keys[0]: changed})


def _values(raw: Any, keys: Sequence[str], at: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a field, by dotted key: several if a mapping is on its way (`<name>`)."""
    if not keys:
        yield at, raw
    elif isinstance(raw, dict):
        for key in raw if keys[0] == "<name>" else [keys[0]]:
            if key in raw:
                yield from _values(raw[key], keys[1:], f"{at}.{key}".removeprefix("."))


def section_from(kind: type[S], values: dict[str, Any], overrides: Sequence[str], source: str) -> S:
    """Any other section, such as the description of synthetic logs, from values and `--set` overrides."""
    raw = dict(values)
    paths = [_override(raw, override) for override in overrides]
    return _validated(kind, raw, Source(source, raw), paths)


def _validated(kind: type[S], raw: dict[str, Any], source: Source, set_paths: Sequence[str]) -> S:
    problems = list(number_problems(raw, parse_annotation(kind)))
    try:
        section = kind.model_validate(raw)
    except ValidationError as error:
        problems += explain(error, kind)
    if problems:
        raise ConfigError(_listed([_with_origin(p, set_paths, source) for p in problems], source.name))
    return section


def dump_config(config: Config) -> str:
    """The configuration as YAML with every default written out, in the order of the fields; `load_config` reads it back."""
    return dump_yaml(config.model_dump(mode="json"))


def config_hash(config: Config) -> str:
    """A hash (16 hex digits) of the configuration without `name`, `output`, `tune` and the features' `side`.

    The order of features, tables and tasks counts: it is the order of the model's inputs and outputs.
    """
    return hashlib.sha256(json.dumps(hashed_fields(config), separators=(",", ":")).encode()).hexdigest()[:16]


def _override(raw: dict[str, Any], override: str) -> str:
    """Write `a.b.c=value` into `raw`, and return the path."""
    path, equals, value = override.partition("=")
    path = path.strip()
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected a dotted path, `=` and a value, such as `train.workers=4`")
    parsed = parse_yaml(value, f"--set {override}")
    inner = raw
    for n, key in enumerate(keys[:-1]):
        below = inner.get(key)
        if below is None:
            below = inner[key] = {}
        if not isinstance(below, dict):
            here = ".".join(keys[: n + 1])
            raise ConfigError(f"--set {override}: `{here}` is {described(below)}, not a section; set {here}=… instead")
        inner = below
    inner[keys[-1]] = parsed
    return path


def _with_origin(sentence: str, set_paths: Sequence[str], source: Source) -> str:
    path = sentence.split()[0].rstrip(":")
    inside = any(path == p or path.startswith((f"{p}.", f"{p}[")) for p in set_paths)
    above = "unknown key" in sentence and any(p.startswith(f"{path}.") for p in set_paths)
    if inside or above:
        return f"{sentence} (given by --set)"
    base = source.file_of(path)
    return f"{sentence} (in {base})" if base else sentence


def _listed(lines: list[str], source: str) -> str:
    lines = [printable(line) for line in lines]
    if len(lines) == 1:
        return f"{source}: {lines[0]}"
    more = [f"  … and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return "\n".join([f"{source} has {len(lines)} errors:", *(f"  {line}" for line in lines[:MOST]), *more])
