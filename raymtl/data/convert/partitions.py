"""Write logs as they are read, in files of bounded size, and measure what the configuration needs on the way."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.validation.moments import Moments
from raymtl.data.writing import OutputFolder, ParquetFile, rows_without_collision
from raymtl.errors import DataError

FILE_ROWS = 1_000_000
GROUP_ROWS = 100_000
WAITING_ROWS = 300_000
"""Rows in memory, of all days together: with many days at a time, row groups are smaller."""
_DISTINCT = 250  # of so many values none share a row; for more, that would take tables of millions of rows
_FEW, _TABLES = 100_000, 64  # values that are cheap to merge, and tables of them that may wait


def start_over(folder: OutputFolder, converter: str, splits: Iterable[str]) -> None:
    """Remove the files of an earlier conversion, and mark the folder as unfinished until its configuration is written.

    Raises DataError if there are files of the same names that this converter did not write.
    """
    mark = f"converted by `raymtl convert {converter}`"
    own = mark in (folder.read_text("config.yaml") or "")
    for split in splits:
        folder.make(split)
        old = [name for name in folder.files(split) if re.fullmatch(r"ds=[^/]+/_?part-\d+\.parquet", name)]
        if old and not own:
            raise DataError(
                f"{converter}: `{folder.path_of(split)}` has files that this converter did not write, such as {old[0]}; "
                "choose another folder, or remove them"
            )
        for name in old:
            folder.remove(f"{split}/{name}")
    folder.write("config.yaml", f"# Being {mark}; not finished: rerun the same command.\n")


class PartitionWriter:
    """Writes the rows of one split to `<split>/ds=<day>`, in any order of days, in row groups of bounded memory."""

    def __init__(self, folder: OutputFolder, split: str):
        self._folder, self._split = folder, split
        self._waiting: dict[str, list[pa.Table]] = {}
        self._waiting_rows: Counter[str] = Counter()
        self._open: dict[str, ParquetFile] = {}
        self._files: dict[str, int] = {}
        self._empty = pa.table({})
        self.rows: dict[str, int] = {}
        """Rows per day so far."""

    def write(self, day: str, table: pa.Table) -> None:
        """Append rows to a day."""
        self._empty = table.slice(0, 0)
        self._waiting.setdefault(day, []).append(table)
        self._waiting_rows[day] += table.num_rows
        self.rows[day] = self.rows.get(day, 0) + table.num_rows
        if self._waiting_rows[day] >= GROUP_ROWS:
            self._flush(day)
        elif self._waiting_rows.total() >= WAITING_ROWS:
            self._flush(self._waiting_rows.most_common(1)[0][0])

    def write_days(self, days: pa.Array, table: pa.Table) -> None:
        """Append each row to its day; `days` are dates."""
        if not len(days):
            return
        names = pc.dictionary_encode(days)
        codes = names.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(names.dictionary)))
        for day, part in zip(names.dictionary.to_pylist(), np.split(order, ends[:-1]), strict=True):
            self.write(str(day), table.take(pa.array(part)))  # a copy: a slice would keep the whole batch in memory

    def fill_days(self, first: str | None = None, last: str | None = None) -> list[str]:
        """Let every day from the first to the last have a file, so that a range can be read; returns the added days."""
        start, end = (np.datetime64(day) for day in (first or min(self.rows), last or max(self.rows)))
        missing = sorted({str(day) for day in np.arange(start, end + 1)} - set(self.rows))
        for day in missing:
            self.write(day, self._empty)
        return missing

    def close(self) -> None:
        """Finish all files; call it only if the source was read to its end."""
        for day in sorted(self._waiting):
            if self._waiting[day]:
                self._flush(day)
            if day in self._open:
                self._open.pop(day).close()

    def _flush(self, day: str) -> None:
        table = pa.concat_tables(self._waiting[day]).combine_chunks()
        self._waiting[day], self._waiting_rows[day] = [], 0
        if not table.num_rows and self._files.get(day):
            return
        if day not in self._open:
            number = self._files.get(day, 0)
            partition = f"{self._split}/ds={day}"
            if not number:
                self._folder.make(partition)
            self._open[day] = self._folder.open_parquet(f"{partition}/part-{number:05d}.parquet", table.schema)
            self._files[day] = number + 1
        self._open[day].write(table)
        if self._open[day].rows >= FILE_ROWS:
            self._open.pop(day).close()


class ValueCounts:
    """How often each integer or string occurs; memory grows with the number of different ones, not with the rows."""

    def __init__(self) -> None:
        self._total: pa.Table | None = None
        self._recent: list[pa.Table] = []

    def add(self, values: pa.Array | pa.ChunkedArray) -> None:
        """Count values; nulls are ignored."""
        counts = pc.value_counts(values.drop_null())
        found = counts.field("values")
        found = found.cast(found.type.value_type) if pa.types.is_dictionary(found.type) else found
        self._recent.append(pa.table({"value": found, "count": counts.field("counts")}))
        # merged when there is as much new as old, so that every value is merged a few times only
        new, old = sum(t.num_rows for t in self._recent), self._total.num_rows if self._total else 0
        if new > max(_FEW, old) or (len(self._recent) > _TABLES and old < _FEW):
            self._merge()

    def values(self, at_least: int = 1) -> pa.ChunkedArray:
        """The values that occurred that often, sorted."""
        table = self._merge()
        return table["value"].filter(pc.greater_equal(table["count"], at_least)).sort()

    def _merge(self) -> pa.Table:
        parts = ([self._total] if self._total else []) + self._recent
        if not parts:
            return pa.table({"value": pa.array([], pa.int64()), "count": pa.array([], pa.int64())})
        merged = pa.concat_tables(parts).group_by("value").aggregate([("count", "sum")])
        self._total, self._recent = merged.rename_columns(["value", "count"]), []
        return self._total


def hash_table(values: pa.ChunkedArray) -> dict[str, int]:
    """A `hash` table for these distinct values: no collisions among up to 250 of them, 4 to 8 rows per value beyond that."""
    if len(values) <= _DISTINCT:
        return {"rows": rows_without_collision(values)}
    return {"rows": 1 << (4 * len(values) - 1).bit_length()}


def map_table(values: pa.ChunkedArray, admit_count: int) -> dict[str, object]:
    """A `map` table with room for these values, a quarter more, and row 0."""
    return {"rows": max(100, -(-len(values) * 5 // 400) * 100), "id_space": "map", "admit_count": admit_count}


class DenseMoments:
    """Mean and deviation of dense features over the training rows."""

    def __init__(self, transforms: Mapping[str, str]):
        self._moments = {name: (transform, Moments()) for name, transform in transforms.items()}

    def add(self, table: pa.Table) -> None:
        """Measure the non-null numbers of these rows."""
        for name, (transform, moments) in self._moments.items():
            values = table[name].drop_null().to_numpy().astype(np.float64)
            moments.add(np.sign(values) * np.log1p(np.abs(values)) if transform == "log1p" else values)

    def features(self) -> dict[str, dict[str, object]]:
        """The features' sections of the configuration."""
        return {
            name: {
                "kind": "dense",
                "transform": transform,
                "mean": round(moments.mean, 6),
                "std": round(moments.std, 6) or 1.0,
            }
            for name, (transform, moments) in self._moments.items()
        }
