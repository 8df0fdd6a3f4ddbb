"""One line of a log or of an error, in text or as JSON; needs only the standard library."""

import os
import sys
import time
from contextlib import suppress
from typing import Any

VARIABLE = "RAYMTL_LOG"
"""Environment variable: `text`, or `json` for lines that are JSON objects."""
_place: dict[str, Any] = {}


def begin_lines() -> None:
    """Clear the context of this process's lines."""
    _place.clear()


def at(**place: Any) -> None:
    """Set the context that this process's next lines hold (`run`, `rank`, `step`, `unit`, `day`)."""
    _place.update(place)


def place() -> dict[str, Any]:
    """The context of this process's lines."""
    return dict(_place)


def json_line(level: str, message: str, **more: Any) -> str:
    """One JSON line, without its end."""
    import json  # not before: a command handles signals before it imports anything that takes time

    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    return json.dumps({"time": stamp, "level": level, **_place, "message": message, **more}, ensure_ascii=False)


def note(message: str) -> None:
    """Write a line of raymtl itself to standard error, while standard output holds the log of a job."""
    _write("info", message)


def last_line(message: str, exit_code: int) -> None:
    """Write the sentence that a command ends with to standard error; nothing comes after it."""
    _write("error", message, exit_code=exit_code)


def _write(level: str, message: str, **more: Any) -> None:
    """Write without locks, so that it works whatever the other threads are doing."""
    if os.environ.get(VARIABLE) == "json":
        text = json_line(level, f"raymtl: {message}", **more)
    else:
        plain = (
            sys.stderr is None
            or not sys.stderr.isatty()
            or "NO_COLOR" in os.environ
            or os.environ.get("TERM") == "dumb"
        )
        text = f"raymtl: {message}" if plain else f"\x1b[1;31mraymtl:\x1b[0m {message}"
    data = (text + "\n").encode(errors="replace")
    with suppress(OSError):  # only the exit code can tell then
        while data:
            data = data[os.write(2, data) :]
