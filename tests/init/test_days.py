"""Where the days are, whatever the folders are named."""

import datetime as dt
from pathlib import Path

import pytest

from raymtl.data.partitions import Layout
from raymtl.errors import DataError
from raymtl.init.days import Days, FoundDays, choose_days, find_days, find_days_of_all
from raymtl.storage.folder import Folder


def days_of(root: Path, *folders: str) -> FoundDays | None:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return find_days(Folder.open(str(root)))


@pytest.mark.parametrize(
    ("folders", "key", "form"),
    [
        (("ds=2026-01-30", "ds=2026-01-31"), "ds", "%Y-%m-%d"),
        (("dt=20260130", "dt=20260131", "_SUCCESS"), "dt", "%Y%m%d"),
        (("date=2026_01_30", "date=2026_01_31", "date=__HIVE_DEFAULT_PARTITION__"), "date", "%Y_%m_%d"),
        (("v=2026-01-01", "p=2026-01-30", "p=2026-01-31"), "p", "%Y-%m-%d"),
    ],
)
def test_any_key_and_format_of_days(folders: tuple[str, ...], key: str, form: str, tmp_path: Path) -> None:
    found = days_of(tmp_path, *folders)
    assert found is not None
    assert (found.layout.key, found.layout.format) == (key, form)
    assert found.days == [dt.date(2026, 1, 30), dt.date(2026, 1, 31)]


def day(number: int) -> dt.date:
    return dt.date(2026, 1, number)


def chosen(rows: dict[int, int], *known: dict[int, int]) -> Days:
    found = FoundDays("/logs", Layout(), sorted(day(n) for n in rows))
    return choose_days(found, {day(n): r for n, r in rows.items()}, [{day(n): r for n, r in k.items()} for k in known])


@pytest.mark.parametrize(
    ("rows", "known", "train", "evaluated", "train_rows"),
    [
        ({1: 5, 2: 6, 3: 7}, [], (1, 2), 3, 11),
        ({1: 5}, [], (1, 1), None, 5),
        ({1: 50, 2: 60, 3: 2}, [], (1, 1), 2, 50),  # the last day is still arriving
        ({1: 50, 2: 60, 3: 70}, [{1: 50, 2: 60}], (1, 1), 2, 50),  # its labels are
        ({1: 5, 2: 6, 3: 7}, [{}], (1, 2), 3, 11),  # no label is known anywhere: not a matter of days
        ({1: 5, 3: 6, 4: 7, 6: 8}, [], (3, 4), 6, 13),  # gaps
        ({1: 5, 2: 0, 3: 7}, [], (1, 1), 3, 5),
    ],
)
def test_which_days_to_train_and_to_evaluate_on(
    rows: dict[int, int], known: list[dict[int, int]], train: tuple[int, int], evaluated: int | None, train_rows: int
) -> None:
    found = chosen(rows, *known)
    assert found.train == (day(train[0]), day(train[1]))
    assert found.eval == (None if evaluated is None else (day(evaluated), day(evaluated)))
    assert found.train_rows == train_rows


def test_the_days_that_are_left_out_are_said() -> None:
    assert chosen({1: 50, 3: 60, 4: 60, 5: 60, 6: 1}).notes == [
        "2026-01-06: with far fewer rows or labels than usual, as if they were still arriving",
        "2026-01-01: before a gap in the days",
    ]


def test_folders_train_and_test_are_training_and_evaluation(tmp_path: Path) -> None:
    found = days_of(tmp_path, "train/ds=2026-01-30", "train/ds=2026-01-31", "test/ds=2026-02-01", "test/ds=2026-02-02")
    assert found is not None
    assert found.path == str(tmp_path / "train")
    assert found.eval_path == str(tmp_path / "test")
    days = choose_days(found, dict.fromkeys(found.days, 9))
    assert days.train == (dt.date(2026, 1, 30), dt.date(2026, 1, 31))
    assert days.eval == (dt.date(2026, 2, 1), dt.date(2026, 2, 2))


def test_logs_without_days_have_none(tmp_path: Path) -> None:
    (tmp_path / "part-0.parquet").touch()
    assert find_days(Folder.open(str(tmp_path))) is None
    assert days_of(tmp_path / "below", "a", "b") is None


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_days(Folder.open(str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="one level each for year, month and day"):
        days_of(tmp_path / "levels", "year=2026/month=01", "year=2027/month=01")
    with pytest.raises(DataError, match="days without a key; rename them as ds=YYYY-MM-DD"):
        days_of(tmp_path / "keyless", "2026-01-30", "2026-01-31")
    with pytest.raises(DataError, match="_delta_log` has no entry of a Delta Lake table"):
        days_of(tmp_path / "delta", "_delta_log", "ds=2026-01-30")


def all_of(root: Path, **folders: tuple[str, ...]) -> FoundDays | None:
    for name, days in folders.items():
        for day in days:
            (root / name / day).mkdir(parents=True)
    return find_days_of_all([Folder.open(str(root / name)) for name in folders])


def test_several_folders_are_one_data_set(tmp_path: Path) -> None:
    found = all_of(tmp_path, m1=("dt=20260130", "dt=20260131"), m2=("dt=20260131", "dt=20260201"))
    days = [dt.date(2026, 1, 30), dt.date(2026, 1, 31), dt.date(2026, 2, 1)]
    assert found == FoundDays([f"{tmp_path}/m1", f"{tmp_path}/m2"], Layout("dt", "%Y%m%d"), days)


def test_several_folders_with_days_to_train_and_to_evaluate_on(tmp_path: Path) -> None:
    split = ("train/ds=2026-01-01", "test/ds=2026-01-02")
    found = all_of(tmp_path, a=split, b=split)
    assert found is not None
    assert (found.path, found.eval_path) == (
        [f"{tmp_path}/a/train", f"{tmp_path}/b/train"],
        [f"{tmp_path}/a/test", f"{tmp_path}/b/test"],
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("ds=2026-01-01",), "do not name their folders in the same way"),
        (("train/dt=20260101", "test/dt=20260102"), "do not name their folders in the same way"),
        (("flat",), "b` has no folders of days, which each of several PATHs needs"),
    ],
)
def test_several_folders_of_different_layouts(other: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        all_of(tmp_path, a=("dt=20260101",), b=other)
