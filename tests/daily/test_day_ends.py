"""The ends of days run in the background, one after another."""

import threading
from collections.abc import Callable

import pytest

from raymtl.daily.day_ends import DayEnds
from raymtl.errors import DataError, StorageError


def fail() -> None:
    raise StorageError("the disk is full")


def end_and_raise(work: Callable[[], None], error: BaseException | None = None) -> None:
    with DayEnds() as ends:
        ends.start(work)
        if error is not None:
            raise error


def test_the_next_end_waits_and_the_last_one_is_waited_for() -> None:
    order: list[int] = []
    gate = threading.Event()

    def first() -> None:
        gate.wait(10)
        order.append(1)

    with DayEnds() as ends:
        ends.start(first)
        gate.set()
        ends.start(lambda: order.append(2))
    assert order == [1, 2]


def test_an_error_is_raised_when_it_is_waited_for() -> None:
    with pytest.raises(StorageError, match="the disk is full"):
        end_and_raise(fail)


def test_the_error_that_came_first_is_raised_and_the_other_one_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="the logs are damaged"):
        end_and_raise(fail, DataError("the logs are damaged"))
    assert "the end of the day before failed: the disk is full" in caplog.text


def test_a_signal_does_not_wait() -> None:
    gate, ended = threading.Event(), threading.Event()

    def last() -> None:
        gate.wait(10)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        end_and_raise(last, KeyboardInterrupt())
    assert not ended.is_set()
    gate.set()
