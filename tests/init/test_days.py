"""Where the days are, whatever the folders are named."""

import datetime as dt
from pathlib import Path

import pytest

from raymtl.errors import DataError
from raymtl.init.days import Days, find_days
from raymtl.storage.folder import Folder


def days_of(root: Path, *folders: str) -> Days | None:
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
    assert found.train == (dt.date(2026, 1, 30), dt.date(2026, 1, 30))
    assert found.eval == (dt.date(2026, 1, 31), dt.date(2026, 1, 31))


def test_a_single_day_trains_and_evaluates_nothing(tmp_path: Path) -> None:
    found = days_of(tmp_path, "ds=2026-01-30")
    assert found is not None
    assert (found.train, found.eval) == ((dt.date(2026, 1, 30),) * 2, None)


def test_folders_train_and_test_are_training_and_evaluation(tmp_path: Path) -> None:
    found = days_of(tmp_path, "train/ds=2026-01-30", "train/ds=2026-01-31", "test/ds=2026-02-01", "test/ds=2026-02-03")
    assert found is not None
    assert found.path == str(tmp_path / "train")
    assert found.eval_path == str(tmp_path / "test")
    assert found.train == (dt.date(2026, 1, 30), dt.date(2026, 1, 31))
    assert found.eval == (dt.date(2026, 2, 1), dt.date(2026, 2, 3))


def test_logs_without_days_have_none(tmp_path: Path) -> None:
    (tmp_path / "part-0.parquet").touch()
    assert find_days(Folder.open(str(tmp_path))) is None
    assert days_of(tmp_path / "below", "a", "b") is None


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_days(Folder.open(str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="one level each for year, month and day"):
        days_of(tmp_path / "levels", "year=2026/month=01", "year=2027/month=01")
    with pytest.raises(DataError, match="_delta_log` has no entry of a Delta Lake table"):
        days_of(tmp_path / "delta", "_delta_log", "ds=2026-01-30")
