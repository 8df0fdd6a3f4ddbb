"""SIGINT, SIGTERM and SIGHUP: a command ends within seconds, with one sentence and the code 128 + number.

The first signal raises KeyboardInterrupt in the main thread, so that leases, locks and temporary folders are released; the
clean-up has `CLEAN_UP_S` seconds. A second signal, or one while Python imports or Ray starts, ends the process
at once, as SIGKILL would; Linux then ends the processes of a Ray that was started here.

This module needs only the standard library: a command imports it first.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import ClassVar, Literal

from raymtl.telemetry.lines import last_line

CLEAN_UP_S = 1.8
_LAST_ACTS_S = 0.8
"""Together less than the three seconds that `ray job stop` allows."""
_SAME_S = 0.3
"""Within that time the same signal is the same one: `timeout` sends it to the process and then to its group."""
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Arrivals:
    """The signals that one observer has seen."""

    first: int | None = None
    _first_at = 0.0

    def add(self, number: int) -> Literal["first", "same", "second"]:
        """Note a signal; `same`: it is the first one again, sent twice at once."""
        now = time.monotonic()
        if self.first is None:
            self.first, self._first_at = number, now
            return "first"
        return "same" if number == self.first and now - self._first_at < _SAME_S else "second"


class _State:
    owner = 0
    """The process that `install` was called in; its children inherit the handlers."""
    installed_at = 0.0
    handled = _Arrivals()
    sentence = "stopped"
    at_once = True
    """End in the handler: nothing has to be released yet, or an exception here would do harm."""
    exit_code: int | None = None
    """Exit code of a command that ended without a signal."""
    deadline = float("inf")
    leaving = threading.Lock()
    leaver = 0
    """The thread that ends the process."""
    clean_ups: ClassVar[list[Callable[[], None]]] = []


_state = _State()


def install() -> None:
    """Handle the signals in this process, except those that its parent set to ignored, as `nohup` does."""
    _state.owner, _state.installed_at = os.getpid(), time.time()
    _open_standard_streams()
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_failed
    os.register_at_fork(after_in_child=_leave_to_parent)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The bytes arrive even while the main thread waits in C code, where Python's own handler cannot run
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    _handle()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)  # `run_child` blocks them in a child


def installed() -> bool:
    """Whether this process is a command of raymtl, and not a notebook or another program that uses it."""
    return _state.owner == os.getpid()


def installed_at() -> float | None:
    """When this process began as a command of raymtl, by the clock; None: it is another program."""
    return _state.installed_at if installed() else None


def begin(sentence: str) -> None:
    """From now on a signal raises KeyboardInterrupt, and the command ends with `sentence`."""
    _state.sentence, _state.at_once = sentence, False


def set_sentence(sentence: str) -> None:
    """Replace the sentence that a stopped command ends with."""
    _state.sentence = sentence


def received() -> str | None:
    """Name of the signal that came, or None."""
    return None if _state.handled.first is None else signal.Signals(_state.handled.first).name


def allow(seconds: float) -> None:
    """Give the clean-up `seconds` from now."""
    _state.deadline = time.monotonic() + seconds


@contextmanager
def clean_up_with(clean_up: Callable[[], None]) -> Iterator[None]:
    """Inside, a signal that ends the process at once calls `clean_up` first: for what other processes would wait for."""
    _state.clean_ups.append(clean_up)
    try:
        yield
    finally:
        _state.clean_ups.remove(clean_up)


def end(exit_code: int) -> None:
    """End the command: with the sentence and code of a received signal; else a later signal cannot turn success into failure."""
    if _state.handled.first is not None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        _leave(_state.handled.first)
    _state.exit_code, _state.at_once = exit_code, True


def run_child(command: Sequence[str]) -> int:
    """Run another command of raymtl and return its exit code; it gets this process's signals, and says that it was stopped."""
    import subprocess  # not before: a command handles signals before it imports anything that takes time

    passed: list[int] = []
    child: subprocess.Popen | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        if child is not None:
            child.send_signal(number)

    wakeup = signal.set_wakeup_fd(-1)  # `_watch` would end this process before its child
    handled = [number for number in _NUMBERS if signal.getsignal(number) is _on_signal]
    try:
        for number in handled:
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)  # the child inherits it; its `install` can handle them
        try:
            child = subprocess.Popen(command)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)
        for early in passed[:]:
            child.send_signal(early)
        code = child.wait()
    finally:
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in handled:
            signal.signal(number, _on_signal)
    if passed and code == 0:  # too late to stop the child
        signal.raise_signal(passed[0])
    return code if code >= 0 else 128 - code


