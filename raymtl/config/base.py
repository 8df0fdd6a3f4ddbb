"""The base of every configuration model: frozen, and closed to unknown keys."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""NumPy takes no negative seed."""


class Section(BaseModel):
    """One section of the configuration; it refuses unknown keys, and its values cannot change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ExpectedText(str):
    """In an `Annotated` type, replaces the text that errors show as the expected value (for patterns)."""

    __slots__ = ()


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``; did you mean `x`?`` with the known name closest to the given one, or nothing if none is close."""
    names = {name.lower(): name for name in known}
    near = get_close_matches(given.lower(), names, n=1)
    return f"; did you mean `{names[near[0]]}`?" if near else ""


def quoted(names: Iterable[str]) -> str:
    """Names in backquotes, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def not_a_task(name: str, tasks: Iterable[str]) -> str:
    """The end of a sentence about a task that does not exist."""
    tasks = list(tasks)
    return f"which is not one of the tasks {quoted(tasks)}{did_you_mean(name, tasks)}"
