"""Which version a day begins with, and which days are still to do."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from raymtl.config.daily import Daily
from raymtl.daily.calendar import (
    ExcludedDays,
    ancestor_before,
    choose_base,
    comparison_versions,
    days_between,
    days_to_do,
    skip_reason,
)
from raymtl.daily.record import Record, write_record
from raymtl.errors import ConfigError, VersionError
from raymtl.model_store.manifest import NAME
from raymtl.model_store.store import current, gc, list_versions, publish, rollback
from raymtl.storage.object_store import Store
from tests.helpers.fake_versions import write


def jan(day: int) -> dt.date:
    return dt.date(2026, 1, day)


def daily(*skip: int) -> Daily:
    return Daily(store="/nowhere", skip=[jan(day) for day in skip])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def published(store: Store, *ends: int, line: bool = True, **names: int) -> None:
    """A version for each last day of data, named `v<day>` or as told, in that order; in a `line` each comes from the last."""
    for name, end in ({f"v{day}": day for day in ends} | names).items():
        parent = current(store) if line else None
        write(store, name, parent=parent, data_range={"train": [str(jan(1)), str(jan(end))]})
        publish(store, name)


def noted(store: Store, day: int, status: Any, version: str | None = None, base: str | None = None) -> None:
    started = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    record = Record(date=jan(day), status=status, version=version, config_hash="0", parent=base, started=started)
    write_record(store, record)


def base_of(store: Store, day: int) -> str | None:
    chosen = choose_base(list_versions(store), jan(day))
    return chosen.id if chosen else None


def before(store: Store, day: int) -> str | None:
    versions = list_versions(store)
    found = ancestor_before(versions, next((v.manifest for v in versions if v.current), None), jan(day))
    return found.id if found else None


def test_a_day_begins_with_the_current_version(store: Store) -> None:
    assert base_of(store, 3) is None
    published(store, 3, 4)
    assert base_of(store, 5) == "v4"
    assert base_of(store, 9) == "v4"
    # done again: its own version, and those after it, have seen the day
    assert base_of(store, 4) == "v3"
    assert base_of(store, 3) is None


def test_after_a_rollback_the_current_version_wins_over_newer_data(store: Store) -> None:
    published(store, 3, 4, 5)
    rollback(store, "v3")
    assert base_of(store, 6) == "v3"
    assert base_of(store, 3) is None
    published(store, again=2)  # current, and of older data than the others
    assert base_of(store, 6) == "again"
    assert base_of(store, 2) is None


def test_without_a_current_version_before_the_day_the_newest_data_win(store: Store) -> None:
    published(store, 3, 2, 6, line=False)
    assert base_of(store, 5) == "v3"
    published(store, same=3, last=7, line=False)
    assert base_of(store, 5) == "same"  # of two with the same data the one published last


def test_nothing_begins_behind_the_back_of_a_damaged_version(store: Store) -> None:
    published(store, 3, 4)
    store.write(f"versions/v4/{NAME}", b"{}")
    with pytest.raises(VersionError, match=r"v4.*damaged"):
        days_to_do(store, daily(), jan(7))


def test_a_day_done_again_begins_with_the_line_that_is_current(store: Store) -> None:
    assert before(store, 5) is None
    published(store, 28)
    published(store, bad=29)
    rollback(store, "v28")
    write(store, "v30", parent="v28", data_range={"train": ["2026-01-30", "2026-01-30"]})
    publish(store, "v30")
    assert base_of(store, 30) == "v28"  # not the one that was rolled back, though its data are newer
    assert [before(store, day) for day in (28, 29, 30, 31)] == [None, "v28", "v28", "v30"]


def test_the_first_day_of_all(store: Store) -> None:
    todo = days_to_do(store, daily(), jan(5))
    assert (todo.days, todo.notes) == ([jan(5)], [])
    todo = days_to_do(store, daily(5), jan(5))
    assert (todo.days, todo.notes) == (
        [],
        ["2026-01-05 is skipped: it is listed in daily.skip; to do it, remove it there"],
    )


def test_a_gap_is_caught_up_in_order(store: Store) -> None:
    published(store, 28)
    todo = days_to_do(store, daily(), dt.date(2026, 2, 2))
    assert [str(day) for day in todo.days] == ["2026-01-29", "2026-01-30", "2026-01-31", "2026-02-01", "2026-02-02"]
    assert todo.notes == []


@pytest.mark.parametrize(
    ("day", "again"),
    [
        (3, "raymtl daily --from 2026-01-04 --to 2026-01-06 --force"),  # with the other days of the first version
        (5, "raymtl daily --from 2026-01-05 --to 2026-01-06 --force"),
        (6, "raymtl daily --date 2026-01-06 --force"),
    ],
)
def test_a_day_that_the_current_version_has(store: Store, day: int, again: str) -> None:
    in_line(store, 4, 5, 6)
    todo = days_to_do(store, daily(), jan(day))
    said = f"{jan(day)} is already done: version v6 has its data; to redo it, run: {again}"
    assert (todo.days, todo.notes) == ([], [said])


def test_a_day_before_the_store_begins_is_impossible(store: Store) -> None:
    in_line(store, 5, 6, 7)  # the first version learned days 4 and 5
    for removed in (False, True):
        if removed:
            gc(store, 1)
        with pytest.raises(
            ConfigError, match=r"^2025-12-30 lies before 2026-01-0[45], the first day of store .*another"
        ) as caught:
            days_to_do(store, daily(), dt.date(2025, 12, 30))
        assert "raymtl daily --from 2025-12-30 --to 2026-01-07 --force" in str(caught.value)


def test_a_day_inside_that_nobody_learned(store: Store) -> None:
    in_line(store, 3, 4, 7, 8)
    noted(store, 6, "refused", "x", "v4")
    assert days_to_do(store, daily(5), jan(5)).notes == [
        "2026-01-05 is skipped: it is listed in daily.skip; to do it, remove it there, then run: raymtl daily --from "
        "2026-01-05 --to 2026-01-08 --force"
    ]
    assert days_to_do(store, daily(), jan(6)).notes == [
        "2026-01-06 is skipped: its candidate was refused; to do it, run: raymtl daily --from 2026-01-06 --to 2026-01-08 "
        "--force"
    ]
    with pytest.raises(
        ConfigError, match=r"^2026-01-05 was not trained, but version v8 .*--from 2026-01-05 --to 2026-01-08"
    ):
        days_to_do(store, daily(), jan(5))
    rollback(store, "v7")
    write(store, "v9", parent="v7", data_range={"train": [str(jan(9))] * 2})
    publish(store, "v9")
    assert "is skipped: its version v8 was rolled back" in days_to_do(store, daily(), jan(8)).notes[0]
    # a day that was put into daily.skip after a version had learned it
    assert "is already done" in days_to_do(store, daily(4), jan(4)).notes[0]


def test_days_that_are_somebodys_decision_are_left_out(store: Store) -> None:
    published(store, 2, 3, 4)
    rollback(store, "v2")
    noted(store, 3, "published", "v3")
    noted(store, 4, "published", "v4")
    noted(store, 5, "refused", "candidate")
    noted(store, 7, "broken")
    noted(store, 8, "not ready")
    todo = days_to_do(store, daily(6), jan(9))
    assert todo.days == [jan(7), jan(8), jan(9)]
    assert todo.notes == [
        f"2026-01-0{n} is skipped: {why}; to do it, {first}run: raymtl daily --from 2026-01-0{n} --to 2026-01-09 --force"
        for n, why, first in (
            (3, "its version v3 was rolled back", ""),
            (4, "its version v4 was rolled back", ""),
            (5, "its candidate was refused", ""),
            (6, "it is listed in daily.skip", "remove it there, then "),
        )
    ]
    assert skip_reason(store, daily(5), jan(5)) == "it is listed in daily.skip"
    assert skip_reason(store, daily(), jan(8)) is None
    assert skip_reason(store, daily(), jan(9)) is None


def test_days_between_takes_all_but_those_to_skip(store: Store) -> None:
    todo = days_between(daily(3, 9), jan(2), jan(4))
    said = "2026-01-03 is skipped: it is listed in daily.skip; to do it, remove it there"
    assert (todo.days, todo.notes) == ([jan(2), jan(4)], [said])
    assert days_between(daily(), jan(2), jan(2)).days == [jan(2)]
    assert days_between(daily(), jan(3), jan(2)).days == []


# Days that a base has not seen


def in_line(store: Store, first: int, *days: int) -> None:
    """A first version of two days up to `first`, then one on it for each day, with the records of all."""
    parent, start = None, first - 1
    for day in (first, *days):
        name = f"v{day}"
        write(store, name, parent=parent, data_range={"train": [str(jan(start or day)), str(jan(day))]})
        publish(store, name)
        noted(store, day, "published", name, parent)
        parent, start = name, 0


def left_out(store: Store, day: int, *skip: int) -> list[int]:
    """The days before `day` that its base has not seen."""
    versions = list_versions(store)
    found = ExcludedDays(store, daily(*skip), versions, choose_base(versions, jan(day)))
    return [n for n in range(1, day) if jan(n) in found]


def test_days_of_a_line_without_gaps(store: Store) -> None:
    assert left_out(store, 9, 4) == [4]
    in_line(store, 5, 6, 7)
    assert left_out(store, 8) == []
    assert left_out(store, 8, 2, 6) == [2, 6]
    noted(store, 2, "refused", "x")
    noted(store, 3, "broken")
    noted(store, 4, "refused", "y")  # on the way to the first version
    assert left_out(store, 8) == [2, 4]


def test_days_refused_passed_over_and_rolled_back(store: Store) -> None:
    in_line(store, 3, 4, 7, 8, 9)  # 5 was never trained
    noted(store, 6, "refused", "x", "v4")
    assert left_out(store, 10) == [5, 6]
    rollback(store, "v7")
    assert left_out(store, 10) == [5, 6, 8, 9]
    write(store, "v10", parent="v7", data_range={"train": [str(jan(10))] * 2})
    publish(store, "v10")
    noted(store, 10, "published", "v10", "v7")
    assert left_out(store, 11) == [5, 6, 8, 9]
    assert left_out(store, 8) == [5, 6]  # done again
    noted(store, 10, "refused", "again", "v7")  # done again too, and the version before stayed
    assert left_out(store, 11) == [5, 6, 8, 9]


def test_versions_that_are_removed_are_known_by_their_records(store: Store) -> None:
    in_line(store, 3, 4, 6, 7, 8)
    rollback(store, "v6")
    write(store, "v9", parent="v6", data_range={"train": [str(jan(9))] * 2})
    publish(store, "v9")
    gc(store, 1)
    assert [v.id for v in list_versions(store)] == ["v9"]
    assert left_out(store, 10) == [5, 7, 8]
    store.remove_folder("days/2026-01-06")  # nobody knows any more what was before
    assert left_out(store, 10) == []


def compared(store: Store, day: int, compare_days_ago: int) -> dict[str, str]:
    versions = list_versions(store)
    base = choose_base(versions, jan(day))
    assert base is not None
    return {name: found.id for name, found in comparison_versions(versions, base, jan(day), compare_days_ago).items()}


def test_the_versions_that_a_day_is_compared_with(store: Store) -> None:
    published(store, 3)
    assert compared(store, 4, 2) == {"first": "v3"}
    published(store, 4, 5, 8)
    assert compared(store, 9, 4) == {"first": "v3", "4 days ago": "v5"}
    assert compared(store, 9, 3) == {"first": "v3", "3 days ago": "v5"}  # no day 6: the newest version before it
    assert compared(store, 9, 1) == {"first": "v3", "1 day ago": "v8"}
    assert compared(store, 9, 6) == {"first": "v3"}  # one version under one name
    assert compared(store, 5, 1) == {"first": "v3", "1 day ago": "v4"}  # done again
    rollback(store, "v4")
    published(store, instead=8)
    assert compared(store, 9, 4) == {"first": "v3", "4 days ago": "v4"}  # v5 was rolled back
    gc(store, 2)
    assert compared(store, 9, 4) == {"first": "instead"}
