"""Send signals to the real process of a command at a moment of its life, and see what it says and leaves."""

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.pipe import foreign
from tests.helpers.terminal import RAYMTL, Terminal

CODES = {"INT": 130, "TERM": 143, "HUP": 129}
MOMENTS = ("imports", "checks", "Ray starts", "Ray is up", "at work")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    seconds: float
    """From the last signal to the end of the process."""
    screen: str
    left: list[str]
    """Processes of it that were still there after 10 s."""

    def faults(self, signals: str, grace_s: float = 0) -> list[str]:
        """What is not as it should be after `signals`, such as "INT" or "INT INT"."""
        first = signals.split()[0]
        by = "" if first == "INT" else f" by SIG{first}"
        found = []
        if self.code != CODES[first]:
            found.append(f"exit code {self.code}")
        # The terminal paints ^C where it is typed, before or after what the command says
        lines = [line for line in self.screen.replace("^C", "").splitlines() if line.strip()]
        if not any(line.startswith(f"raymtl: stopped{by}") for line in lines[-1:]):
            found.append("the sentence is not the last line")
        if self.seconds > 5 + grace_s:
            found.append(f"{self.seconds:.1f} s")
        found += [f"on the screen: {line}" for line in foreign(self.screen)]
        return found + [f"left: {name}" for name in self.left]


def interrupt(words: list[str], moment: str, signals: str, at_work: str, *, forked: bool = False) -> Outcome | None:
    """Start `raymtl words` on a terminal of 200 columns and send it the signals; None where it ended before the moment came.

    `at_work`: when it is at work, by an expression for its screen, or by `process TITLE` of a process that it started.
    `forked`: see `fork_server`; what a fork's Ray calls workers are forks too, so "Ray is up" is not seen."""
    with Terminal([*RAYMTL, *words], columns=200, forked=forked) as terminal:
        if not _reached(terminal, moment, at_work):
            return None
        process = psutil.Process(terminal.process.pid)
        tree = process.children(recursive=True)
        for n, name in enumerate(signals.split()):
            if n:
                end = time.monotonic() + 0.5
                while time.monotonic() < end:
                    terminal.read(0.05)
            sent = time.monotonic()
            if name == "INT":
                terminal.type(b"\x03")
            elif terminal.process.poll() is None:
                os.kill(process.pid, getattr(signal, f"SIG{name}"))
        code = terminal.wait(90)
        seconds = time.monotonic() - sent
        _, left = psutil.wait_procs(tree, timeout=10)
        return Outcome(code, seconds, terminal.text, [_title(p)[:160] for p in left if _lives(p)])


def _reached(terminal: Terminal, moment: str, at_work: str) -> bool:
    start = time.monotonic()
    if moment == "imports":
        seen = lambda: _handles_signals(terminal)  # noqa: E731
    elif moment == "checks":
        seen = lambda: time.monotonic() > start + 1.5 and _handles_signals(terminal)  # noqa: E731
    else:
        wanted = {"Ray starts": "process gcs_server", "Ray is up": "process ray::"}.get(moment, at_work)
        if wanted.startswith("process "):
            seen = lambda: _has_child(terminal, wanted.removeprefix("process "))  # noqa: E731
        else:
            seen = lambda: re.search(wanted, terminal.text) is not None  # noqa: E731
    while time.monotonic() < start + 180 and terminal.process.poll() is None:
        terminal.read(0.02)
        if seen():
            return True
    return False


def _handles_signals(terminal: Terminal) -> bool:
    """Whether the process is raymtl already: Python itself has no handler for SIGTERM, and is slow to start on a busy machine."""
    try:
        status = Path(f"/proc/{terminal.process.pid}/status").read_text()
    except OSError:
        return False
    caught = int(re.search(r"^SigCgt:\s*(\w+)$", status, re.M)[1], 16)  # type: ignore[index]
    return bool(caught & 1 << (signal.SIGTERM - 1))


def _has_child(terminal: Terminal, title: str) -> bool:
    try:
        children = psutil.Process(terminal.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    return any(title in _title(child) for child in children)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def small_logs(folder: Path, rows_per_day: int = 30_000, days: int = 3) -> str:
    """Write synthetic logs and return the path of their configuration."""
    with Terminal(
        [
            *RAYMTL,
            "synth",
            str(folder),
            "--days",
            str(days),
            "--rows-per-day",
            str(rows_per_day),
            "--set",
            "users=2000",
        ],
        forked=True,
    ) as terminal:
        assert terminal.wait() == 0, terminal.text
    return str(folder / "config.yaml")
