"""Write logs that have no folders of days by day, so that the days that come last can be evaluated on."""

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raymtl.data.column_types import is_string
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import mix64, to_int64
from raymtl.data.partitions import Layout
from raymtl.data.rules import one_array
from raymtl.data.scan import scan
from raymtl.data.source import find_flat_files
from raymtl.data.times import microseconds, text_times
from raymtl.data.units import Footer, Fragment, make_units, read_footers, with_rows
from raymtl.data.writing import OutputFolder, ParquetFile
from raymtl.errors import DataError
from raymtl.init.days import Days, FoundDays, choose_days, two_folders
from raymtl.init.profile import ColumnProfile, is_read, row_hash
from raymtl.storage.folder import Folder

_MOST_DAYS = 200
_TASK_ROWS = 1_000_000
_TASK_BYTES = 1 << 10
_BLOCK_ROWS = 262_144
_DAY_US = 86_400_000_000
_HELD_OUT = 10
"""Without a time, about one row of so many is evaluated on."""
_EPOCH = dt.date(1970, 1, 1)
_NO_TIME = (dt.date(2000, 1, 1), dt.date(2000, 1, 2))
"""The names of training and evaluation then."""
PLACEHOLDER = Days("logs", Layout(), (_NO_TIME[0], _NO_TIME[0]), 1, (_NO_TIME[1], _NO_TIME[1]))
"""Days of logs that are not written yet."""


def flat_footers(folder: Folder) -> list[Footer]:
    """The footers of all files below a folder without days; folders `key=value` are columns.

    Raises DataError if there is none with rows.
    """
    found = find_flat_files(folder)
    if found.faults:
        raise DataError(found.faults[0])
    footers = with_rows(read_footers(folder.filesystem, found.files))
    if not footers:
        raise DataError(f"`{folder.path}` has no parquet file with rows; pass the folder that contains the logs")
    return footers


@dataclass(frozen=True)
class Split:
    """How rows become days."""

    time: str | None = None
    """Column with the time of a row; None: a hash of its place in the files decides which of two days it is on."""
    first: int = 0
    """With a time, the first and the last day, in days since 1970; rows outside go to the nearest."""
    last: int = 0
    cut_us: int | None = None
    """With a time that spans too many days: only two days, the second of which begins here."""
    eval_folder: str | None = None
    """Without a time: the folder whose rows are on the second day."""
    request: str | None = None
    """Without a time: the column of requests, none of which is on both days."""

    @property
    def words(self) -> str:
        """For a note."""
        if self.eval_folder is not None:
            return f"those of `{self.eval_folder}` are on the second of two days"
        if self.time is None:
            one = "row" if self.request is None else f"`{self.request}`"
            return f"no column has the time of all rows, so one {one} of {_HELD_OUT}, by chance, is on the second of two days"
        if self.cut_us is not None:
            return f"`{self.time}` has few rows a day, so the last tenth of the rows is on the second of two days"
        return f"by the day of `{self.time}` (UTC)"

    def days_of(self, table: pa.Table, path: str, first_row: int) -> np.ndarray:
        """The day of each row of a table, in days since 1970."""
        train, held_out = map(_number, _NO_TIME)
        if self.eval_folder is not None:
            return np.full(len(table), held_out if f"/{self.eval_folder}/" in path else train)
        if self.time is None:
            chance = row_hash(path, first_row, len(table))
            if self.request is not None:
                ids = to_int64(one_array(table, self.request, "id"))
                known = ids.is_valid().to_numpy(zero_copy_only=False)
                chance = np.where(known, mix64(ids.fill_null(0).to_numpy()), chance)
            return np.where(chance % np.uint64(_HELD_OUT) == 0, held_out, train)
        times = one_array(table, self.time, "time")
        times = text_times(times) if is_string(times.type) else times
        moments = microseconds(times.fill_null(pa.scalar(0).cast(times.type)))
        if self.cut_us is not None:
            last = self.cut_us // _DAY_US
            return np.where(moments >= self.cut_us, last, last - 1)
        return np.clip(moments // _DAY_US, self.first, self.last)


def choose_split(
    time: str | None,
    column: ColumnProfile | None,
    sample: pa.Table,
    folders: Sequence[str] = (),
    request: str | None = None,
) -> Split:
    """By the time, if it is known in all rows; folders `train` and `test` first."""
    train, held_out = two_folders(folders)
    if train is not None and held_out is not None:
        return Split(eval_folder=held_out)
    if time is None or column is None or column.nulls or not len(sample):
        return Split(request=request)
    moments = microseconds(one_array(sample, time, "time"))
    days = moments // _DAY_US
    low, high = (int(n) for n in np.quantile(days, [0.001, 0.999], method="nearest"))
    if low == high:
        return Split(request=request)
    if high - low >= _MOST_DAYS or len(np.unique(days)) * 2 < high - low + 1:
        return Split(time, cut_us=int(np.quantile(moments, 0.9)))
    return Split(time, low, high)


def write_days(
    folder: Folder, footers: Sequence[Footer], kinds: dict[str, str], split: Split, out: str, read_tasks: int
) -> Days:
    """Write the rows to one folder for each day below `out`, on `read_tasks` CPUs of the connected Ray."""
    target = OutputFolder.open(out)
    names = [name for name, kind in kinds.items() if is_read(kind)]
    units = make_units(footers, _TASK_ROWS)
    bodies = [Task(folder.path, names, unit.fragments, split, target, n) for n, unit in enumerate(units)]
    rows: Counter[dt.date] = Counter()
    for table in scan("WriteDays", bodies, _TASK_BYTES, read_tasks, {}, in_order=False):
        for day, count in zip(table.column("day").to_pylist(), table.column("rows").to_pylist(), strict=True):
            rows[_EPOCH + dt.timedelta(days=day)] += count
    return choose_days(FoundDays(target.path, Layout(), sorted(rows)), rows)


def _number(day: dt.date) -> int:
    return (day - _EPOCH).days


@dataclass
class Task:
    """The body of one reading task; it writes files, and yields the days of their rows."""

    root: str
    names: list[str]
    fragments: Sequence[Fragment]
    split: Split
    target: OutputFolder
    number: int

    def __call__(self) -> Iterable[pa.Table]:
        files: dict[tuple[int, int], ParquetFile] = {}
        written: Counter[int] = Counter()
        for part, fragment in enumerate(self.fragments):  # columns may differ between files
            for raw, first_row in read_fragment(self.root, fragment, self.names, _BLOCK_ROWS):
                days = self.split.days_of(raw, fragment.path, first_row)
                for day in np.unique(days).tolist():
                    rows = raw.filter(pa.array(days == day))
                    self._file(files, day, part, rows).write(rows)
                    written[day] += len(rows)
        for file in files.values():
            file.close()
        yield pa.table({"day": [*written], "rows": [*written.values()]})

    def _file(self, files: dict[tuple[int, int], ParquetFile], day: int, part: int, rows: pa.Table) -> ParquetFile:
        if (day, part) not in files:
            partition = Layout().name(_EPOCH + dt.timedelta(days=day))
            self.target.make(partition)
            name = f"{partition}/part-{self.number:05d}-{part:03d}.parquet"
            files[day, part] = self.target.open_parquet(name, rows.schema)
        return files[day, part]
