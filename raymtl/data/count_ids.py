"""Lookups of each ID of the `map` tables, and the last day with one: one pass over a plan with Ray Data.

Memory: a reading task holds the counts of its own rows, at most `_TASK_ROWS`; the calling process holds those of all distinct
IDs of all `map` tables, some 20 bytes per ID for the result and three times that while it merges.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from raymtl.config.features import IdsFeature, SequenceFeature, Tableless, columns_of
from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.data.fragments import read_requests
from raymtl.data.ids.counts import IdCounts
from raymtl.data.ids.hashing import to_int64
from raymtl.data.requests import Requests, by_request
from raymtl.data.rules import one_array
from raymtl.data.scan import scan
from raymtl.data.single_ids import single_ids
from raymtl.data.units import Fragment, Plan

_TASK_ROWS = 1_000_000
_TASKS_PER_CPU = 4
_TASK_BYTES = 1_000_000  # a guess: the number of IDs of a task is unknown before it runs
_EPOCH = dt.date(1970, 1, 1)

Progress = Callable[[int, int], None]
"""Called with the rows done and the total rows."""


class Tally:
    """Counts added chunk by chunk; chunks of similar size are merged, so that an ID moves log(chunks) times."""

    def __init__(self) -> None:
        self._chunks: list[IdCounts] = []

    def add(self, chunk: IdCounts) -> None:
        """Add one chunk."""
        self._chunks.append(chunk)
        # Each chunk stays more than twice as long as the next, so that together they are less than twice the first
        while len(self._chunks) > 1 and len(self._chunks[-2]) <= 2 * len(self._chunks[-1]):
            last = self._chunks.pop()
            self._chunks.append(last.merge(self._chunks.pop()))

    def total(self) -> IdCounts:
        """The counts of all chunks."""
        while len(self._chunks) > 1:
            last = self._chunks.pop()
            self._chunks.append(last.merge(self._chunks.pop()))
        return self._chunks[0] if self._chunks else IdCounts.of(np.empty(0, np.int64), 0)


def count_ids(config: Config, plan: Plan, read_tasks: int, progress: Progress | None = None) -> dict[str, IdCounts]:
    """The counts of every `map` table over the rows of a plan: all features that share it together, lists as they are looked
    up (cut to `max_length`), nulls left out. Runs on `read_tasks` CPUs of the connected Ray cluster."""
    tables = config.map_tables()
    if not tables:
        return {}
    tallies = {table: Tally() for table in tables}
    done = 0
    most = min(_TASK_ROWS, max(config.data.block_rows, plan.rows // (_TASKS_PER_CPU * read_tasks)))
    chunks = _task_chunks([f for unit in plan.units for f in unit.fragments], most)
    bodies = [_CountTask(config, plan.root, chunk) for chunk in chunks]
    for block in scan("CountIds", bodies, _TASK_BYTES, read_tasks, config.data.read_labels, in_order=False):
        for row in range(len(block)):
            for table, tally in tallies.items():
                tally.add(IdCounts(*(_value(block, f"{part}:{table}", row) for part in ("ids", "counts", "last_seen"))))
            done += block.column("rows")[row].as_py()
        if progress is not None:
            progress(done, plan.rows)
    return {table: tally.total() for table, tally in tallies.items()}


def count_raw(config: Config, raw: pa.Table | Requests, day: int, tallies: Mapping[str, Tally]) -> None:
    """Add the lookups of raw rows of one day to the tallies of its tables; a feature of requests is looked up once for each."""
    counted = counted_features(config, tallies)
    of_requests = set(config.request_features()) if isinstance(raw, Requests) else set()
    columns = {c for name in counted if name not in of_requests for c in columns_of(name, config.features)}
    rows = raw.per_row(sorted(columns)) if isinstance(raw, Requests) else raw
    for name in counted:
        feature, tally = config.features[name], tallies[config.table_of(name)]
        table = raw.users if isinstance(raw, Requests) and name in of_requests else rows
        if isinstance(feature, IdsFeature | SequenceFeature):
            flat, _ = rules.cut_lists(*rules.list_parts(one_array(table, feature.column or name, "ids")), feature)
            ids = to_int64(flat)
        else:  # a value that breaks a rule ends the reading
            ids = single_ids(table, name, config.features, lambda *broken: None).drop_null()
        tally.add(IdCounts.of(rules.int64_values(ids), day))


def counted_features(config: Config, tables: Collection[str]) -> list[str]:
    """The features that look up some tables."""
    return [n for n, f in config.features.items() if not isinstance(f, Tableless) and config.table_of(n) in tables]


class _CountTask:
    """The body of one reading task; it yields one row: the rows that it read and the counts of each table."""

    def __init__(self, config: Config, root: str, fragments: list[Fragment]):
        self._config, self._root, self._fragments = config, root, fragments

    def __call__(self) -> Iterable[pa.Table]:
        config = self._config
        tallies = {table: Tally() for table in config.map_tables()}
        counted = counted_features(config, tallies)
        names = dict.fromkeys(column for n in counted for column in columns_of(n, config.features))
        shared = {c for n in config.request_features() if n in counted for c in columns_of(n, config.features)}
        request = config.data.request if shared else None
        columns = [*names, *([request] if request and request not in names else [])]
        for fragment in self._fragments:
            day = (fragment.day - _EPOCH).days
            for raw, _ in read_requests(self._root, fragment, columns, config.data.block_rows):
                if request and isinstance(raw, pa.Table):
                    raw = by_request(raw, request, sorted(shared))
                count_raw(config, raw, day, tallies)
        row: dict[str, pa.Array] = {"rows": pa.array([sum(f.rows for f in self._fragments)])}
        for table, tally in tallies.items():
            for part, values in vars(tally.total()).items():
                offsets = pa.array([0, len(values)], pa.int64())
                row[f"{part}:{table}"] = pa.LargeListArray.from_arrays(offsets, pa.array(values))
        yield pa.table(row)


def _value(block: pa.Table, column: str, row: int) -> np.ndarray:
    return block.column(column)[row].values.to_numpy()


def _task_chunks(fragments: Sequence[Fragment], rows: int) -> Iterator[list[Fragment]]:
    """Fragments gathered, in order, until a chunk has `rows` rows."""
    chunk: list[Fragment] = []
    for fragment in fragments:
        chunk.append(fragment)
        if sum(f.rows for f in chunk) >= rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
