"""The Ray Data source of a plan: reading tasks turn row groups into blocks, in the order of the epoch."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.contract import is_string_column
from raymtl.data.ids.id_map import MapFile
from raymtl.data.units import Fragment, Plan
from raymtl.data.user_slice import UserSlice
from raymtl.errors import CheckpointError, DataError, StorageError
from raymtl.storage.filesystem import open_filesystem, open_to_read
from raymtl.storage.retry import PAUSES_S, is_of_storage, is_transient, to_user_error

Schedule = Sequence[tuple[int, int]]
"""What to read, in order: (epoch, unit of the plan). The epoch only changes how rows are shuffled."""

_MEASURED_ROWS = 4096
_FALLBACK_ROW_BYTES = 300.0
_LOWEST_PRIORITY = 19


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


class UnitsDatasource(Datasource):
    """The units of a schedule, each read by one or more tasks; each block holds rows of one unit."""

    def __init__(self, plan: Plan, schedule: Schedule, config: Config, maker: BlockMaker, row_bytes: float):
        super().__init__()
        self._plan, self._schedule = plan, schedule
        self._maker, self._row_bytes = maker, row_bytes
        self._block_rows = config.data.block_rows
        self._shuffle_seed = row_seed(config, maker.evaluation)

    def get_name(self) -> str:
        return "ReadUnits"

    def estimate_inmemory_data_size(self) -> int:
        return int(self._plan.rows * self._row_bytes)

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        tasks = []
        maker = ray.put(self._maker)  # once, not once per task: it holds the complete configuration
        for place, (pass_number, number) in enumerate(self._schedule):
            for chunk in _task_chunks(self._plan.units[number].fragments, self._block_rows):
                seeds = [
                    None if self._shuffle_seed is None else [self._shuffle_seed, pass_number, number, n]
                    for n, _ in chunk
                ]
                fragments = [f for _, f in chunk]
                tasks_counted = self._plan.units[number].tasks
                read = _ReadChunk(self._plan.root, fragments, seeds, place, tasks_counted, maker, self._block_rows)
                rows = sum(f.rows for f in fragments)
                metadata = BlockMetadata(rows, int(rows * self._row_bytes), [f.path for f in fragments], None)
                tasks.append(ReadTask(read, metadata))
        return tasks

    def task_count(self) -> int:
        """Number of reading tasks."""
        return sum(len(_task_chunks(self._plan.units[n].fragments, self._block_rows)) for _, n in self._schedule)


def _task_chunks(fragments: Sequence[Fragment], rows: int) -> list[list[tuple[int, Fragment]]]:
    """Numbered fragments gathered, in order, until a chunk has `rows` rows: a task per tiny file would cost more than reading
    the file."""
    chunks: list[list[tuple[int, Fragment]]] = []
    gathered = rows
    for numbered in enumerate(fragments):
        if gathered >= rows:
            chunks.append([])
            gathered = 0
        chunks[-1].append(numbered)
        gathered += numbered[1].rows
    return chunks


class _ReadChunk:
    """The body of one reading task: some fragments of one unit."""

    def __init__(
        self,
        root: str,
        fragments: list[Fragment],
        seeds: list[list[int] | None],
        unit: int,
        tasks: tuple[str, ...] | None,
        maker: ray.ObjectRef,
        block_rows: int,
    ):
        self._root, self._fragments, self._seeds, self._unit, self._tasks = root, fragments, seeds, unit, tasks
        self._maker, self._block_rows = maker, block_rows

    def __call__(self) -> Iterable[pa.Table]:
        # Readers yield to trainers on the same cores: a trainer that waits for rows leaves them the core
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
        maker: BlockMaker = ray.get(self._maker)
        for fragment, seed in zip(self._fragments, self._seeds, strict=True):
            random = None if seed is None else np.random.default_rng(seed)
            for raw, first_row in read_fragment(self._root, fragment, maker.raw_columns(), self._block_rows):
                block = maker(raw, Place(fragment.path, first_row), self._unit, self._tasks)
                if random is not None:
                    block = block.take(pa.array(random.permutation(len(block))))
                yield block


def read_fragment(root: str, fragment: Fragment, columns: list[str], rows: int) -> Iterator[tuple[pa.Table, int]]:
    """Raw tables of at most `rows` rows with the given columns, each with the row of the file where it starts.

    Failed reads are retried, and no row is yielded twice. Raises StorageError if the storage keeps failing, and DataError if the
    file is damaged or has changed since the plan was made.
    """
    filesystem, _ = open_filesystem(root)
    done = fragment.first_row
    for pause in (*PAUSES_S, None):
        row = fragment.first_row
        try:
            for table in _tables(filesystem, fragment, columns, rows):
                if row == done:
                    yield table, row
                    done += len(table)
                row += len(table)
        except FileNotFoundError as error:
            raise DataError(_changed(fragment)) from error
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and is_of_storage(error):
                if is_transient(error):
                    if pause is not None:
                        time.sleep(pause)
                        continue
                    error.add_note(f"tried {len(PAUSES_S) + 1} times")
                raise to_user_error(f"read `{fragment.path}` from row {done} on", error) from error
            raise DataError(
                f"{fragment.path}: cannot be read from row {done} on ({str(error).splitlines()[0]}); write the file again"
            ) from error
        if done != fragment.first_row + fragment.rows:
            raise DataError(_changed(fragment))
        return


def _tables(filesystem: pafs.FileSystem, fragment: Fragment, columns: list[str], rows: int) -> Iterator[pa.Table]:
    with open_to_read(filesystem, fragment.path) as stream:
        metadata = pq.read_metadata(stream)
        schema = metadata.schema.to_arrow_schema()
        # Otherwise a file replaced since the plan was made would silently be read twice or incompletely
        if max(fragment.row_groups) >= metadata.num_row_groups or not set(columns) <= set(schema.names):
            raise DataError(_changed(fragment))
        strings = [c for c in columns if is_string_column(schema, c)]
        # Pages without a checksum are not verified: pyarrow writes checksums only on request, Spark always does
        file = pq.ParquetFile(
            stream, metadata=metadata, read_dictionary=strings, pre_buffer=True, page_checksum_verification=True
        )
        for batch in file.iter_batches(rows, row_groups=list(fragment.row_groups), columns=columns, use_threads=False):
            yield pa.Table.from_batches([batch])


def _changed(fragment: Fragment) -> str:
    return f"{fragment.path}: the file was replaced or removed after the run started; do not change the days of a running run"


def measured_row_bytes(plan: Plan, maker: BlockMaker) -> float:
    """Bytes of one row of a block, measured on the first rows of the plan."""
    fragment = plan.units[0].fragments[0]
    first = replace(fragment, row_groups=fragment.row_groups[:1])
    try:
        raw, row = next(read_fragment(plan.root, first, maker.raw_columns(), _MEASURED_ROWS))
        block = maker(raw, Place(fragment.path, row), 0)
        return block.nbytes / len(block) if len(block) else _FALLBACK_ROW_BYTES
    except (DataError, CheckpointError, StorageError):
        # Only one worker measures; the reading task hits the same error and reports it to all workers
        return _FALLBACK_ROW_BYTES


def stream(
    source: Input, schedule: Schedule, config: Config, *, workers: int, read_tasks: int, task_cpus: float = 1
) -> list[ray.data.DataIterator]:
    """One iterator of blocks per worker over the units of `schedule`: every row of the input goes to exactly one of them, in
    schedule order.

    Each block goes to the worker with the fewest rows so far. None is truncated to equalize the workers (`equal=False`): the
    workers agree on their steps themselves (`training/synced_loader.py`), so no row is left out.
    `read_tasks` run at a time, each of which reserves `task_cpus`.
    """
    context = DataContext.get_current().copy()
    maker = BlockMaker(config, source.evaluation, source.maps, source.users)
    row_bytes = measured_row_bytes(source.plan, maker)
    # A chunk of `block_rows` rows must become one block: Ray merges chunks below this target and splits them above 1.5 of it
    context.target_max_block_size = max(1, int(0.8 * config.data.block_rows * row_bytes))
    context.execution_options.preserve_order = True
    context.execution_options.label_selector = dict(config.data.read_labels) or None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        units = UnitsDatasource(source.plan, schedule, config, maker, row_bytes)
        tasks = units.task_count()
        dataset = ray.data.read_datasource(
            units,
            concurrency=max(1, min(read_tasks, tasks)),
            override_num_blocks=tasks,
            num_cpus=task_cpus,
        )
        return dataset.streaming_split(workers, equal=False)
