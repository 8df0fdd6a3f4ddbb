"""The best K rows of every list (the rows of a user or request of one day), wherever in the day's files they are.

A scorer keeps the best K of each list within its unit: a row that is not among them cannot be among the best of the day. It
writes them in as many row groups as there are parts, by a hash of the list; then one task per part reads its row group of
every file. So no row is compared with all others, and a task holds one row group and the best rows of its lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data.context import DataContext

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.root import Config
from raymtl.data.ids.hashing import cross, to_int64
from raymtl.data.writing import OutputFolder
from raymtl.errors import ConfigError, user_errors
from raymtl.serving.plan import Output, ScorePlan
from raymtl.storage.filesystem import open_to_read
from raymtl.storage.retry import retry

PARTS = "_top"
"""Folder of the best rows of each unit, removed once the best of each day are written."""
RANK = "rank"
"""Column with the place of a row in its list, from 1 on."""


@dataclass(frozen=True)
class Top:
    """Which rows to keep."""

    rows: int
    """Of each list."""
    per: tuple[str, ...]
    """Key columns that name the list together."""
    by: str
    """Column of the output by which they are ranked."""
    part_rows: int = 1 << 20
    """Input rows of a part, about: what a task reads is less, since a unit keeps only the best rows of each list."""


def choose_top(config: Config, columns: Sequence[str], rows: int, per: str | None, by: str | None) -> Top:
    """The rows to keep, with defaults from the configuration: per request of a group, or what there is of the two; by the only
    formula.

    `columns` are those that the version gives. Raises ConfigError if a default is missing or `by` is none of them.
    """
    # A request is unique within its group only
    lists = tuple(name for name in (config.data.group, config.data.request) if name) if per is None else (per,)
    if not lists:
        raise ConfigError("--top needs a column that names the list of a row; set --per COLUMN, such as the user")
    scores = [f"score_{name}" for name in (config.score.formulas if config.score is not None else ())]
    if by is None:
        choices = scores or list(columns)
        if len(choices) != 1:
            raise ConfigError(f"--top ranks by one column; set --by to one of {quoted(choices)}")
        by = choices[0]
    if by not in columns:
        raise ConfigError(f"--by is `{by}`; expected one of {quoted(columns)}{did_you_mean(by, columns)}")
    return Top(rows, lists, by)


def parts_of(plan: ScorePlan, top: Top) -> dict[str, int]:
    """The number of parts of each day, by the folder of the day; the same whoever asks."""
    rows: dict[str, int] = {}
    for output in plan.outputs:
        rows[day_of(output)] = rows.get(day_of(output), 0) + output.rows
    return {day: max(1, -(-count // top.part_rows)) for day, count in rows.items()}


class BestRows:
    """The best rows of each list, in the order of the input, of rows that come in chunks: never more than twice as many."""

    def __init__(self, top: Top, schema: pa.Schema):
        self._top, self._kept, self._limit = top, schema.empty_table(), 1 << 16

    def add(self, rows: pa.Table) -> None:
        """Take rows that follow those before; rows with a null in the name of their list belong to none and are left out."""
        for name in self._top.per:
            rows = rows.filter(pc.is_valid(rows.column(name)))
        self._kept = pa.concat_tables([self._kept, rows])
        if len(self._kept) > self._limit:
            self._kept = best_rows(self._kept, self._top)
            self._limit = max(self._limit, 2 * len(self._kept))

    @property
    def kept(self) -> pa.Table:
        """The best of all rows so far."""
        return best_rows(self._kept, self._top)

    def parts(self, count: int) -> Iterator[pa.Table]:
        """The same in `count` parts by the hash of their list; some may be empty."""
        kept = self.kept
        lists = cross([to_int64(kept.column(name).combine_chunks()).to_numpy() for name in self._top.per])
        part = lists.view(np.uint64) % np.uint64(count)
        for number in range(count):
            yield kept.filter(pa.array(part == number))


def best_rows(rows: pa.Table, top: Top) -> pa.Table:
    """The best rows of each list, in their order; of equal ones the earlier, and a score that is no number is the worst."""
    places, rank = _ranked(rows, top)
    return rows.take(pa.array(np.sort(places[rank < top.rows])))


def ranked_rows(rows: pa.Table, top: Top) -> pa.Table:
    """The best rows list by list, the best first, with their rank."""
    places, rank = _ranked(rows, top)
    kept = rank < top.rows
    return rows.take(pa.array(places[kept])).append_column(RANK, pa.array(rank[kept] + 1, pa.int32()))


def _ranked(rows: pa.Table, top: Top) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows list by list, the best first, and the rank of each in its list, from 0 on."""
    lists = np.zeros(len(rows), np.int64)
    for name in top.per:
        encoded = pc.dictionary_encode(rows.column(name).combine_chunks())
        lists = lists * len(encoded.dictionary) + encoded.indices.to_numpy()
    score = np.nan_to_num(rows.column(top.by).to_numpy().astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order = np.lexsort((-score, lists))  # stable: equal scores stay in the order of the input
    lists = lists[order]
    starts = np.flatnonzero(np.diff(lists, prepend=-1))
    rank = np.arange(len(lists)) - np.repeat(starts, np.diff(starts, append=len(lists)))
    return order, rank


def check_list_column(schema: pa.Schema, top: Top) -> None:
    """Raise ConfigError if a column that names the lists holds neither integers nor strings."""
    for name in top.per:
        kind = schema.field(name).type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)
        if not (pa.types.is_integer(kind) or text):
            raise ConfigError(
                f"--per is `{name}`, a column of type {kind}; name a column of integers or strings, such as the user"
            )


