"""Reading the configuration: YAML file and `--set` overrides in, one validated object out; and writing it back.

The YAML is read as version 1.2 has it where 1.1 surprises: `1e-3` is a number, `no` and `on` are text, and so is
`2026-01-31` (the fields that hold days turn it into one). A key given twice is an error, never a silent choice.

Local relative paths (the keys in `PATHS`) are taken from the current folder at the moment of loading and `~` is expanded,
because Ray starts its workers in a folder of its own. URLs stay as they are.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from raymtl.config.base import Section
from raymtl.config.explain import explain, flags_as_numbers
from raymtl.config.root import Config
from raymtl.config.schema import kind_of
from raymtl.config.yamltext import dump_yaml, parse_yaml
from raymtl.errors import ConfigError, DataError, StorageError
from raymtl.storage.paths import absolute

S = TypeVar("S", bound=Section)

PATHS = ("data.path", "data.eval_path", "output", "daily.store", "tune.start.store")
"""Keys that hold a folder or a URL."""

MOST = 10
"""Errors listed at most."""


def load_config(path: str | None, overrides: Sequence[str] = (), *, text: str | None = None) -> Config:
    """Read the file (or URL) at `path`, apply `--set` overrides such as `train.workers=4`, and validate.

    With `text` that is the YAML and `path` only names it; with neither, the overrides alone make the configuration.
    Raises a ConfigError that lists everything wrong, each on a line with its dotted path.
    """
    raw: dict[str, Any] = {}
    if text is None and path is not None:
        text = _read(path)
    if text is not None:
        raw = _mapping(text, path or "the configuration")
    set_paths = [_override(raw, override) for override in overrides]
    return config_from_dict(raw, path or ("the command line" if text is None else "the configuration"), set_paths)


def config_from_dict(raw: dict[str, Any], source: str = "the configuration", set_paths: Sequence[str] = ()) -> Config:
    """Validate a configuration that is a dict already; `source` names it in errors, `set_paths` are marked as from `--set`."""
    config = _validated(Config, raw, source, set_paths)
    for path in PATHS:
        config = _with_absolute(config, path.split("."))
    return config


def relative_paths(overrides: Sequence[str]) -> list[str]:
    """Those of `PATHS` that `--set` overrides give as a relative path or below `~`, each as `key=value`."""
    raw: dict[str, Any] = {}
    for override in overrides:
        _override(raw, override)
    found = {path: _at(raw, path.split(".")) for path in PATHS}
    return [
        f"{path}={value}"
        for path, value in found.items()
        if isinstance(value, str) and "://" not in value and not os.path.isabs(value)
    ]


def _with_absolute(section: S, keys: Sequence[str]) -> S:
    value = getattr(section, keys[0])
    if value is None:
        return section
    changed = _with_absolute(value, keys[1:]) if keys[1:] else absolute(value)
    return section.model_copy(update={keys[0]: changed})


def _at(raw: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def section_from(kind: type[S], values: dict[str, Any], overrides: Sequence[str], source: str) -> S:
    """Any other section, such as the description of synthetic logs, from values and `--set` overrides."""
    raw = dict(values)
    paths = [_override(raw, override) for override in overrides]
    return _validated(kind, raw, source, paths)


def _validated(kind: type[S], raw: dict[str, Any], source: str, set_paths: Sequence[str]) -> S:
    problems = list(flags_as_numbers(raw, kind_of(kind)))
    try:
        section = kind.model_validate(raw)
    except ValidationError as error:
        problems += explain(error, kind)
    if problems:
        raise ConfigError(_listed([_with_origin(p, set_paths) for p in problems], source))
    return section


def dump_config(config: Config) -> str:
    """The configuration as YAML with every default written out, in the order of the fields; `load_config` reads it back."""
    return dump_yaml(config.model_dump(mode="json"))


def config_hash(config: Config) -> str:
    """16 hex digits that two configurations share exactly when they say the same, `name`, `output` and `tune` aside, and the
    features' `side`, which only serving asks for.

    The order of features, tables and tasks counts: it is the order of the model's inputs and outputs.
    """
    content = config.model_dump(
        mode="json", exclude={"name": True, "output": True, "tune": True, "features": {"__all__": {"side"}}}
    )
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:16]


def _read(path: str) -> str:
    if "://" in path:
        return _read_url(path)
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError:
        raise ConfigError(f"the configuration file `{path}` does not exist (looked from {os.getcwd()})") from None
    except IsADirectoryError:
        raise ConfigError(f"`{path}` is a folder; name the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"the configuration file `{path}` cannot be read: {error.strerror}") from None


def _read_url(url: str) -> str:
    # Not before: Arrow takes a while to import, and these modules read configurations themselves
    from raymtl.storage.filesystem import open_filesystem, read_all
    from raymtl.storage.retry import advice, is_transient, reason, retry

    try:
        filesystem, inner = open_filesystem(url)
        return retry(lambda: read_all(filesystem, inner)).decode("utf-8-sig")
    except OSError as error:
        if is_transient(error):
            raise StorageError(
                f"the configuration file `{url}` cannot be read: {reason(error)}; {advice(error)} and run the same command again"
            ) from error
        raise ConfigError(f"the configuration file `{url}` cannot be read: {error}") from error
    except (DataError, ValueError) as error:
        raise ConfigError(f"the configuration file `{url}` cannot be read: {error}") from error


def _mapping(text: str, source: str) -> dict[str, Any]:
    raw = parse_yaml(text, source)
    if raw is None:
        raise ConfigError(f"{source} is empty; it needs the sections `data`, `features`, `tasks` and `model`")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{source} holds {_described(raw)}; it must be a mapping with keys such as `data` and `model`"
        )
    return raw


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
            raise ConfigError(
                f"--set {override}: `{here}` is {_described(below)} and has no keys; set it whole: {here}=…"
            )
        inner = below
    inner[keys[-1]] = parsed
    return path


def _described(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the single value `{value}`"


def _with_origin(sentence: str, set_paths: Sequence[str]) -> str:
    path = sentence.split()[0].rstrip(":")
    inside = any(path == p or path.startswith((f"{p}.", f"{p}[")) for p in set_paths)
    above = "unknown key" in sentence and any(p.startswith(f"{path}.") for p in set_paths)
    return f"{sentence} (given by --set)" if inside or above else sentence


def _listed(lines: list[str], source: str) -> str:
    if len(lines) == 1:
        return f"{source}: {lines[0]}"
    more = [f"  … and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return "\n".join([f"{source} has {len(lines)} errors:", *(f"  {line}" for line in lines[:MOST]), *more])
