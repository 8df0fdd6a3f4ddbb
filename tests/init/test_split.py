"""Logs without folders of days become logs with days: each row once."""

import datetime as dt
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.data.units import make_units
from raymtl.data.writing import OutputFolder
from raymtl.errors import DataError
from raymtl.init.profile import ColumnProfile, kinds_of
from raymtl.init.split import Split, Task, choose_split, flat_footers
from raymtl.storage.folder import Folder

BEGIN = np.datetime64("2026-01-30T22:00:00", "us")
BEGIN_DAY = int(BEGIN.astype("datetime64[D]").astype(int))


def write_flat(root: Path, sizes: tuple[int, ...]) -> int:
    """Files of so many rows, an hour after each other; returns all rows."""
    root.mkdir(parents=True)
    first = 0
    for n, rows in enumerate(sizes):
        number = np.arange(first, first + rows)
        columns = {"n": number, "ts": BEGIN + number * np.timedelta64(1, "h"), "s": [f"x{v % 3}" for v in number]}
        pq.write_table(pa.table(columns), root / f"{n}.parquet", row_group_size=7)
        first += rows
    return first


def split(root: Path, out: Path, how: Split, unit_rows: int = 10) -> dict[str, list[int]]:
    """The rows by the folder of their day."""
    footers = flat_footers(Folder.open(str(root)))
    for number, unit in enumerate(make_units(footers, unit_rows)):
        task = Task(str(root), [*kinds_of(footers)], unit.fragments, how, OutputFolder.open(str(out)), number)
        assert [*task()]
    found = {}
    for folder in sorted(out.iterdir()):
        found[folder.name] = sorted(n for file in folder.iterdir() for n in pq.read_table(file).column("n").to_pylist())
    return found


def test_rows_go_to_the_day_of_their_time(tmp_path: Path) -> None:
    rows = write_flat(tmp_path / "flat", (11, 23, 6))
    by_day = Split("ts", BEGIN_DAY, BEGIN_DAY + 2)
    found = split(tmp_path / "flat", tmp_path / "out", by_day)
    assert [*found] == ["ds=2026-01-30", "ds=2026-01-31", "ds=2026-02-01"]
    assert found["ds=2026-01-30"] == [0, 1]
    assert found["ds=2026-01-31"] == [*range(2, 26)]
    assert sorted(chain(*found.values())) == [*range(rows)]
    assert split(tmp_path / "flat", tmp_path / "out", by_day) == found  # the same files
    short = split(tmp_path / "flat", tmp_path / "short", Split("ts", BEGIN_DAY, BEGIN_DAY + 1))
    assert [len(rows) for rows in short.values()] == [2, rows - 2]  # a time far away goes to the nearest day


def test_a_time_may_be_text(tmp_path: Path) -> None:
    rows = write_flat(tmp_path / "flat", (11, 23, 6))
    for path in (tmp_path / "flat").iterdir():
        table = pq.read_table(path)
        texts = [f"{moment.isoformat()}Z" for moment in table.column("ts").to_pylist()]
        pq.write_table(table.set_column(1, "ts", pa.array(texts)), path)
    found = split(tmp_path / "flat", tmp_path / "out", Split("ts", BEGIN_DAY, BEGIN_DAY + 2))
    assert [len(rows) for rows in found.values()] == [2, 24, rows - 26]


def test_without_a_time_a_tenth_of_the_rows_is_held_out_by_chance(tmp_path: Path) -> None:
    rows = write_flat(tmp_path / "flat", (1025, 831))
    found = split(tmp_path / "flat", tmp_path / "out", Split())
    assert [*found] == ["ds=2000-01-01", "ds=2000-01-02"]
    held_out = np.array(found["ds=2000-01-02"])
    assert 0.07 * rows < len(held_out) < 0.13 * rows
    assert len(np.unique(held_out % 10)) == 10  # of every place in a request
    assert sorted(chain(*found.values())) == [*range(rows)]


def test_folders_train_and_test_stay_apart(tmp_path: Path) -> None:
    rows = write_flat(tmp_path / "flat" / "train", (25, 31))
    write_flat(tmp_path / "flat" / "test", (7,))
    split_by_folder = choose_split("ts", ColumnProfile("time", rows=10), pa.table({"ts": [BEGIN]}), ["test", "train"])
    found = split(tmp_path / "flat", tmp_path / "out", split_by_folder)
    assert [len(v) for v in found.values()] == [rows, 7]


def test_a_time_of_many_days_is_cut_once(tmp_path: Path) -> None:
    rows = write_flat(tmp_path / "flat", (9, 9))
    cut = int((BEGIN + np.timedelta64(15, "h")).astype(np.int64))
    found = split(tmp_path / "flat", tmp_path / "out", Split("ts", cut_us=cut))
    assert [len(v) for v in found.values()] == [15, 3]
    assert sorted(chain(*found.values())) == [*range(rows)]


def test_how_to_split_follows_from_the_time() -> None:
    known, unknown = ColumnProfile("time", rows=10), ColumnProfile("time", rows=10, nulls=1)
    hours = pa.table({"ts": BEGIN + np.arange(10) * np.timedelta64(5, "h")})
    assert choose_split("ts", known, hours) == Split("ts", BEGIN_DAY, BEGIN_DAY + 2)
    assert choose_split("ts", unknown, hours) == Split()
    assert choose_split(None, None, hours) == Split()
    one_day = pa.table({"ts": BEGIN + np.arange(10) * np.timedelta64(5, "s")})
    assert choose_split("ts", known, one_day) == Split()
    years = pa.table({"ts": BEGIN + np.arange(11) * np.timedelta64(100 * 24, "h")})
    assert choose_split("ts", known, years) == Split(
        "ts", cut_us=int((BEGIN + np.timedelta64(900 * 24, "h")).astype(np.int64))
    )


def test_folders_of_other_keys_are_columns(tmp_path: Path) -> None:
    for country in ("de", "fr"):
        (tmp_path / f"country={country}").mkdir()
        pq.write_table(pa.table({"n": [1]}), tmp_path / f"country={country}" / "a.parquet")
    footers = flat_footers(Folder.open(str(tmp_path)))
    assert kinds_of(footers) == {"n": "integer", "country": "text"}
    assert [dict(f.file.values) for f in footers] == [{"country": "de"}, {"country": "fr"}]
    assert {f.file.day for f in footers} == {dt.date.min}


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no parquet file with rows; pass the folder that contains the logs"):
        flat_footers(Folder.open(str(tmp_path)))


def test_files_are_refused_for_the_reasons_of_those_of_a_day(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"are two names of one file, .* its rows would be read twice"):
        flat_footers(Folder.open(str(tmp_path)))
    (tmp_path / "b.parquet").unlink()
    (tmp_path / "base_1").mkdir()
    pq.write_table(pa.table({"n": [1]}), tmp_path / "base_1" / "c.parquet")
    with pytest.raises(DataError, match="has the folder `base_1` of a transactional Hive table"):
        flat_footers(Folder.open(str(tmp_path)))