def merged(plan: ScorePlan, top: Top, folder: OutputFolder, schema: pa.Schema) -> list[dict[str, Any]]:
    """Write the best rows of each day from those of its units; returns the path and rows of each file."""
    work = [{"day": day, "part": part} for day, count in parts_of(plan, top).items() for part in range(count)]
    units: dict[str, list[str]] = {}
    for output in plan.outputs:
        units.setdefault(day_of(output), []).append(output.name)
    running = _run.remote(work, _Merge(top, folder, schema, units))
    [made] = user_errors(ray.get(result) for result in [running])
    return sorted(made, key=lambda file: file["path"])


@ray.remote(num_cpus=0, max_retries=0)
def _run(work: list[dict[str, Any]], merge: "_Merge") -> list[dict[str, Any]]:
    """In its own process, which keeps what Ray Data prints about its tasks in Ray's log files."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        dataset = ray.data.from_items(work, override_num_blocks=len(work))
        dataset = dataset.map_batches(merge.task, batch_size=1, batch_format="pyarrow")
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        return [row for batch in user_errors(batches) for row in batch.to_pylist()]


@dataclass(frozen=True)
class _Merge:
    """Merges one part of a day: a task of Ray Data."""

    top: Top
    folder: OutputFolder
    schema: pa.Schema
    units: Mapping[str, Sequence[str]]
    """Names of the units of each day, in order."""

    def task(self, batch: pa.Table) -> pa.Table:
        """Merge the part in the single row of `batch`."""
        [work] = batch.to_pylist()
        path, rows = self.merge(work["day"], work["part"])
        return pa.table({"path": [path], "rows": [rows]})

    def merge(self, day: str, part: int) -> tuple[str, int]:
        """Write the best rows of a part of a day; returns the file and its rows."""
        best = BestRows(self.top, self.schema)
        for name in self.units[day]:
            best.add(self._read(name, part))
        final = ranked_rows(best.kept, self.top)
        name = f"{day}/top-{part:05d}.parquet"
        self.folder.make(day)
        file = self.folder.open_parquet(name, final.schema, plain=[field.name for field in final.schema])
        file.write(final)
        file.close()
        return name, file.rows

    def _read(self, name: str, part: int) -> pa.Table:
        path = self.folder.inside(f"{PARTS}/{name}")

        def read() -> pa.Table:
            with open_to_read(self.folder.filesystem, path) as stream:
                return pq.ParquetFile(stream).read_row_group(part).cast(self.schema)

        with self.folder.errors("read", f"{PARTS}/{name}"):
            return retry(read)


def day_of(output: Output) -> str:
    """The folder of its day."""
    return output.name.partition("/")[0]
