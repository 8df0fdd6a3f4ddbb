"""The ends of days: reports and the last entry of the record, which need neither workers nor logs."""

import threading
from collections.abc import Callable
from typing import Any

from raymtl.memory import give_memory_back
from raymtl.telemetry.logs import log


class DayEnds:
    """The ends of days, each in the background of the next day; a context manager that waits for the last one.

    A day whose end is missing is published or refused all the same, and the next command ends it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "DayEnds":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.wait()
        elif issubclass(kind, Exception):  # a signal leaves no time
            try:
                self.wait()
            except Exception as error:  # the command reports the error that came first
                log.error("the end of the day before failed: %s", error)

    def start(self, work: Callable[[], None]) -> None:
        """Run the end of a day, after the one before."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="day end", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until it has ended; raises what went wrong."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised by `wait`
            self._error = error
        give_memory_back()
