"""Bounds by hand, and by chance: a day like the days before it is usual."""

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymtl.config.daily import Bounds
from raymtl.daily.data_drift import find_data_drift
from raymtl.daily.record import DayStatistics

MONDAY = dt.date(2026, 1, 5)


def stats(**changes: Any) -> DayStatistics:
    """A day of a million rows, on which chance plays no role."""
    usual: dict[str, Any] = {
        "rows": 1_000_000,
        "files": 4,
        "columns": {"user": "string", "price": "number"},
        "nulls": {"price": 0.1},
        "observed": {"click": 1.0},
        "labels": {"click": 0.04},
        "deviations": {"click": 0.2},
        "scenarios": {"feed": 0.7, "search": 0.3},
        "new_ids": {"user": 0.2},
    }
    return DayStatistics.model_validate(usual | changes)


def history(days: int, **changes: Any) -> dict[dt.date, DayStatistics]:
    """Equal days from a Monday on."""
    return {MONDAY + dt.timedelta(n): stats(**changes) for n in range(days)}


def found(today: DayStatistics, earlier: dict[dt.date, DayStatistics], **bounds: Any) -> tuple[list[str], list[str]]:
    day = max(earlier) + dt.timedelta(1)
    findings = find_data_drift(today, day, earlier, Bounds(**{"min_days": 3, **bounds}))
    return findings.incomplete, findings.broken


def test_a_day_like_the_others_is_usual():
    assert found(stats(), history(3)) == ([], [])


# With equal days only the slack is left, a quarter of the usual value (of the rarer side for shares of a whole).
@pytest.mark.parametrize(
    ("what", "inside", "incomplete", "broken"),
    [
        ("rows", (750_001, 1_249_999), 749_999, 1_250_001),
        ("observed", (0.7501, 1.0), 0.7499, None),
        ("labels", (0.0301, 0.0499), None, 0.0501),
        ("labels", (0.0301, 0.0499), None, 0.0299),
        ("nulls", (0.0751, 0.1249), None, 0.1251),
        ("nulls", (0.0751, 0.1249), None, 0.0749),
        ("scenarios", (0.6251, 0.7749), None, 0.6249),
        ("new_ids", (0.0, 0.2499), None, 0.2501),
    ],
)
def test_the_slack_around_equal_days(what, inside, incomplete, broken):
    def today(value):
        if what == "rows":
            return stats(rows=value)
        (name, *_) = getattr(stats(), what)
        return stats(**{what: {name: value}})

    for value in inside:
        assert found(today(value), history(14)) == ([], [])
    if incomplete is not None:
        assert list(map(len, found(today(incomplete), history(14)))) == [1, 0]
    if broken is not None:
        assert list(map(len, found(today(broken), history(14)))) == [0, 1]


def test_every_sentence_says_what_was_seen_what_is_usual_and_what_to_do():
    incomplete, broken = found(
        stats(rows=500_000, observed={"click": 0.5}, labels={"click": 0.1}, nulls={"price": 1.0}), history(14)
    )
    accept = "if the data is right, accept the day once with --ignore-bounds, or widen daily.bounds"
    wait = f"rerun the same command when the data is complete; {accept}"
    fix = f"fix the logs and rerun the same command; {accept}"
    assert incomplete == [
        f"the day has 500,000 rows, expected 750,000 to 1,250,000 (from 14 earlier days); {wait}",
        f"tasks.click: 50% of the labels are observed, expected 75% to 100% (from 14 earlier days); {wait}",
    ]
    assert broken == [
        f"tasks.click: the mean label is 0.1, expected 0.03 to 0.05 (from 14 earlier days); {fix}",
        f"features.price: 100% of the rows are null, expected 7.5% to 12.5% (from 14 earlier days); {fix}",
    ]
    _, broken = found(
        stats(rows=2_000_000, scenarios={"feed": 0.4}, new_ids={"user": 0.9}, columns={"user": "integer"}),
        history(14),
    )
    assert broken == [
        f"column `user` holds integer; it held string until 2026-01-18; {fix}",
        f"the day has 2,000,000 rows, expected 750,000 to 1,250,000 (from 14 earlier days); are some written twice? {fix}",
        f"data.scenario `feed`: 40% of the rows have that value, expected 62.5% to 77.5% (from 14 earlier days); {fix}",
        "tables.user: 90% of the lookups are of new IDs, expected 15% to 25% (from 14 earlier days); are the IDs written in "
        f"another form? {fix}",
    ]


