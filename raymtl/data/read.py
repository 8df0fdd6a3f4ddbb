"""The Ray Data source of a plan: reading tasks turn row groups into blocks, in the order of the epoch."""

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.contract import plain_type
from raymtl.data.dealer import DealtStream, deal_out
from raymtl.data.dealing import Deal, RowRange, owners
from raymtl.data.ids.id_map import MapFile
from raymtl.data.nested import flat_schema, stored_columns, unnested
from raymtl.data.partitions import with_values
from raymtl.data.requests import Requests, shuffled
from raymtl.data.slices import ONE_BYTE, cut
from raymtl.data.units import Fragment, Plan, group_rows
from raymtl.data.user_slice import UserSlice
from raymtl.errors import CheckpointError, DataError, StorageError
from raymtl.storage.filesystem import open_filesystem, open_to_read
from raymtl.storage.retry import PAUSES_S, is_of_storage, is_transient, to_user_error

Schedule = Sequence[tuple[int, int]]
"""What to read, in order: (epoch, unit of the plan). The epoch only changes how rows are shuffled."""

_MEASURED_ROWS = 4096
_FALLBACK_ROW_BYTES = 300.0
_LOWEST_PRIORITY = 19
_TOO_LONG = "Nested data conversions not implemented for chunked array outputs"
"""pyarrow's words for lists whose strings take more than 2 GiB in one batch."""
_OBJECT_STORE_SHARE = 0.5


@dataclass(frozen=True)
class Input:
    """The rows that a run reads, and how it reads them."""

    plan: Plan
    evaluation: bool = False
    """Evaluation also reads scenario, group and truth, in file order."""
    maps: Mapping[str, MapFile | None] = field(default_factory=dict)
    """The saved map of each `map` table."""
    users: UserSlice | None = None
    """Only the rows of these users; None: all rows."""


def row_seed(config: Config, evaluation: bool) -> int | None:
    """Seed of the shuffle of rows; None: file order, as always in an evaluation."""
    shuffle = config.data.shuffle
    return shuffle.seed if shuffle.mode == "rows" and not evaluation else None


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of a fragment."""

    fragment: Fragment
    number: int
    """Of the fragment in its unit."""
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


class SlicesDatasource(Datasource):
    """What one group of workers reads of a schedule, as slices: each block holds rows of one unit, and is cut into one slice per
    worker of the group."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        config: Config,
        maker: BlockMaker,
        row_bytes: float,
        deal: Deal,
        group: int,
    ):
        super().__init__()
        self._plan, self._schedule = plan, schedule
        self._maker, self._row_bytes = maker, row_bytes
        self._block_rows = config.data.block_rows
        self._shuffle_seed = row_seed(config, maker.evaluation)
        self._together = config.data.by_request
        self._ranges = deal.ranges(group)
        self._members, self._step_rows = len(deal.groups[group]), deal.local_rows(deal.groups[group])

    def get_name(self) -> str:
        return "ReadUnits"

    def estimate_inmemory_data_size(self) -> int:
        return int(sum(r.stop - r.start for r in self._ranges) * self._row_bytes)

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        tasks = []
        maker = ray.put(self._maker)  # once, not once per task: it holds the complete configuration
        for row_range in self._ranges:
            epoch, number = self._schedule[row_range.place]
            unit, rows_before = self._plan.units[number], row_range.rows_before
            for pieces in _chunks(_pieces(unit.fragments, row_range), self._block_rows):
                seeds = [self._seed(epoch, number, piece) for piece in pieces]
                cutting = _Cutting(rows_before, self._step_rows, self._members, self._together)
                read = _ReadChunk(
                    self._plan.root, pieces, seeds, row_range.place, unit.tasks, maker, self._block_rows, cutting
                )
                rows = sum(piece.rows for piece in pieces)
                paths = [piece.fragment.path for piece in pieces]
                tasks.append(ReadTask(read, BlockMetadata(None, int(rows * self._row_bytes), paths, None)))
                rows_before += rows
        # A group without rows: its workers get an empty stream
        return tasks or [ReadTask(_nothing, BlockMetadata(0, 0, [], None))]

    def _seed(self, epoch: int, number: int, piece: _Piece) -> list[int] | None:
        if self._shuffle_seed is None:
            return None
        seed = [self._shuffle_seed, epoch, number, piece.number]
        return [*seed, piece.start] if piece.start else seed

    def task_count(self) -> int:
        """Number of reading tasks."""
        units = self._plan.units
        return max(
            1,
            sum(
                len(_chunks(_pieces(units[self._schedule[r.place][1]].fragments, r), self._block_rows))
                for r in self._ranges
            ),
        )


def _nothing() -> Iterable[pa.Table]:
    return ()


