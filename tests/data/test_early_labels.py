"""Labels that are not final yet: which had arrived by the cutoff, and who reads them when (docs/daily.md)."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymtl.config.early_labels import Arrival
from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.units import Counted, plan_input
from raymtl.data.user_slice import UserSlice
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.small_data import make_config, write_file

DAY = dt.date(2026, 1, 5)
MIDNIGHT = dt.datetime(2026, 1, 6, tzinfo=dt.UTC)
HOURS = [None, -9, -1e-6, 0, 60, None]
"""When the buy of each row came, in hours from the cutoff; None: never."""
LABELS = [0, 1, 1, 1, 1, None]


def config_of(early: dict[str, Any] | None = None, **more: Any) -> Config:
    buy = {"parent": "click", "delay_days": 3, "early_labels": {"time": "buy_time", **(early or {})}}
    return make_config(tasks={"click": {}, "buy": buy}, **more)


def moments(shift_hours: float = 0) -> list[dt.datetime | None]:
    return [None if h is None else MIDNIGHT + dt.timedelta(hours=h + shift_hours) for h in HOURS]


def raw(times: pa.Array | None = None, **columns: Any) -> pa.Table:
    times = pa.array(moments(), pa.timestamp("us", "UTC")) if times is None else times
    clicks = [1] * 6
    return pa.table({"item": pa.array(range(6)), "click": clicks, "buy": LABELS, "buy_time": times, **columns})


def block(counted: Counted, config: Config | None = None, table: pa.Table | None = None, **maker: Any) -> pa.Table:
    made = BlockMaker(config or config_of(), **{"evaluation": False, **maker})
    table = raw() if table is None else table
    return made(
        table.select([n for n in made.raw_columns() if n in table.column_names]), Place("part-0", 0, DAY), 0, counted
    )


def labels(found: pa.Table, task: str = "buy") -> list[float | None]:
    values = found.column(f"label:{task}").to_numpy()
    return [None if np.isnan(v) else float(v) for v in values]


def arrivals(found: pa.Table) -> list[Arrival]:
    return [Arrival(v) for v in found.column("arrival:buy").to_pylist()]


OPEN, IN_TIME, LATE, FINAL = Arrival.OPEN, Arrival.IN_TIME, Arrival.LATE, Arrival(0)
EARLY = Counted(("click",), early=("buy",))


def test_early_labels_are_those_before_the_cutoff() -> None:
    found = block(EARLY)
    assert labels(found) == [0, 1, 1, 0, 0, None]
    assert arrivals(found) == [OPEN] * 6
    assert labels(found, "click") == [1] * 6


def test_final_labels_also_tell_which_came_late() -> None:
    for counted in (Counted(), Counted(("buy",))):
        found = block(counted)
        assert labels(found) == [0, 1, 1, 1, 1, None]
        assert arrivals(found) == [FINAL, IN_TIME, IN_TIME, LATE, LATE, FINAL]


def test_a_task_that_does_not_count_is_not_observed() -> None:
    found = block(Counted(("click",)))
    assert labels(found) == [None] * 6
    assert arrivals(found) == [FINAL] * 6


def test_a_cutoff_of_another_time_zone() -> None:
    """Days of UTC-8 end at 8 o'clock of the next day in UTC."""
    config = config_of({"cutoff_hours": 32.0})
    assert labels(block(EARLY, config)) == [0, 1, 1, 1, 0, None]
    shifted = raw(pa.array(moments(8), pa.timestamp("us", "UTC")))
    assert labels(block(EARLY, config, shifted)) == [0, 1, 1, 0, 0, None]


@pytest.mark.parametrize(
    "times",
    [
        pa.array(moments(), pa.timestamp("ns")),
        pa.array([None if m is None else m.timestamp() for m in moments()], pa.float64()),
        pa.array([None if m is None else int(m.timestamp() * 1e6) for m in moments()], pa.int64()),
        pa.array([float("nan") if m is None else m.timestamp() for m in moments()], pa.float64()),
        pa.array([None if m is None else m.isoformat() for m in moments()]),
        pa.array([None if m is None else m.isoformat() for m in moments()]).dictionary_encode(),
    ],
    ids=["ns", "seconds", "microseconds", "nan", "text", "dictionary"],
)
def test_times_of_every_kind(times: pa.Array) -> None:
    assert labels(block(EARLY, table=raw(times))) == [0, 1, 1, 0, 0, None]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "None"), ("soon", "soon"), ("1970-01-01", "1970-01-01"), ("2026-01-03T23:59:59Z", "2026.*")],
)
def test_a_one_without_a_time(value: str | None, shown: str) -> None:
    texts = [None if m is None else m.isoformat() for m in moments()]
    texts[3] = value
    for counted in (EARLY, Counted()):
        with pytest.raises(
            DataError,
            match=rf"part-0: column `buy_time` \(tasks.buy.early_labels.time\), row 3: the time is {shown}, expected one on "
            r"the row's day or after it where the label is 1; write when the label became 1",
        ):
            block(counted, table=raw(pa.array(texts)))


