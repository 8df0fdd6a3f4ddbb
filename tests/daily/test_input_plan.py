"""What a day reads: its own rows, older ones whose labels became final, and a share of older ones again."""

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raymtl.config.root import Config
from raymtl.daily import input_plan
from raymtl.daily.day import training_hash
from raymtl.daily.day_job import session_config
from raymtl.daily.input_plan import held_out_input, plan_day, training_input, users_of
from raymtl.daily.record import Record
from raymtl.data.units import Counted, Plan
from raymtl.errors import ConfigError, DataError
from tests.helpers.daily_config import daily_config

PROMPT: dict[str, Any] = {"click": {}, "buy": {"parent": "click"}}
LATE: dict[str, Any] = {"click": {}, "buy": {"parent": "click", "delay_days": 2}}
TWO_DELAYS: dict[str, Any] = LATE | {"stay": {"delay_days": 3}}
DAYS, GROUP = 14, 5


def jan(day: int) -> dt.date:
    return dt.date(2026, 1, day)


def rows_of(day: int) -> int:
    """Rows of a day: another number each, in whole row groups."""
    return GROUP * (4 + day)


def write_day(root: Path, day: int, rows: int) -> Path:
    users = list(range(rows))
    flags = [n % 2 for n in users]
    columns = {"user": users, "scene": ["feed"] * rows} | dict.fromkeys(("click", "buy", "stay"), flags)
    columns["bought_at"] = [1_767_571_200 if flag else None for flag in flags]
    path = root / f"ds={jan(day)}" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=GROUP)
    return path


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks, not to be changed."""
    root = tmp_path_factory.mktemp("logs")
    for day in range(1, DAYS + 1):
        write_day(root, day, rows_of(day))
    return root


def configured(root: Path, tasks: dict[str, Any] = LATE, subset: list[str] | None = None, **daily: Any) -> Config:
    config = daily_config(str(root), tasks, {"user": {"kind": "id"}}, **{"bootstrap_days": 3, **daily})
    return config.model_copy(update={"tasks_subset": subset})


def parts(plan: Plan) -> list[tuple[int, tuple[str, ...] | None]]:
    """Day of the month and tasks of each unit; None: all tasks."""
    found = []
    for unit in plan.units:
        days = {int(re.search(r"ds=2026-01-(\d\d)", chunk.path)[1]) for chunk in unit.fragments}  # type: ignore[index]
        assert len(days) == 1
        found.append((days.pop(), unit.counted.final))
    return found


# Without any delay


def test_the_first_version_reads_its_window(logs):
    plans = plan_day(configured(logs, PROMPT), jan(5), None, ())
    assert parts(plans.train) == parts(plans.day_rows) == [(3, None), (4, None), (5, None)]
    assert parts(plans.held_out) == parts(plans.train)  # one day may have few of the held-out users
    assert plans.next_day == {}
    assert plans.training_days == {"2026-01-03": None, "2026-01-04": None, "2026-01-05": None}
    assert (plans.day_rows.days, plans.notes) == (("2026-01-03", "2026-01-05"), [])
    assert plans.train.rows == sum(map(rows_of, (3, 4, 5)))


def test_days_left_out_of_the_window(logs):
    plans = plan_day(configured(logs, LATE, bootstrap_days=5), jan(6), None, {jan(3), jan(4)})
    assert parts(plans.train) == parts(plans.held_out) == [(2, None), (5, ("click",)), (6, ("click",))]


@pytest.mark.parametrize("base", [4, 2])
def test_a_day_without_delays_reads_itself_alone(logs, base):
    plans = plan_day(configured(logs, PROMPT), jan(5), jan(base), ())
    for plan in (plans.day_rows, plans.train, plans.held_out, plans.next_day[0]):
        assert parts(plan) == [(5, None)]
    assert plans.training_days == {"2026-01-05": None}
    assert list(plans.next_day) == [0]


# With delays


def test_the_first_version_learns_final_labels_alone(logs):
    plans = plan_day(configured(logs), jan(5), None, ())
    assert parts(plans.train) == parts(plans.day_rows) == [(3, None), (4, ("click",)), (5, ("click",))]
    assert parts(plans.held_out) == parts(plans.train)
    assert plans.training_days == {"2026-01-03": None, "2026-01-04": ["click"], "2026-01-05": ["click"]}


def test_a_day_with_labels_that_became_final(logs):
    plans = plan_day(configured(logs), jan(6), jan(5), ())
    assert parts(plans.day_rows) == [(6, ("click",))]
    assert parts(plans.train) == parts(plans.held_out) == [(4, ("buy",)), (6, ("click",))]
    assert {delay: parts(plan) for delay, plan in plans.next_day.items()} == {0: [(6, ("click",))], 2: [(4, ("buy",))]}
    assert plans.training_days == {"2026-01-04": ["buy"], "2026-01-06": ["click"]}
    assert plans.train.days == ("2026-01-04", "2026-01-06")


def test_a_conditional_task_waits_for_its_condition(logs):
    tasks = LATE | {"stay": {"given": "buy", "delay_days": 1}}
    plans = plan_day(configured(logs, tasks), jan(6), jan(5), ())
    assert parts(plans.train) == [(4, ("buy", "stay")), (6, ("click",))]
    # a condition that is not trained delays all the same, and is no task of any unit
    plans = plan_day(configured(logs, tasks, ["click", "stay"]), jan(6), jan(5), ())
    assert parts(plans.train) == [(4, ("stay",)), (6, ("click",))]


def test_two_delays_and_a_day_in_between_that_was_not_done(logs):
    plans = plan_day(configured(logs, TWO_DELAYS), jan(9), jan(7), {jan(8)})
    assert parts(plans.train) == [(6, ("buy",)), (7, ("buy",)), (5, ("stay",)), (6, ("stay",)), (9, ("click",))]
    assert parts(plans.next_day[2]) == [(7, ("buy",))]
    assert parts(plans.next_day[3]) == [(6, ("stay",))]
    assert plans.training_days["2026-01-06"] == ["buy", "stay"]
    plans = plan_day(configured(logs, TWO_DELAYS), jan(10), jan(9), {jan(8)})
    assert parts(plans.train) == [(7, ("stay",)), (10, ("click",))]  # day 8 would be due
    assert list(plans.next_day) == [0, 3]


def test_all_tasks_may_be_late(logs):
    plans = plan_day(configured(logs, {"buy": {"delay_days": 1}}), jan(5), jan(4), ())
    assert parts(plans.train) == [(4, ("buy",))]  # no step over rows without a label
    assert plans.day_rows.days == ("2026-01-05", "2026-01-05")
    with pytest.raises(ConfigError, match="no label of any task is final"):
        plan_day(configured(logs, {"buy": {"delay_days": 9}}), jan(5), None, ())
    assert parts(plans.next_day[1]) == [(4, ("buy",))]


def test_logs_that_are_gone_when_their_labels_become_final(tmp_path):
    for day in (1, 2, 3, 6):
        write_day(tmp_path, day, 10)
    config = configured(tmp_path)
    plans = plan_day(config, jan(6), jan(4), ())
    assert plans.notes == ["the labels of buy of 2026-01-04 are final now, but the logs of that day no longer exist"]
    assert parts(plans.train) == [(3, ("buy",)), (6, ("click",))]
    assert list(plans.next_day) == [0]
    with pytest.raises(DataError, match="ds=2026-01-05"):  # its own logs are another matter
        plan_day(config, jan(5), jan(3), ())


@cache
def plan_of(root: str, day: dt.date) -> Plan:
    """The plan of a day, which does not depend on delays, made once."""
    return _plan_of(configured(Path(root)), day)


_plan_of = input_plan._plan_of


@settings(max_examples=60)
@given(
    delays=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    window=st.integers(1, 5),
    skipped=st.sets(st.integers(2, DAYS - 1), max_size=5),
)
def test_every_label_is_trained_once_and_never_before_it_is_final(logs, delays, window, skipped):
    """Day by day from a first version on, some days left out, whatever the delays."""
    delay_of = dict(zip(("click", "buy", "stay"), delays, strict=True))
    config = configured(logs, {name: {"delay_days": days} for name, days in delay_of.items()}, bootstrap_days=window)
    start, base = 5, None
    left_out = {jan(day) for day in skipped - {start}}
    first_days = [of for of in range(start - window + 1, start + 1) if jan(of) not in left_out]
    assume(any(of + min(delays) <= start for of in first_days))  # else there is nothing to begin with
    trained: Counter[tuple[int, str]] = Counter()
    for day in range(start, DAYS + 1):
        if jan(day) in left_out:
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(input_plan, "_plan_of", lambda config, day: plan_of(config.data.path, day))
            plans = plan_day(config, jan(day), base, left_out)
        base = jan(day)
        pairs = labels_of(parts(plans.train), delay_of)
        assert all(jan(of) not in left_out and of + delay_of[task] <= day for of, task in pairs)
        trained.update(pairs)
        noted = [(int(of[-2:]), None if tasks is None else tuple(tasks)) for of, tasks in plans.training_days.items()]
        assert sorted(labels_of(noted, delay_of)) == sorted(pairs)
        assert set(labels_of(parts(plans.held_out), delay_of)) <= set(pairs)
    assert max(trained.values()) == 1
    days = [of for of in range(max(1, start - window + 1), base.day + 1) if jan(of) not in left_out]
    due = {(of, task) for of in days for task, delay in delay_of.items() if of + delay <= base.day}
    assert due <= set(trained)
    assert all(of < start - window + 1 for of, _ in set(trained) - due)  # final only since the first version


def labels_of(found: list[tuple[int, tuple[str, ...] | None]], names: Iterable[str]) -> list[tuple[int, str]]:
    return [(day, task) for day, tasks in found for task in (names if tasks is None else tasks)]


# Early labels

EARLY: dict[str, Any] = {
    "click": {},
    "buy": {"parent": "click", "delay_days": 2, "early_labels": {"time": "bought_at"}},
    "stay": {"delay_days": 2},
}


def counted(plan: Plan) -> list[tuple[int, Counted]]:
    """Day of the month of each unit, and what counts there."""
    return [(unit.fragments[0].day.day, unit.counted) for unit in plan.units]


def test_early_labels_begin_after_the_first_version(logs):
    plans = plan_day(configured(logs, EARLY), jan(5), None, ())
    assert counted(plans.train) == [(3, Counted()), (4, Counted(("click",))), (5, Counted(("click",)))]


def test_a_day_with_early_labels(logs):
    plans = plan_day(configured(logs, EARLY), jan(8), jan(7), ())
    again = Counted(("buy", "stay"), held_out_of_own_day=True)
    assert counted(plans.train) == [(6, again), (8, Counted(("click",), early=("buy",)))]
    assert plans.training_days == {"2026-01-06": ["buy", "stay"], "2026-01-08": ["click", "buy (early)"]}
    # judged by final labels alone, of the users that were held out on the rows' own day
    assert counted(plans.held_out) == [(6, again), (8, Counted(("click",)))]
    assert {of: counted(plan) for of, plan in plans.next_day.items()} == {
        0: [(8, Counted(("click",)))],
        2: [(6, Counted(("buy", "stay")))],
    }


def test_all_labels_may_be_early(logs):
    early = {"buy": {"delay_days": 1, "early_labels": {"time": "bought_at"}}}
    plans = plan_day(configured(logs, early), jan(5), jan(4), ())
    assert counted(plans.train) == [
        (4, Counted(("buy",), held_out_of_own_day=True)),
        (5, Counted((), early=("buy",))),
    ]


def test_the_plan_knows_how_labels_count(logs):
    one, other = (plan_day(configured(logs, tasks), jan(8), jan(7), ()).train.identity for tasks in (EARLY, LATE))
    assert one != other


# Older rows again


def replayed(plans: Any, day: int) -> list[tuple[int, tuple[str, ...] | None]]:
    """The parts in front of the others."""
    own = [part for part in parts(plans.train) if part[0] == day]
    assert parts(plans.train)[-len(own) :] == own
    return parts(plans.train)[: -len(own)]


def test_replay_reads_a_share_of_older_days(logs):
    config = configured(logs, PROMPT, replay={"share": 0.5, "days": 4})
    plans = plan_day(config, jan(10), jan(9), {jan(8)})
    days = [day for day, _ in replayed(plans, 10)]
    assert days == sorted(set(days))
    assert set(days) <= {6, 7, 9}
    again = plans.train.rows - rows_of(10)
    assert 0.5 * rows_of(10) <= again < 0.5 * rows_of(10) + GROUP
    assert plans.day_rows.rows == rows_of(10)
    assert parts(plans.held_out) == parts(plans.next_day[0]) == [(10, None)]
    assert plans.training_days == dict.fromkeys(["2026-01-10", *(f"2026-01-0{day} (replayed)" for day in days)])
    chunks = [(f.path, f.row_groups) for unit in plans.train.units for f in unit.fragments]
    assert len(set(chunks)) == len(chunks)


def test_replay_is_the_same_for_the_same_day_alone(logs):
    config = configured(logs, PROMPT, replay={"share": 0.5, "days": 8})
    first = plan_day(config, jan(10), jan(9), ()).train
    assert plan_day(config, jan(10), jan(9), ()).train == first
    other = plan_day(config, jan(11), jan(10), ()).train
    assert [u.fragments for u in other.units[:-1]] != [u.fragments for u in first.units[:-1]]
    fewer = plan_day(configured(logs, PROMPT, replay={"share": 0.2, "days": 8}), jan(10), jan(9), ()).train
    assert fewer.identity != first.identity
    assert fewer.rows < first.rows


def test_replay_takes_all_there_is_and_nothing_where_there_is_none(logs):
    config = configured(logs, PROMPT, replay={"share": 50, "days": 14})
    plans = plan_day(config, jan(3), jan(2), ())
    assert plans.train.rows == sum(map(rows_of, (1, 2, 3)))
    plans = plan_day(config, jan(2), jan(1), {jan(1)})
    assert parts(plans.train) == [(2, None)]
    assert parts(plan_day(config, jan(3), None, ()).train) == [(1, None), (2, None), (3, None)]


def test_replay_has_no_label_that_the_base_did_not_have(logs):
    config = configured(logs, LATE, replay={"share": 50, "days": 5})
    plans = plan_day(config, jan(10), jan(9), ())
    assert parts(plans.train) == [
        (5, None),
        (6, None),
        (7, None),
        (8, ("click",)),  # buy is final today, and trained on for the first time
        (9, ("click",)),
        (8, ("buy",)),
        (10, ("click",)),
    ]
    assert plans.training_days == {
        "2026-01-05 (replayed)": None,
        "2026-01-06 (replayed)": None,
        "2026-01-07 (replayed)": None,
        "2026-01-08 (replayed)": ["click"],
        "2026-01-09 (replayed)": ["click"],
        "2026-01-08": ["buy"],
        "2026-01-10": ["click"],
    }


# Identity, and who is held out


@pytest.mark.parametrize("day", [7, 8, 10])
def test_the_identity_changes_when_a_day_is_written_again(tmp_path, day):
    for n in range(6, 11):
        write_day(tmp_path, n, 10)
    config = configured(tmp_path, LATE, replay={"share": 50, "days": 3})

    def identity() -> str:
        return plan_day(config, jan(10), jan(9), ()).train.identity

    before = identity()
    assert identity() == before
    write_day(tmp_path, 6, 11)  # nobody reads it
    assert identity() == before
    write_day(tmp_path, day, 11)
    assert identity() != before


def test_replay_knows_no_day_that_came_after_the_base(logs):
    config = configured(logs, {"click": {}, "buy": {"delay_days": 1}}, replay={"share": 50, "days": 4})
    plans = plan_day(config, jan(10), jan(8), ())  # nobody was trained on day 9
    assert replayed(plans, 10)[:3] == [(6, None), (7, None), (8, ("click",))]
    assert "2026-01-09 (replayed)" not in plans.training_days


def test_the_identity_depends_on_the_tasks(logs):
    plans = [plan_day(configured(logs, tasks), jan(10), jan(9), ()).train for tasks in (LATE, TWO_DELAYS, PROMPT)]
    assert len({plan.identity for plan in plans}) == 3


def test_held_out_users_are_not_trained_on(logs):
    config = configured(logs, gate={"holdout": 0.3})
    plans = plan_day(config, jan(6), jan(5), ())
    train, held = training_input(plans, config, jan(6), {}), held_out_input(plans, config, jan(6), {})
    assert (train.plan, train.evaluation, held.plan, held.evaluation) == (plans.train, False, plans.held_out, True)
    users = pa.array(range(1000))
    assert train.users is not None
    assert held.users is not None
    assert (train.users.contains(users) ^ held.users.contains(users)).all()
    assert 200 < held.users.contains(users).sum() < 400
    assert held.users.column == "user"
    assert (held.users.contains(users) != users_of(config, jan(7), held_out=True).contains(users)).any()


@pytest.mark.parametrize("base", [None, 9])
@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"data": {"train": {"start": "2026-01-02", "end": "2026-01-04"}}},
        {"data": {"eval": {"start": "2026-01-02", "end": "2026-01-04"}}},
        {"train": {"early_stop": {"patience": 3}}},
        {"train": {"eval_every_units": 3}},
    ],
)
def test_what_a_run_of_its_own_is_told_changes_nothing_of_a_day(logs, change, base):
    """A day goes by its date: neither is it another configuration, nor do the workers get another one, nor other rows."""
    raw = configured(logs, replay={"share": 0.5, "days": 3}).model_dump(mode="json")
    raw["data"]["eval"] = {"start": "2026-01-05", "end": "2026-01-05"}
    before = Config.model_validate(raw)
    for key, new in change.items():
        raw[key] = {**raw[key], **new} if isinstance(new, dict) else new
    after = Config.model_validate(raw)
    assert after != before

    def made(config: Config) -> Any:
        record = Record(
            date=jan(10), config_hash="", parent=base and "v", started=dt.datetime(2026, 1, 11, tzinfo=dt.UTC)
        )
        plans = plan_day(config, jan(10), base and jan(base), ())
        return plans, session_config(config, plans, jan(10), "/out", record), training_hash(config)

    assert made(after) == made(before)


def test_logs_that_cannot_be_read_are_not_gone(tmp_path):
    for day in (1, 2, 3, 6):
        write_day(tmp_path, day, 10)
    (tmp_path / "ds=2026-01-04").mkdir()
    (tmp_path / "ds=2026-01-04" / "part-0.parquet").symlink_to("/not/mounted")
    with pytest.raises(DataError, match="is a link to `/not/mounted`, which does not exist"):
        plan_day(configured(tmp_path), jan(6), jan(4), ())