def _pieces(fragments: Sequence[Fragment], row_range: RowRange) -> list[_Piece]:
    """The rows of a unit that are in a range."""
    pieces, before = [], 0
    for number, fragment in enumerate(fragments):
        start, stop = max(row_range.start - before, 0), min(row_range.stop - before, fragment.rows)
        if start < stop:
            pieces.append(_Piece(fragment, number, start, stop))
        before += fragment.rows
    return pieces


def _chunks(pieces: Sequence[_Piece], rows: int) -> list[list[_Piece]]:
    """Pieces gathered, in order, until a chunk has `rows` rows: a task per tiny file would cost more than reading the file."""
    chunks: list[list[_Piece]] = []
    gathered = rows
    for piece in pieces:
        if gathered >= rows:
            chunks.append([])
            gathered = 0
        chunks[-1].append(piece)
        gathered += piece.rows
    return chunks


@dataclass(frozen=True)
class _Cutting:
    """How a reading task cuts its rows into slices."""

    rows_before: int
    """Rows of the span that the group has read before this task."""
    step_rows: int
    """Rows of the group in a full step."""
    members: int
    """Workers of the group."""
    together: bool
    """Whether a worker's rows of a step stand together: those of a request then mostly go to one worker."""


class _ReadChunk:
    """The body of one reading task: some fragments of one unit."""

    def __init__(
        self,
        root: str,
        pieces: list[_Piece],
        seeds: list[list[int] | None],
        unit: int,
        tasks: tuple[str, ...] | None,
        maker: ray.ObjectRef,
        block_rows: int,
        cutting: _Cutting,
    ):
        """`unit`: position of the unit in the schedule, for the block's column of that name."""
        self._root, self._pieces, self._seeds, self._unit, self._tasks = root, pieces, seeds, unit, tasks
        self._maker, self._block_rows, self._cutting = maker, block_rows, cutting

    def __call__(self) -> Iterable[pa.Table]:
        # Readers yield to trainers on the same cores: a trainer that waits for rows leaves them the core
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
        maker: BlockMaker = ray.get(self._maker)
        # Of a slice of users fewer rows are left than planned, so `rows_before` is only about right: the slices are as even
        rows_before = self._cutting.rows_before
        for piece, seed in zip(self._pieces, self._seeds, strict=True):
            fragment = piece.fragment
            random = None if seed is None else np.random.default_rng(seed)
            raws = read_requests(
                self._root, fragment, maker.raw_columns(), self._block_rows, slice(piece.start, piece.stop)
            )
            for raw, first_row in raws:
                block = maker(raw, Place(fragment.path, first_row), self._unit, self._tasks)
                order = None if random is None else shuffled(block, random)
                cutting = self._cutting
                owner = owners(rows_before, len(block), cutting.step_rows, cutting.members, cutting.together)
                yield from cut(block, order, owner, cutting.members)
                rows_before += len(block)


def read_fragment(
    root: str, fragment: Fragment, columns: list[str], rows: int, within: slice = slice(None)
) -> Iterator[tuple[pa.Table, int]]:
    """Raw tables of at most `rows` rows with the given columns, each with the row of the file where it starts; with `within`
    only these rows of the fragment. The rows of nested files are their impressions, with the columns of their request.

    Failed reads are retried, and no row is yielded twice. Raises StorageError if the storage keeps failing, and DataError if the
    file is damaged or has changed since the plan was made.
    """
    for raw, row in read_requests(root, fragment, columns, rows, within):
        yield raw.per_row(columns) if isinstance(raw, Requests) else raw, row


def read_requests(
    root: str, fragment: Fragment, columns: list[str], rows: int, within: slice = slice(None)
) -> Iterator[tuple[pa.Table | Requests, int]]:
    """As `read_fragment`, but the rows of nested files by their requests."""
    filesystem, _ = open_filesystem(root)
    start, stop, _ = within.indices(fragment.rows)
    done = fragment.first_row + start
    pauses = iter(PAUSES_S)
    while True:
        row = fragment.first_row + start
        try:
            for part in _tables(filesystem, fragment, columns, rows, start, stop):
                if row + part.size > done:
                    if len(found := part.after(done - row)):  # places of requests without impressions have no rows
                        yield found, done
                    done = row + part.size
                row += part.size
        except FileNotFoundError as error:
            raise DataError(_changed(fragment)) from error
        except (pa.ArrowException, OSError) as error:
            if rows > 1 and _TOO_LONG in str(error):
                rows //= 2
                continue
            if isinstance(error, OSError) and is_of_storage(error):
                if is_transient(error):
                    if (pause := next(pauses, None)) is not None:
                        time.sleep(pause)
                        continue
                    error.add_note(f"tried {len(PAUSES_S) + 1} times")
                raise to_user_error(f"read `{fragment.path}` from row {done} on", error) from error
            raise DataError(
                f"{fragment.path}: cannot be read from row {done} on ({str(error).splitlines()[0]}); write the file again"
                + (", in another encoding" if "ot yet implemented" in str(error) else "")
            ) from error
        if (
            done != fragment.first_row + stop
        ):  # pyarrow stops at a page without values, as writers with tiny pages leave them
            raise DataError(
                f"{fragment.path}: cannot be read from row {done} on (its pages end before the {fragment.first_row + stop} rows "
                "of its footer); write the file again, with larger pages"
            )
        return


