"""A command as a person sees it: a real process on a pseudo-terminal, and what its screen holds."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import pyte

from tests.helpers.fork_server import Forked, fork_command

ROOT = Path(__file__).parents[2]
RAYMTL = [sys.executable, "-m", "raymtl"]
# What the tests of this session set for the processes of Ray would hide what a user meets
_OF_THE_TESTS = ("RAY_", "RAYMTL_", "PYTEST_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "TTY_")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a login shell: that of the tests without what they add."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OF_THE_TESTS)}
    return {**kept, "TERM": "xterm-256color", **(extra or {})}


class Terminal:
    """A process whose standard streams are one pseudo-terminal, which it controls: a typed Ctrl-C reaches its whole group."""

    def __init__(
        self,
        arguments: list[str],
        *,
        columns: int = 80,
        lines: int = 24,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        forked: bool = False,
    ):
        """`forked`: the command (`[*RAYMTL, …]`) is a fork of a process that has imported everything; see `fork_server`."""
        self.columns = columns
        self.raw = b""
        self._screen = pyte.HistoryScreen(columns, lines, history=5000, ratio=1.0)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process: subprocess.Popen[bytes] | Forked
        if forked:
            words = arguments[len(RAYMTL) :]
            self.process = fork_command(words, [slave] * 3, clean_environment(env), cwd or ROOT, terminal=True)
            os.close(slave)
            return
        self.process = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=clean_environment(env),
            cwd=cwd or ROOT,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """Every line that the screen showed, scrolled ones first; a line that was painted over is as it is now."""
        above = ["".join(line[x].data for x in range(self.columns)).rstrip() for line in self._screen.history.top]
        return "\n".join([*above, *(line.rstrip() for line in self._screen.display)]).rstrip()

    def type(self, keys: bytes) -> None:
        """Press keys; b"\\x03" is Ctrl-C."""
        os.write(self._master, keys)

    def read(self, seconds: float) -> bool:
        """Take in what comes within that time; False once the process and its children have closed the terminal."""
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody holds the other end
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def wait_for(self, found: str | Callable[[str], bool], timeout_s: float = 120) -> None:
        """Read until the text stands on the screen, or until the function says that it does."""
        seen = found if callable(found) else lambda text: found in text
        end = time.monotonic() + timeout_s
        while not seen(self.text):
            assert time.monotonic() < end, f"not seen in {timeout_s} s: {found}\n{self.text}"
            if not self.read(0.1):
                assert seen(self.text), f"the command ended without {found}\n{self.text}"

    def wait(self, timeout_s: float = 120) -> int:
        """Read until the process has ended; its exit code, negative for a signal."""
        end = time.monotonic() + timeout_s
        while (code := self.process.poll()) is None:
            assert time.monotonic() < end, f"still running after {timeout_s} s\n{self.text}"
            if not self.read(0.1):
                time.sleep(0.01)
        while select.select([self._master], [], [], 0.05)[0] and self.read(0):
            pass
        return code


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
