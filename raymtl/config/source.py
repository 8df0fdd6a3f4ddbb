"""Read the text of a configuration: a file or URL, and its base."""

import copy
import os
import posixpath
from dataclasses import dataclass
from typing import Any

from raymtl.config.yamltext import parse_yaml
from raymtl.errors import ConfigError, DataError, StorageError
from raymtl.storage.paths import split_options

EXTENDS = "extends"
"""The key that names the base of a file; it is resolved while reading and is not part of the configuration."""


@dataclass(frozen=True)
class Source:
    """The content of a configuration before it is checked, by file."""

    name: str
    own: dict[str, Any]
    base_name: str | None = None
    base: dict[str, Any] | None = None

    def merged(self) -> dict[str, Any]:
        """Both files merged into one mapping, which the caller may change."""
        return copy.deepcopy(self.own if self.base is None else _merged(self.base, self.own))

    def file_of(self, path: str) -> str | None:
        """The base's name if the dotted `path`, or more of it than in the file itself, is in the base."""
        if self.base is None or _depth(self.own, path) >= _depth(self.base, path):
            return None
        return self.base_name


def read_source(path: str | None, text: str | None) -> Source:
    """The configuration in the file (or URL) at `path`, or in `text`, which `path` then only names.

    Raises a ConfigError if a file cannot be read or is not a mapping, or if the base has a base itself.
    """
    name = path or "the configuration"
    own = _mapping(_read(name) if text is None else text, name)
    if EXTENDS not in own:
        return Source(name, own)
    given = own.pop(EXTENDS)
    if not isinstance(given, str) or not given:
        raise ConfigError(f"{name}: {EXTENDS} is {described(given)}; expected the path or URL of one YAML file")
    base_name = _beside(path or "", given)
    try:
        base = _mapping(_read(base_name), base_name)
    except ConfigError as error:
        raise ConfigError(f"{name}: {EXTENDS} is `{given}`, but {error}") from error
    if EXTENDS in base:
        raise ConfigError(
            f"{name}: {EXTENDS} is `{given}`, which extends `{base[EXTENDS]}` in turn; a base cannot extend another file: "
            f"copy those keys into `{given}`"
        )
    return Source(name, own, base_name, base)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Merge key by key, as presets do: another `type` or `kind` replaces a section, and null removes it."""
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        if value is None and isinstance(below, dict):
            del merged[key]
        elif isinstance(value, dict) and isinstance(below, dict) and _same_kind(below, value):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _same_kind(base: dict[str, Any], own: dict[str, Any]) -> bool:
    return all(key not in own or own[key] == base.get(key) for key in ("type", "kind"))


def _depth(raw: Any, path: str) -> int:
    depth = 0
    for key in path.split("."):
        if not isinstance(raw, dict) or key.partition("[")[0] not in raw:
            break
        raw, depth = raw[key.partition("[")[0]], depth + 1
    return depth


def _beside(path: str, name: str) -> str:
    """`name` relative to the folder of the file or URL at `path`."""
    if "://" in name or name.startswith(("/", "~")):
        return name
    file, options = split_options(path)
    scheme, mark, inner = file.rpartition("://")
    return f"{scheme}{mark}{posixpath.normpath(posixpath.join(posixpath.dirname(inner), name))}{options}"


def _read(path: str) -> str:
    if "://" in path:
        return _read_url(path)
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError:
        raise ConfigError(
            f"the configuration file `{path}` does not exist (current folder: {os.getcwd()}); check the path"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"`{path}` is a folder; give the path of the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"the configuration file `{path}` cannot be read: {error.strerror}; make it readable for this user"
        ) from None


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
        raise ConfigError(f"the configuration file `{url}` cannot be read: {error}; check the URL") from error
    except (DataError, ValueError) as error:
        raise ConfigError(f"the configuration file `{url}` cannot be read: {error}") from error


def _mapping(text: str, source: str) -> dict[str, Any]:
    raw = parse_yaml(text, source)
    if raw is None:
        raise ConfigError(f"{source} is empty; it needs the sections `data`, `features`, `tasks` and `model`")
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} holds {described(raw)}; it must be a mapping with keys such as `data` and `model`")
    return raw


def described(value: Any) -> str:
    """A value of the wrong type, in words."""
    kinds: dict[type, str] = {list: "a list", dict: "a mapping"}
    return kinds.get(type(value), f"the single value `{value}`")