@dataclass(frozen=True)
class _Part:
    """Consecutive rows of a fragment."""

    raw: pa.Table | Requests
    size: int
    """Their number, of nested rows that of their places."""
    places: np.ndarray | None = None
    """The place of each nested row, counted from the first of the part."""

    def after(self, done: int) -> pa.Table | Requests:
        """The rows that follow the first `done`."""
        if isinstance(self.raw, Requests):
            assert self.places is not None
            return self.raw.slice(int(np.searchsorted(self.places, done)), len(self.raw)) if done else self.raw
        return self.raw.slice(done)


def _tables(
    filesystem: pafs.FileSystem, fragment: Fragment, columns: list[str], rows: int, start: int, stop: int
) -> Iterator[_Part]:
    with open_to_read(filesystem, fragment.path) as stream:
        metadata = pq.read_metadata(stream)
        schema = metadata.schema.to_arrow_schema()
        if fragment.impressions:
            schema = flat_schema(schema, fragment.impressions)
        # Otherwise a file replaced since the plan was made would silently be read twice or incompletely
        stored = [c for c in columns if c in schema.names or c not in dict(fragment.values)]
        if max(fragment.row_groups) >= metadata.num_row_groups or not set(stored) <= set(schema.names):
            raise DataError(_changed(fragment))
        # Pages without a checksum are not verified: pyarrow writes checksums only on request, Spark always does
        file = pq.ParquetFile(
            stream,
            metadata=metadata,
            read_dictionary=_dictionary_columns(metadata, fragment, columns),
            pre_buffer=True,
            page_checksum_verification=True,
        )
        row_groups, row = _overlapping(metadata, fragment, start, stop)
        if fragment.impressions:
            yield from _nested(file, fragment, columns, row_groups, rows, row, start, stop)
            return
        for batch in file.iter_batches(rows, row_groups=row_groups, columns=stored, use_threads=False):
            outside = max(start - row, 0)
            wanted = batch.slice(outside, max(min(stop - row, len(batch)) - outside, 0))
            row += len(batch)
            if len(wanted):
                plain = pa.Table.from_batches([wanted])
                if stored:  # a table of arrays has no rows without a column
                    plain = pa.table([_plain(column) for column in wanted.columns], names=wanted.schema.names)
                yield _Part(with_values(plain, fragment.values, columns, fragment.path), len(wanted))


