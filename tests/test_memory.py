"""Memory that a process gives back."""

import threading

import psutil
import pytest

from raymtl.daily import day_ends
from raymtl.memory import give_memory_back


def _private() -> int:
    return psutil.Process().memory_full_info().uss


def test_what_a_thread_has_freed_goes_back_to_the_system() -> None:
    kept = []

    def work() -> None:
        blocks = [bytearray(2000) for _ in range(30_000)]
        kept.append(bytearray(2000))  # at the end, so that the C library does not shrink the heap by itself
        del blocks

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = _private()
    give_memory_back()
    assert before - _private() > 30 << 20


def test_the_end_of_a_day_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(day_ends, "give_memory_back", lambda: given.append(True))
    with day_ends.DayEnds() as ends:
        ends.start(lambda: None)
    assert given == [True]