def test_the_spread_of_the_days_before():
    rates = [0.03, 0.04, 0.04, 0.05, 0.05, 0.06, 0.06, 0.06, 0.06, 0.07, 0.07, 0.08, 0.08, 0.09]
    earlier = {MONDAY + dt.timedelta(n): stats(labels={"click": r}) for n, r in enumerate(rates)}
    high = 0.06 + 6 * 1.4826 * 0.01  # the distances to the median, 0.06, have the median 0.01
    assert found(stats(labels={"click": high - 1e-6}), earlier) == ([], [])
    assert len(found(stats(labels={"click": high + 1e-6}), earlier)[1]) == 1
    assert len(found(stats(labels={"click": 0.06 + 2 * 1.4826 * 0.01 + 1e-6}), earlier, spread=2, slack=0)[1]) == 1


def test_few_days_have_the_range_of_their_values():
    earlier = {MONDAY + dt.timedelta(n): stats(labels={"click": r}) for n, r in enumerate([0.04, 0.04, 0.04, 0.05])}
    assert found(stats(labels={"click": 0.04 + 6 * 0.005 - 1e-6}), earlier) == ([], [])
    assert len(found(stats(labels={"click": 0.04 + 6 * 0.005 + 1e-6}), earlier)[1]) == 1


def test_weekends_differ():
    weekend = stats(rows=400_000, labels={"click": 0.09})
    earlier = {day: weekend if day.weekday() >= 5 else stats() for day in (MONDAY + dt.timedelta(n) for n in range(19))}
    assert max(earlier).strftime("%A") == "Friday"
    assert found(weekend, earlier) == ([], [])
    assert found(stats(rows=320_000), earlier) == ([], [])  # within the slack of a Saturday
    assert len(found(stats(rows=290_000), earlier)[0]) == 1
    weekday = {day: f for day, f in earlier.items() if day < dt.date(2026, 1, 22)}
    assert len(found(stats(rows=400_000), weekday)[0]) == 1  # a Thursday


def test_only_the_newest_days_before_the_day_count():
    earlier = history(20, rows=10) | {MONDAY + dt.timedelta(n): stats() for n in range(20, 25)}
    assert found(stats(), earlier, history_days=5) == ([], [])
    broken = find_data_drift(stats(), MONDAY + dt.timedelta(20), earlier, Bounds(history_days=5)).broken
    assert len(broken) == 1
    assert broken[0].startswith("the day has 1,000,000 rows, expected 0 to 29 ")


def test_with_too_few_days_only_the_columns_are_judged():
    odd = stats(nulls={"price": 1.0}, labels={"click": 0.9}, columns={"user": "missing", "price": "number"})
    incomplete, broken = found(odd, history(2))
    assert incomplete == []
    assert len(broken) == 1
    assert broken[0].startswith("column `user` is missing; it held string until 2026-01-06")
    assert find_data_drift(odd, MONDAY, {}, Bounds(min_days=3)).broken == []


def test_far_too_few_rows_are_seen_from_the_second_day_on():
    for days in (1, 2, 4):
        incomplete, broken = found(stats(rows=1), history(days, rows=20_000), min_days=5)
        assert broken == []
        assert incomplete[0].startswith(
            f"the day has 1 row, fewer than 20% of the expected 20,000 (from {days} earlier day{'s' if days > 1 else ''}; "
            "daily.bounds.min_rows_share); rerun the same command"
        )
        assert found(stats(rows=4000), history(days, rows=20_000), min_days=5) == ([], [])
    assert found(stats(rows=1), {MONDAY: stats(rows=20_000)}, min_rows_share=0.0) == ([], [])
    assert find_data_drift(stats(rows=1), MONDAY, {}, Bounds()).incomplete == []  # the very first day


def test_few_rows_are_usual_where_that_weekday_has_few():
    rows = [20_000, 20_000, 20_000, 20_000, 20_000, 3000, 3000]
    earlier = {MONDAY + dt.timedelta(n): stats(rows=rows[n % 7]) for n in range(12)}
    for rows_now, incomplete in ((700, 0), (500, 1)):
        findings = find_data_drift(stats(rows=rows_now), MONDAY + dt.timedelta(12), earlier, Bounds(min_days=14))
        assert (len(findings.incomplete), findings.broken) == (incomplete, [])