def _nested(
    file: pq.ParquetFile,
    fragment: Fragment,
    columns: list[str],
    row_groups: list[int],
    rows: int,
    place: int,
    start: int,
    stop: int,
) -> Iterator[_Part]:
    """The rows of nested files, in parts of at most `rows` places; `place` is the first place of the row groups."""
    impressions, path = fragment.impressions, fragment.path
    stored = stored_columns(file.metadata, impressions, columns)
    requests = sum(file.metadata.row_group(group).num_rows for group in row_groups)
    impression_count = sum(group_rows(file.metadata, group, impressions) for group in row_groups)
    batch_rows = max(1, rows * requests // max(impression_count, 1))
    record = sum(file.metadata.row_group(group).num_rows for group in range(row_groups[0]))
    for batch in file.iter_batches(batch_rows, row_groups=row_groups, columns=stored, use_threads=False):
        found, places, size = unnested(pa.Table.from_batches([batch]), impressions, path, record)
        users = pa.table([_plain(_one(c)) for c in found.users.columns], names=found.users.column_names)
        flat = pa.table([_plain(_one(c)) for c in found.rows.columns], names=found.rows.column_names)
        found = Requests(flat, with_values(users, fragment.values, columns, path), found.owner)
        first, last = max(start - place, 0), max(min(stop - place, size), 0)
        for begin in range(first, last, rows):
            end = min(begin + rows, last)
            here, after = np.searchsorted(places, [begin, end])
            yield _Part(found.slice(int(here), int(after)), end - begin, places[here:after] - begin)
        place += size
        record += len(batch)


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else combined.chunk(0)


def _plain(column: pa.Array) -> pa.Array:
    """The column in its plain type."""
    kind = plain_type(column.type)
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        # pyarrow's own cast of a large_list_view yields too few offsets
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        column = pa.LargeListArray.from_arrays(pa.array(offsets), column.flatten(), mask=column.is_null())
    return column if column.type == kind else column.cast(kind)


def _dictionary_columns(metadata: pq.FileMetaData, fragment: Fragment, columns: Collection[str]) -> list[str]:
    """The columns of strings that are read dictionary-encoded, so that each value is hashed once.

    pyarrow reads no dictionary out of the encodings DELTA_BYTE_ARRAY and DELTA_LENGTH_BYTE_ARRAY, which Spark and DuckDB write.
    """
    leaves = [metadata.schema.column(n) for n in range(metadata.num_columns)]
    strings = [n for n, leaf in enumerate(leaves) if leaf.physical_type == "BYTE_ARRAY" and leaf.path in columns]
    groups = [metadata.row_group(n) for n in fragment.row_groups]
    return [
        leaves[n].path
        for n in strings
        if not any(encoding.startswith("DELTA_") for group in groups for encoding in group.column(n).encodings)
    ]


def _overlapping(metadata: pq.FileMetaData, fragment: Fragment, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups of a fragment that have rows in a range, and the rows of the fragment before them."""
    ends = np.cumsum([group_rows(metadata, group, fragment.impressions) for group in fragment.row_groups])
    if ends[-1] != fragment.rows:
        raise DataError(_changed(fragment))
    first, last = np.searchsorted(ends, [start, stop - 1], side="right")
    return list(fragment.row_groups[first : last + 1]), int(ends[first - 1]) if first else 0


def _changed(fragment: Fragment) -> str:
    return f"{fragment.path}: the file was replaced or removed after the run started; do not change the days of a running run"


def measured_row_bytes(plan: Plan, maker: BlockMaker) -> float:
    """Bytes of one row of a block, measured on the first rows of the plan."""
    fragment = plan.units[0].fragments[0]
    try:
        raw, row = next(read_requests(plan.root, fragment, maker.raw_columns(), _MEASURED_ROWS, slice(_MEASURED_ROWS)))
        block = maker(raw, Place(fragment.path, row), 0)
        return block.nbytes / len(block) if len(block) else _FALLBACK_ROW_BYTES
    except (DataError, CheckpointError, StorageError):
        # Only one worker measures; the reading task hits the same error and reports it to all workers
        return _FALLBACK_ROW_BYTES


def start_reader() -> None:
    """Start a process that imports this module, and then serves the first reading task."""
    _import_this.remote()


@ray.remote(num_cpus=0, max_retries=0)
def _import_this() -> None:
    pass


def stream(
    source: Input,
    schedule: Schedule,
    config: Config,
    *,
    workers: int,
    read_tasks: int,
    task_cpus: float = 1,
    meetings: Sequence[int] = (),
    dealers: Sequence[Any],
) -> list[DealtStream]:
    """The streams of the groups of workers, each with an iterator of slices per worker, over the units of `schedule`, at whose
    positions `meetings` all workers meet: every row of the input goes to exactly one worker, in schedule order.
    `data.slices.unpacked` opens the slices.

    Each group has a dataset of its own, and its dealer in `dealers`. `read_tasks` run at a time, each of which reserves
    `task_cpus`.
    """
    deal = deal_of(source.plan, schedule, meetings, config, workers)
    maker = BlockMaker(config, source.evaluation, source.maps, source.users)
    row_bytes = measured_row_bytes(source.plan, maker)
    count = len(deal.groups)
    return [
        _stream(
            SlicesDatasource(source.plan, schedule, config, maker, row_bytes, deal, group),
            config,
            dealers[group],
            len(deal.groups[group]),
            max(1, read_tasks // count),
            # Otherwise a group could hold the last CPU while its workers wait for those of another
            task_cpus * min(1.0, read_tasks / count),
            count,
        )
        for group in range(count)
    ]


def _stream(
    source: SlicesDatasource,
    config: Config,
    dealer: Any,
    members: int,
    read_tasks: int,
    task_cpus: float,
    groups: int,
) -> DealtStream:
    context = DataContext.get_current().copy()
    context.target_max_block_size = ONE_BYTE
    context.execution_options.preserve_order = True
    context.execution_options.label_selector = dict(config.data.read_labels) or None
    if groups > 1:  # each dataset would take what one may take
        context.override_object_store_memory_limit_fraction = _OBJECT_STORE_SHARE / groups
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        tasks = source.task_count()
        dataset = ray.data.read_datasource(
            source,
            concurrency=max(1, min(read_tasks, tasks)),
            override_num_blocks=tasks,
            num_cpus=task_cpus,
        )
        return deal_out(dataset, dealer, members)


def deal_of(plan: Plan, schedule: Schedule, meetings: Sequence[int], config: Config, workers: int) -> Deal:
    """How the rows of a schedule are dealt to so many workers."""
    return Deal(
        [plan.units[number].rows for _, number in schedule],
        meetings,
        batch_size=config.train.rows_per_step,
        workers=workers,
        block_rows=config.data.block_rows,
    )
