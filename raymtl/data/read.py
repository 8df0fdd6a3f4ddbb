"""The Ray Data source of a plan: reading tasks turn row groups into blocks, in the order of the epoch."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.dealer import DealtStream, deal_out
from raymtl.data.dealing import Deal, RowRange, owners
from raymtl.data.fragments import read_requests
from raymtl.data.ids.id_map import MapFile
from raymtl.data.requests import shuffled
from raymtl.data.slices import ONE_BYTE, cut
from raymtl.data.units import Counted, Fragment, Plan
from raymtl.data.user_slice import UserSlice
from raymtl.errors import CheckpointError, DataError, StorageError

Schedule = Sequence[tuple[int, int]]
"""What to read, in order: (epoch, unit of the plan). The epoch only changes how rows are shuffled."""

_MEASURED_ROWS = 4096
_FALLBACK_ROW_BYTES = 300.0
_LOWEST_PRIORITY = 19
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
        self._together = config.data.by_request or bool(config.list_columns())
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
                    self._plan.root, pieces, seeds, row_range.place, unit.counted, maker, self._block_rows, cutting
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
        counted: Counted,
        maker: ray.ObjectRef,
        block_rows: int,
        cutting: _Cutting,
    ):
        """`unit`: position of the unit in the schedule, for the block's column of that name."""
        self._root, self._pieces, self._seeds, self._unit, self._counted = root, pieces, seeds, unit, counted
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
                block = maker(raw, Place(fragment.path, first_row, fragment.day), self._unit, self._counted)
                order = None if random is None else shuffled(block, random)
                cutting = self._cutting
                owner = owners(rows_before, len(block), cutting.step_rows, cutting.members, cutting.together)
                yield from cut(block, order, owner, cutting.members)
                rows_before += len(block)


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
