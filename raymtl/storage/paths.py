"""Paths and URLs as text."""

import os
import re

from raymtl.errors import StorageError


def join_path(path: str, name: str) -> str:
    """The path or URL of `name` below a folder; a URL's query and fragment, such as `?endpoint_override=…`, stay at its end."""
    folder, options = split_options(path)
    scheme, mark, rest = folder.rpartition("://")
    return f"{scheme}{mark}{rest.rstrip('/')}/{name}{options}"


def split_options(path: str) -> tuple[str, str]:
    """Split a URL into its path and its query with fragment; a local path has neither, even with `?` or `#` in its name."""
    folder = re.split("[?#]", path, maxsplit=1)[0] if "://" in path else path
    return folder, path[len(folder) :]


def absolute(path: str) -> str:
    """A local path made absolute from the current folder, `~` expanded; a URL as it is."""
    try:
        return path if "://" in path else os.path.abspath(os.path.expanduser(path))
    except FileNotFoundError:
        raise StorageError(
            f"the path `{path}` starts at the current folder, which has been removed; change to another folder"
        ) from None
