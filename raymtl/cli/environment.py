"""What in the environment of a process no command survives, said before a library crashes over it."""

import os
import sys

from raymtl.dependencies import StackError
from raymtl.errors import ConfigError, StorageError

_NICENESS = "RAY_worker_niceness"


def check_environment() -> None:
    """Raise a UserError for a removed current folder, or for a variable with which Ray or torch cannot be imported."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise StorageError("the current folder has been removed; change to another folder") from error
    if sys.flags.optimize > 1:
        raise StackError("Python runs without docstrings, which Ray needs; unset PYTHONOPTIMIZE, or leave out -OO")
    value = os.environ.get(_NICENESS, "0")
    if not value.lstrip("+-").isdecimal():
        raise ConfigError(f"{_NICENESS} is `{value}`; expected a whole number: set one, or unset it")
