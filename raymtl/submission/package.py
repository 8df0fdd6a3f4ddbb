"""What a job is sent with: the configuration, the user's code if requested, packages and environment variables."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raymtl.errors import ConfigError
from raymtl.submission.request import UPLOADED

_IGNORES = (".gitignore", ".rayignore")


def environment(wanted: Sequence[str]) -> dict[str, str]:
    """Variables for the job from `KEY=VALUE`, or from `KEY` alone with its value on this machine. Raises ConfigError.

    No message shows a value: most of them are keys and passwords.
    """
    found: dict[str, str] = {}
    for number, one in enumerate(wanted, 1):
        name, equals, value = one.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            # Not quoted: it may be a value whose name was left out
            raise ConfigError(
                f"--env number {number} is not NAME or NAME=VALUE; use only letters, digits and `_` in a name, and no digit "
                "at its start"
            )
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: this machine has no such variable; set it, or write --env {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


@contextmanager
def runtime_env(
    config: str | None, working_dir: str | None, pip: str | None, variables: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Ray's description of the job's environment; the folder that it names exists until the block ends.

    The folder holds links to the entries of `working_dir`, and the configuration, which no ignore file can leave out. Raises
    ConfigError if `working_dir` or the requirements file `pip` does not exist.
    """
    if working_dir is not None and not Path(working_dir).expanduser().is_dir():
        raise ConfigError(
            f"--working-dir is `{working_dir}`, which is not a folder on this machine; name the root of your code"
        )
    if pip is not None and not Path(pip).expanduser().is_file():
        raise ConfigError(f"--pip is `{pip}`, which is not a file on this machine; name a requirements.txt")
    found: dict[str, Any] = {"env_vars": variables} if variables else {}
    if pip is not None:
        found["pip"] = str(Path(pip).expanduser())
    with TemporaryDirectory(prefix="raymtl-submit-") as made:
        folder = Path(made)
        if working_dir is not None:
            for entry in Path(working_dir).expanduser().resolve().iterdir():
                if entry.name == UPLOADED:
                    continue
                if entry.name in _IGNORES:
                    (folder / entry.name).write_text(f"{entry.read_text()}\n!/{UPLOADED}\n")
                else:
                    (folder / entry.name).symlink_to(entry)
        if config is not None:
            (folder / UPLOADED).write_text(config, encoding="utf-8")
        if any(folder.iterdir()):
            found["working_dir"] = made
        yield found
