"""What attempts leave is removed, and a day lists only the days since the last removal."""

import datetime as dt
from pathlib import Path

import pytest

from raymtl.daily.record import folder
from raymtl.daily.working_files import attempts, begin_attempt, remove_attempts
from raymtl.storage.object_store import Store
from tests.helpers.daily_world import day_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """37 days before this was known, of which every third left its files."""
    store = Store.open(str(tmp_path))
    for number in range(37):
        store.write(f"{folder(day_of(number))}/record.json", "{}")
        if number % 3 == 0:
            store.write(f"{folder(day_of(number))}/run-2/part", "x")
    return store


def attempt(store: Store, number: int) -> dt.date:
    """A day that trains, and is killed then."""
    day = day_of(number)
    begin_attempt(store, day)
    store.write(f"{folder(day)}/run-1/part", "x")
    store.write(f"{folder(day)}/record.json", "{}")
    return day


def left(store: Store) -> list[int]:
    return [number for number in range(60) if attempts(store, day_of(number))]


def test_a_day_lists_only_its_own_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    names = Store.names
    monkeypatch.setattr(Store, "names", lambda self, name="": listed.append(name) or names(self, name))
    counts = []
    for number in range(36, 42):
        day = attempt(store, number)
        listed.clear()
        remove_attempts(store, day)
        counts.append(len(listed))
    assert counts == [38, 2, 2, 2, 2, 2]
    assert left(store) == []


def test_what_killed_jobs_leave_is_removed_later(store: Store) -> None:
    remove_attempts(store, attempt(store, 37))
    attempt(store, 20)  # a backfill
    attempt(store, 38)  # given up
    remove_attempts(store, attempt(store, 40))
    assert left(store) == []


def test_later_days_keep_theirs(store: Store) -> None:
    remove_attempts(store, day_of(36))
    attempt(store, 39)
    for number in (38, 12):
        remove_attempts(store, attempt(store, number))
        assert left(store) == [39]
    remove_attempts(store, day_of(39))
    assert left(store) == []


def test_a_removal_that_fails_is_repeated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_attempts(store, day_of(36))
    day = attempt(store, 37)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove_folder", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            remove_attempts(store, day)
    remove_attempts(store, attempt(store, 38))
    assert left(store) == []


def test_a_damaged_file_means_all_days(store: Store) -> None:
    remove_attempts(store, day_of(36))
    attempt(store, 5)
    store.write("days/clean-until", "2026-13-99")
    remove_attempts(store, day_of(36))
    assert left(store) == []