def test_bounds_that_reach_down_to_nothing_do_not_let_next_to_nothing_through():
    wild = {MONDAY + dt.timedelta(n): stats(rows=[100, 9000, 20_000, 41_000, 300][n]) for n in range(5)}
    findings = find_data_drift(stats(rows=1), MONDAY + dt.timedelta(5), wild, Bounds())
    assert findings.incomplete[0].startswith("the day has 1 row, fewer than 20% of the expected 9,000")
    assert findings.without_advice() == [
        "the day has 1 row, fewer than 20% of the expected 9,000 (from 5 earlier days; daily.bounds.min_rows_share)"
    ]


def test_a_column_that_was_accepted_once():
    gone = {"user": "missing", "price": "number"}
    earlier = history(3) | {MONDAY + dt.timedelta(3): stats(columns=gone)}
    assert found(stats(columns=gone), earlier) == ([], [])
    assert found(stats(), earlier) == ([], [])
    assert len(found(stats(columns={"user": "integer"}), earlier)[1]) == 1  # neither what it was nor gone


def test_columns_without_values_and_columns_that_are_not_read_any_more():
    assert found(stats(columns={"user": "null"}), history(1)) == ([], [])
    assert found(stats(columns={"user": "string", "new": "number"}), history(1)) == ([], [])


def test_a_figure_that_the_days_before_do_not_have_is_not_judged():
    old = history(5, nulls={}, labels={"click": None}, observed={}, scenarios={}, new_ids={})
    odd = stats(nulls={"price": 1.0}, labels={"click": 0.9}, observed={"click": 0.0}, new_ids={"user": 1.0})
    assert found(odd, old) == ([], [])


def test_small_days_are_off_by_chance():
    few = {"rows": 100, "labels": {"click": 0.04}, "deviations": {"click": 0.2}, "nulls": {"price": 0.0}}
    noise = 6 * 0.2 / math.sqrt(100)
    assert found(stats(**few | {"labels": {"click": 0.04 + noise - 1e-6}}), history(14, **few)) == ([], [])
    assert len(found(stats(**few | {"labels": {"click": 0.04 + noise + 1e-6}}), history(14, **few))[1]) == 1
    # none of the days has a null: as many as `spread` of 100 rows may
    assert found(stats(**few | {"nulls": {"price": 0.06}}), history(14, **few)) == ([], [])
    assert len(found(stats(**few | {"nulls": {"price": 0.07}}), history(14, **few))[1]) == 1


def test_null_shares_near_zero_have_room():
    assert found(stats(nulls={"price": 0.0099}), history(14, nulls={"price": 0.0})) == ([], [])
    assert len(found(stats(nulls={"price": 0.0101}), history(14, nulls={"price": 0.0}))[1]) == 1


def draw(random: np.random.Generator, rows: int, spread: float) -> DayStatistics:
    """A day by chance: rates that vary by a share `spread` from day to day, and rows drawn at these rates."""

    def rate(p: float) -> float:
        return float(np.clip(p * random.normal(1, spread), 0, 1))

    rows = max(1, random.poisson(rows * max(0.1, random.normal(1, spread))))

    def share(p: float) -> float:
        return random.binomial(rows, rate(p)) / rows

    feed, click = share(0.8), share(0.02)
    amounts = random.exponential(5 * rate(1), rows)
    return stats(
        rows=rows,
        nulls={"price": share(0.01), "user": 0.0},
        observed={"click": 1.0, "amount": 1.0},
        labels={"click": click, "amount": float(amounts.mean())},
        deviations={"click": math.sqrt(click * (1 - click)), "amount": float(amounts.std())},
        scenarios={"feed": feed, "search": 1 - feed},
        new_ids={"user": share(0.1)},
    )


@settings(max_examples=100, derandomize=True)
@given(
    st.integers(0, 2**32), st.integers(5, 30), st.sampled_from([50, 1000, 20_000]), st.sampled_from([0.0, 0.02, 0.03])
)
def test_a_day_like_its_history_is_never_out_of_bounds(seed, days, rows, spread):
    random = np.random.default_rng(seed)
    earlier = {MONDAY + dt.timedelta(n): draw(random, rows, spread) for n in range(days)}
    assert found(draw(random, rows, spread), earlier) == ([], [])


@pytest.mark.parametrize(("days", "most"), [(3, 10), (7, 2), (14, 2)])
def test_wilder_days_are_hardly_ever_out_of_bounds(days, most):
    """Ten figures that vary by 10 % from day to day, 100 times: the days with any finding."""
    random = np.random.default_rng(0)
    odd = 0
    for _ in range(100):
        earlier = {MONDAY + dt.timedelta(n): draw(random, 2000, 0.1) for n in range(days)}
        odd += found(draw(random, 2000, 0.1), earlier) != ([], [])
    assert odd <= most