@contextmanager
def while_ray_starts() -> Iterator[None]:
    """Keep the handlers through `ray.init`, which replaces that of SIGTERM twice: in Python, and in C++ by one that aborts.

    An exception inside `ray.init` leaves a half-started Ray behind, so a signal ends the process there.
    """
    if not installed() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _state.at_once = _state.at_once, True
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(done,), name="signal-keeper", daemon=True)
    keeper.start()
    try:
        yield
    except SystemExit as stop:  # of Ray's handler in Python
        _leave(stop.code if isinstance(stop.code, int) and stop.code in _NUMBERS else signal.SIGTERM)
    finally:
        done.set()
        keeper.join()
        _handle()
        _state.at_once = before


def _open_standard_streams() -> None:
    """Open closed standard streams on /dev/null; otherwise other files would get their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    """End the process where Python drops a KeyboardInterrupt: in a destructor or a callback."""
    if _state.handled.first is None:
        sys.__unraisablehook__(failed)
    elif isinstance(failed.exc_value, KeyboardInterrupt):
        _leave(_state.handled.first)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Ignore errors of other threads while the process stops."""
    if _state.handled.first is None:
        threading.__excepthook__(failed)


def _leave_to_parent() -> None:
    """Reset the handlers in a forked child: a signal to the child is not one to its parent."""
    with suppress(ValueError):  # forked by another thread than the main one
        signal.set_wakeup_fd(-1)
        for number in _NUMBERS:
            if signal.getsignal(number) is _on_signal:
                signal.signal(number, signal.SIG_DFL)


def _handle() -> None:
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    arrival = _state.handled.add(number)
    if _state.at_once or arrival == "second":
        _leave(_state.handled.first or number)
    elif arrival == "first":
        raise KeyboardInterrupt


def _watch(reader: int) -> None:
    """End the process if the main thread does not: at the second signal, or when the time for the clean-up is over."""
    seen = _Arrivals()
    while True:
        # Check a running deadline often: the clean-up may shorten it
        ready = select.select([reader], [], [], None if _state.deadline == float("inf") else 0.2)[0]
        for number in os.read(reader, 64) if ready else b"":
            if number not in _NUMBERS:
                continue
            arrival = seen.add(number)
            if arrival == "first":
                if _state.deadline == float("inf"):  # else the main thread was faster, and may need longer
                    allow(CLEAN_UP_S)
            elif arrival == "second":
                _leave(seen.first or number)
        if seen.first is not None and (_state.at_once or time.monotonic() >= _state.deadline):
            _leave(seen.first)


def _leave(number: int) -> None:
    """Print the sentence, then end this process and everything below it, whatever hangs or fails."""
    if not _state.leaving.acquire(blocking=False):
        if _state.leaver != threading.get_ident():
            time.sleep(60)  # the other thread ends the process
        return  # another signal, while this thread does
    code = 128 + number if _state.exit_code is None else _state.exit_code
    try:
        _state.leaver = threading.get_ident()
        thread = threading.Thread(target=_last_acts, args=(number,), daemon=True)
        thread.start()
        thread.join(_LAST_ACTS_S)
        for child in _descendants():
            with suppress(OSError):  # it has ended, or is another user's
                os.kill(child, signal.SIGKILL)
    finally:
        os._exit(code)


def _last_acts(number: int) -> None:
    if _state.exit_code is None:
        name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        with suppress(OSError):
            if sys.stdout.isatty():
                os.write(1, b"\x1b[?25h")  # a progress bar hides the cursor
            if number == signal.SIGINT and sys.stderr.isatty():
                os.write(2, b"\n")  # the terminal has painted ^C
        head, semicolon, rest = _state.sentence.partition(";")
        last_line(f"{head}{name}{semicolon}{rest}", 128 + number)
    _clean_up()


def _clean_up() -> None:
    for clean_up in list(_state.clean_ups):
        with suppress(Exception):  # this process ends now, even if its storage fails
            clean_up()


def _descendants() -> list[int]:
    """All processes below this one, parents first: a worker that is still starting outlives its raylet for a while."""
    found, waiting = [], ["self"]
    while waiting:
        children = _children(waiting.pop(0))
        found += children
        waiting += map(str, children)
    return found


def _children(process: str) -> list[int]:
    found = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with (
                suppress(OSError),
                open(f"/proc/{process}/task/{thread}/children") as children,
            ):  # the thread may have ended
                found += [int(pid) for pid in children.read().split()]
    return found


def _keep(done: threading.Event) -> None:
    """Restore Python's C handler whenever another library replaces it."""
    import ctypes

    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.argtypes, get.restype = [ctypes.c_int], ctypes.c_void_p
    put.argtypes, put.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    own = get(signal.SIGTERM)
    while not done.wait(0.002):
        if get(signal.SIGTERM) != own:
            put(signal.SIGTERM, own)
