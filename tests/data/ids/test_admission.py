"""Admission, forgetting and the rows that are handed on."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.data.ids.admission import Changes, IdLookupCount, admit
from raymtl.data.ids.counts import IdCounts
from raymtl.data.ids.id_map import IdMap
from raymtl.errors import ConfigError

EPOCH = dt.date(1970, 1, 1)


def day(number: int) -> dt.date:
    return EPOCH + dt.timedelta(number)


def counted(counts: dict[int, int], last: int | dict[int, int] = 0) -> IdCounts:
    ids = sorted(counts)
    days = [last if isinstance(last, int) else last[i] for i in ids]
    return IdCounts(np.array(ids, np.int64), np.array([counts[i] for i in ids], np.int64), np.array(days, np.int32))


def step(
    id_map: IdMap,
    counts: IdCounts,
    on: int = 0,
    threshold: int = 1,
    evict_after: int | None = None,
    min_count: int = 0,
    capacity: int | None = None,
) -> tuple[IdMap, Changes]:
    return admit(id_map, counts, day(on), threshold, evict_after, min_count, capacity or id_map.capacity)


def rows_of(id_map: IdMap) -> dict[int, int]:
    return dict(zip(id_map.ids.tolist(), id_map.rows.tolist(), strict=True))


def test_the_most_frequent_get_the_rows_and_equals_the_smaller_id() -> None:
    new, changes = step(IdMap.empty(4), counted({7: 5, 3: 2, 9: 2, 1: 1, 4: 9}), threshold=2)
    assert new.ids.tolist() == [3, 4, 7]
    assert sorted(new.rows.tolist()) == [1, 2, 3]
    assert new.counts.tolist() == [2, 9, 5]
    assert changes.admitted_ids.tolist() == [4, 7, 3]
    assert [rows_of(new)[i] for i in (4, 7, 3)] == changes.admitted_rows.tolist()
    assert changes.reset.tolist() == [1, 2, 3]
    assert (changes.below, changes.no_room) == (IdLookupCount(1, 1), IdLookupCount(1, 2))
    assert (changes.new, changes.unknown) == (IdLookupCount(5, 19), IdLookupCount(2, 3))
    assert changes.unknown_share == pytest.approx(3 / 19)


def test_known_ids_keep_row_and_count_on_and_freed_rows_go_first() -> None:
    first, _ = step(IdMap.empty(1000), counted(dict.fromkeys(range(10), 1), last=1), on=1)
    second, changes = step(first, counted({0: 3, 1: 1, 50: 2, 51: 1, 52: 1}, last=5), on=5, evict_after=3)
    kept = rows_of(first)
    assert {i: rows_of(second)[i] for i in (0, 1)} == {i: kept[i] for i in (0, 1)}
    assert changes.evicted_ids.tolist() == list(range(2, 10))
    assert changes.evicted_rows.tolist() == [kept[i] for i in range(2, 10)]
    assert set(changes.admitted_rows.tolist()) < set(changes.evicted_rows.tolist())
    assert changes.reset.tolist() == sorted(changes.admitted_rows.tolist())
    assert (second.counts.tolist(), second.last_seen.tolist()) == ([4, 2, 2, 1, 1], [5] * 5)
    assert changes.known == IdLookupCount(2, 4)
    # one day earlier everybody would have stayed
    assert not len(step(first, counted({}), on=4, evict_after=3)[1].evicted_ids)
    third, changes = step(second, counted(dict.fromkeys(range(100, 120), 1), last=6), on=6)
    assert len(set(changes.admitted_rows.tolist()) & set(changes.evicted_rows.tolist())) == 0
    assert {i: rows_of(third)[i] for i in rows_of(second)} == rows_of(second)


def test_rare_ids_go_unless_the_pass_has_them() -> None:
    first, _ = step(IdMap.empty(100), counted({1: 1, 2: 1, 3: 4}))
    new, changes = step(first, counted({1: 1}), min_count=3)
    assert new.ids.tolist() == [1, 3]
    assert changes.evicted_ids.tolist() == [2]


def test_an_id_last_seen_too_long_ago_is_not_let_in_nor_kept() -> None:
    first, _ = step(IdMap.empty(100), counted({1: 1, 2: 1}, last=0))
    counts = counted({1: 2, 2: 2, 3: 5, 4: 5}, last={1: 6, 2: 7, 3: 6, 4: 7})
    new, changes = step(first, counts, on=10, evict_after=3)
    assert new.ids.tolist() == [2, 4]
    assert changes.outdated == IdLookupCount(2, 7)
    assert changes.evicted_ids.tolist() == [1]
    assert changes.known.lookups + changes.new.lookups == counts.counts.sum()


def test_growth_keeps_all_rows_and_shrinking_is_refused() -> None:
    first, _ = step(IdMap.empty(4), counted(dict.fromkeys(range(6), 1)))
    assert len(first) == 3
    new, changes = step(first, counted(dict.fromkeys(range(6), 1)), capacity=10)
    assert len(new) == 6
    assert {i: rows_of(new)[i] for i in rows_of(first)} == rows_of(first)
    assert new.capacity == 10
    assert changes.reset.min() >= 4
    with pytest.raises(ConfigError, match=r"has 10 rows and its table 9; a map can grow but not shrink"):
        step(new, counted({}), capacity=9)


def test_frequent_ids_are_spread_over_the_table() -> None:
    """Row-wise sharding cuts a table into ranges: no range may get all the first IDs."""
    new, _ = step(IdMap.empty(100_000), counted(dict.fromkeys(range(8000), 1)))
    share = np.histogram(new.rows, bins=4, range=(0, 100_000))[0] / len(new)
    assert abs(share - 0.25).max() < 0.03


DAYS = st.lists(st.dictionaries(st.integers(-8, 8), st.integers(1, 4), max_size=12), min_size=1, max_size=6)


@given(DAYS, st.integers(1, 3), st.none() | st.integers(1, 3), st.integers(0, 5), st.integers(2, 9))
def test_any_days_through_any_rules(
    days: list[dict[int, int]], threshold: int, evict_after: int | None, min_count: int, capacity: int
) -> None:
    """Against the rules written with dictionaries; two IDs never hold one row, and no row is handed on without a reset."""
    held: dict[int, list[int]] = {}  # ID: count, last day
    id_map, owner = IdMap.empty(capacity), dict[int, int]()
    for number, seen in enumerate(days):
        old = id_map
        id_map, changes = step(old, counted(seen, number), number, threshold, evict_after, min_count)
        for key in seen.keys() & held.keys():
            held[key] = [held[key][0] + seen[key], number]
        wanted = sorted((-n, key) for key, n in seen.items() if key not in held and n >= threshold)
        gone = {k for k, (n, last) in held.items() if evict_after is not None and number - last > evict_after}
        gone |= {k for k, (n, last) in held.items() if n < min_count and k not in seen}
        held = {k: v for k, v in held.items() if k not in gone}
        held |= {k: [-n, number] for n, k in wanted[: capacity - 1 - len(held)]}
        found = zip(id_map.ids.tolist(), id_map.counts.tolist(), id_map.last_seen.tolist(), strict=True)
        assert {key: [n, last] for key, n, last in found} == held
        assert changes.evicted_ids.tolist() == sorted(gone)
        assert changes.known.lookups + changes.new.lookups == sum(seen.values())
        assert changes.unknown.lookups == sum(n for key, n in seen.items() if key not in held)
        now = {row: key for key, row in rows_of(id_map).items()}
        for row in changes.evicted_rows.tolist():  # who comes back is a newcomer, even to the row that was its own
            del owner[row]
        assert len(now) == len(id_map)
        assert set(now) <= set(range(1, capacity))
        passed_on = {row for row, key in now.items() if owner.get(row) != key}
        assert passed_on == set(changes.reset.tolist())
        owner = now


def test_a_million_ids_through_a_hundred_thousand_rows_in_five_days() -> None:
    random, id_map = np.random.default_rng(0), IdMap.empty(100_000)
    owner = np.full(100_000, -1, np.int64)  # who has the row
    met, evicted, no_room = np.zeros(1_000_000, bool), 0, 0
    for number in range(5):
        # 200,000 IDs of the day's own and 50,000 of all, half of them often enough
        own = np.arange(number * 200_000, (number + 1) * 200_000)
        pool = np.concatenate([own, random.integers(0, 1_000_000, 50_000)])
        seen = np.concatenate([pool, random.choice(pool, 200_000)])
        met[seen] = True
        counts, old = IdCounts.of(seen, number), id_map
        id_map, changes = step(old, counts, number, threshold=2, evict_after=1)
        assert counts.counts.sum() == len(seen) == changes.known.lookups + changes.new.lookups
        # the counts of a map add up: those it had, less the evicted, plus all lookups of the IDs that it now has
        places, found = old.find(changes.evicted_ids)
        assert found.all()
        lost = old.counts[places].sum()
        assert id_map.counts.sum() == old.counts.sum() - lost + len(seen) - changes.unknown.lookups
        assert (id_map.lookup.rows(seen) == 0).sum() == changes.unknown.lookups
        # one row, one ID; no row changes hands without a reset
        assert (np.bincount(id_map.rows, minlength=100_000)[1:] <= 1).all()
        owner[changes.evicted_rows] = -1
        handed = owner[id_map.rows] != id_map.ids
        assert np.array_equal(np.sort(id_map.rows[handed]), changes.reset)
        owner[id_map.rows] = id_map.ids
        evicted += len(changes.evicted_ids)
        no_room += changes.no_room.ids
        if number == 2:
            again, same = step(old, counts, number, threshold=2, evict_after=1)
            assert again.digest == id_map.digest
            assert np.array_equal(same.admitted_rows, changes.admitted_rows)
    assert met.all()
    assert min(evicted, no_room) > 100_000
    assert len(id_map) == 99_999