def test_a_zero_may_have_any_time(tmp_path: Path, in_process: None) -> None:
    texts = [m.isoformat() if m else "" for m in moments()]
    assert labels(block(Counted(), table=raw(pa.array(texts)))) == [0, 1, 1, 1, 1, None]
    write_file(tmp_path, raw(pa.array(texts)), str(DAY))
    days = {"path": str(tmp_path), "train": {"start": str(DAY), "end": str(DAY)}}
    assert not any(
        "buy_time" in problem for problem in check_data(config_of(**days), "train", 1).parts["train"].problems
    )


def test_an_evaluation_reads_no_times() -> None:
    without = raw().drop_columns("buy_time")
    found = block(Counted(), table=without, evaluation=True)
    assert labels(found) == [0, 1, 1, 1, 1, None]
    assert "arrival:buy" not in found.column_names


def test_days_to_evaluate_on_need_no_times(tmp_path: Path) -> None:
    write_file(tmp_path, raw().drop_columns("buy_time"), str(DAY))
    days = {"start": str(DAY), "end": str(DAY)}
    config = config_of(path=str(tmp_path), train=days, eval=days)
    assert plan_input(config, "eval").rows == 6
    with pytest.raises(DataError, match=r"column `buy_time` .* is missing"):
        plan_input(config, "train")


def test_a_product_of_labels() -> None:
    """ESMM's label is that of click and buy."""
    plain = config_of().model_dump()
    config = Config.model_validate(plain | {"model": {"preset": "esmm"}})
    assert labels(block(EARLY, config)) == [0, 1, 1, 0, 0, None]


def test_the_users_held_out_of_both_readings_are_the_same() -> None:
    """Those of the row's own day, whatever day the job is of: no version was trained on the labels that judge it."""
    rows = 3_000
    table = pa.table(
        {"item": range(rows), "user": range(rows), "click": [1] * rows, "buy": [1] * rows}
        | {"buy_time": pa.array([MIDNIGHT] * rows, pa.timestamp("us", "UTC"))}
    )
    config = config_of(group="user", tables={"item": {"rows": rows, "id_space": "direct"}})

    def users(counted: Counted, job: dt.date, selected: bool = False) -> set[int]:
        kept = UserSlice("user", 0, 0.2, selected).of_day(job)
        maker = BlockMaker(config, evaluation=selected, users=kept)
        made = maker(table.append_column("own", table["user"]), Place("part-0", 0, DAY), 0, counted)
        items = made.column("id:item").to_pylist()
        assert made.num_rows == len({*items})
        return {*items}

    later = DAY + dt.timedelta(days=3)
    again = Counted(("buy",), held_out_of_own_day=True)
    early = users(EARLY, DAY)
    assert early == users(again, later)
    assert 0.75 * rows < len(early) < 0.85 * rows
    assert users(again, later, selected=True) == {*range(rows)} - early
    assert users(Counted(("buy",)), later) != early


def test_the_batch_holds_them() -> None:
    config = config_of()
    chunk = block(Counted(("buy",)), config)
    batch = Collator(config, 8, evaluation=False)([chunk])
    assert batch.arrival.squeeze(1).tolist() == [int(a) for a in arrivals(chunk)] + [0, 0]
    assert batch.totals.tolist() == [0, 5, 6]
    assert Collator(config, 8, evaluation=True)([block(Counted(), config, evaluation=True)]).arrival.shape == (8, 0)


def test_check_counts_the_ones_without_a_time(tmp_path: Path, in_process: None) -> None:
    for times in (moments(), [None, *moments()[1:3], None, None, None]):
        write_file(tmp_path, raw(pa.array(times, pa.timestamp("us", "UTC"))), str(DAY))
        days = {"path": str(tmp_path), "train": {"start": str(DAY), "end": str(DAY)}}
        report = check_data(config_of(**days), "train", 1)
        found = [p for p in report.parts["train"].problems if "buy_time" in p]
        assert bool(found) == (times != moments())
    (problem,) = found
    assert "2 times are not one on the row's day or after it where the label is 1; the first is None" in problem


@pytest.mark.parametrize(
    ("hours", "found", "kind"),
    [
        (0.0, "50% of the labels of 1 came after the cutoff", "notes"),
        (-100.0, "0% of the labels of 1 came after the cutoff; where labels are final some do, so check", "warnings"),
        (100.0, "100% of the labels of 1 came after the cutoff; where labels are final some do, so check", "warnings"),
    ],
)
def test_check_says_how_many_come_late(hours: float, found: str, kind: str, tmp_path: Path, in_process: None) -> None:
    """The one number that shows a wrong column, unit or time zone."""
    times = [m and max(m, MIDNIGHT - dt.timedelta(hours=40)) for m in moments(hours)]
    write_file(tmp_path, raw(pa.array(times, pa.timestamp("us", "UTC"))), str(DAY))
    days = {"path": str(tmp_path), "train": {"start": str(DAY), "end": str(DAY)}}
    report = check_data(config_of(**days), "train", 1).parts["train"]
    assert not any("buy_time" in problem for problem in report.problems)
    assert any(f"tasks.buy.early_labels: {found}" in line for line in getattr(report, kind))
