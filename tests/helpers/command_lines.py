"""Finds the calls of raymtl in shell text, and says which of their options the command line does not have."""

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import typer

from raymtl.cli.main import app

ROOT = Path(__file__).parents[2]
OPERATORS = set(";|&<>()")
# Options of a command that is not there yet, with whether each one takes a value
PLANNED = {
    "daily": {
        **dict.fromkeys(
            ["--config", "-c", "--date", "--from", "--to", "--set", "--workers", "--address", "--wait"], True
        ),
        **dict.fromkeys(["--gpu", "--force", "--ignore-bounds", "--dry-run", "--json"], False),
    }
}


def calls(text: str) -> Iterator[list[str]]:
    """Each call in shell text, as the words after `raymtl`; a script in `jobs/` counts as the command of its name."""
    for line in re.sub(r"\\\n\s*(#\s*)?", "", text).splitlines():
        if not re.search(r"\braymtl \w|jobs/\w+\.py", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for at, word in enumerate(words):
            script = re.search(r"(?:^|/)jobs/(\w+)\.py$", word)
            if script and at and words[at - 1] == "python":
                if not (ROOT / "jobs" / f"{script[1]}.py").is_file():
                    raise AssertionError(f"`{line.strip()}` names a script that does not exist")
                yield [script[1], *_arguments(words[at + 1 :])]
            elif re.search(r"(?:^|/)raymtl$", word) and words[at + 1 : at + 2] and words[at + 1][0].isalpha():
                yield _arguments(words[at + 1 :])


def _arguments(words: list[str]) -> list[str]:
    for at, word in enumerate(words):
        if set(word) <= OPERATORS:
            # `2>&1`: the number before an arrow belongs to it
            return words[: at - 1] if word[0] in "<>" and at and words[at - 1].isdigit() else words[:at]
    return words


def fault(words: list[str]) -> str | None:
    """What is wrong with a call, or None."""
    name, options, places, rest = _command(words)
    if options is None:
        return f"there is no command `{name}`"
    given = 0
    rest = iter(rest)
    for word in rest:
        option, has_value, _ = word.partition("=")
        if not option.startswith("-"):
            given += 1
        elif option not in options:
            return f"`raymtl {name}` has no option {option}"
        elif options[option] and not has_value and next(rest, "-").startswith("-"):
            return f"`raymtl {name}`: {option} without a value"
    return f"`raymtl {name}` takes {places} arguments, not {given}" if given > places else None


def _command(words: list[str]) -> tuple[str, dict[str, bool] | None, float, list[str]]:
    if words[0] == "submit" and words[1:]:  # takes its own options and those of the command that it brings to a cluster
        _, own, _, _ = _command(words[:1])
        name, options, places, rest = _command(words[1:])
        return f"submit {name}", None if options is None else {**(own or {}), **options}, places, rest
    command = typer.main.get_command(app)
    for at, word in enumerate(words):
        if not hasattr(command, "commands") or (at and word.startswith("-")):  # a group may be a command itself
            break
        if word not in command.commands:
            return " ".join(words[: at + 1]), PLANNED.get(word) if at == 0 else None, 0, words[at + 1 :]
        command, words_left = command.commands[word], words[at + 1 :]
    options = {
        name: not getattr(parameter, "is_flag", False)
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("-")
    }
    arguments = [parameter for parameter in command.params if not parameter.opts[0].startswith("-")]
    places = math.inf if any(parameter.nargs < 0 for parameter in arguments) else len(arguments)
    return command.name, options, places, words_left


def code_of(markdown: str) -> str:
    """The code of a page: fenced blocks and what stands in backquotes, one piece a line."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", markdown, re.M | re.S)
    prose = re.sub(r"^ *```.*?^ *```", "", markdown, flags=re.M | re.S)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", prose)])
