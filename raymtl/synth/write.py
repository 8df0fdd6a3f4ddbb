"""`write_logs`: a synthetic data set, streamed to files."""

import itertools
import json
import multiprocessing
import queue
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.writing import OutputFolder, ParquetFile
from raymtl.errors import DataError
from raymtl.synth.calibrate import calibrate
from raymtl.synth.columns import IMPRESSIONS, PLAIN, Columns, flat, label_columns, nested
from raymtl.synth.config import write_synth_config
from raymtl.synth.shard import Shard
from raymtl.synth.spec import SynthSpec, SynthSummary

Progress = Callable[[int, int], None]
"""Called from time to time with (rows written, total rows)."""
_MARKER = "_synth.json"


def write_logs(spec: SynthSpec, out: str, processes: int = 1, progress: Progress | None = None) -> SynthSummary:
    """Write the logs of `spec` to the folder or URL `out`, and `out/config.yaml`, which trains on them.

    Memory depends on `spec.users` and `spec.items`, not on the rows. The rows are the same for any number of `processes`, of
    which at most `spec.shards` work. An interrupted run can be restarted in the same folder; `config.yaml` is written last.
    Raises DataError if `out` contains anything other than logs of this spec.
    """
    start = time.monotonic()
    folder = OutputFolder.open(out)
    _claim(folder, spec)
    intercepts = calibrate(spec)
    report = progress or (lambda done, total: None)
    if min(processes, spec.shards) > 1:
        parts = _in_processes(spec, folder, intercepts, processes, report)
    else:
        parts = _in_line(spec, folder, intercepts, report)
    labels = label_columns(spec)
    tally = sum(parts, _Tally(labels))
    config = write_synth_config(spec, folder)
    observed = np.maximum(tally.observed, 1)
    return SynthSummary(
        path=folder.path,
        config=config,
        rows=tally.rows,
        files=tally.files,
        bytes=tally.bytes,
        seconds=time.monotonic() - start,
        label_means=dict(zip(labels, (tally.sums / observed).tolist(), strict=True)),
        label_nulls=dict(zip(labels, (1 - tally.observed / max(tally.rows, 1)).tolist(), strict=True)),
    )


@dataclass
class _Tally:
    """Counts of what was written."""

    labels: tuple[str, ...]
    rows: int = 0
    files: int = 0
    bytes: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(1))
    """Per label."""
    observed: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def __add__(self, other: "_Tally") -> "_Tally":
        return _Tally(
            self.labels,
            self.rows + other.rows,
            self.files + other.files,
            self.bytes + other.bytes,
            self.sums + other.sums,
            self.observed + other.observed,
        )

    def count(self, table: pa.Table) -> None:
        """Add a table as it is written."""
        table = flat(table) if IMPRESSIONS in table.column_names else table
        self.rows += table.num_rows
        self.sums = self.sums + np.array([pc.sum(table[name]).as_py() or 0.0 for name in self.labels])
        self.observed = self.observed + np.array([table.num_rows - table[name].null_count for name in self.labels])


def _claim(folder: OutputFolder, spec: SynthSpec) -> None:
    """Check that the folder is empty or has logs of the same spec, and mark it."""
    found = folder.read_text(_MARKER)
    if found is not None:
        # a key that an older version did not write has its default
        old, new = {**SynthSpec().model_dump(mode="json"), **json.loads(found)}, spec.model_dump(mode="json")
        if old == new:
            return
        differs = ", ".join(f"{k} {old.get(k)!r} instead of {new[k]!r}" for k in new if old.get(k) != new[k])
        raise DataError(
            f"`{folder.path}` has logs generated with other settings ({differs}); delete the folder or choose another one"
        )
    if others := folder.files():
        raise DataError(
            f"`{folder.path}` is not empty (`{next(iter(others))}`); choose a new folder for synthetic logs"
        )
    folder.write(_MARKER, json.dumps(spec.model_dump(mode="json"), indent=1))


def _in_line(spec: SynthSpec, folder: OutputFolder, intercepts: np.ndarray, report: Progress) -> list[_Tally]:
    total, done, tallies = _rows(spec), 0, []
    for shard in range(spec.shards):

        def step(rows: int) -> None:
            nonlocal done
            done += rows
            report(done, total)

        tallies.append(_write_shard(spec, shard, folder, intercepts, step))
    return tallies


def _in_processes(
    spec: SynthSpec, folder: OutputFolder, intercepts: np.ndarray, processes: int, report: Progress
) -> list[_Tally]:
    context = multiprocessing.get_context("spawn")
    steps = context.Queue()
    total, done = _rows(spec), 0
    workers = min(processes, spec.shards)
    with ProcessPoolExecutor(workers, context, initializer=_set_steps, initargs=(steps,)) as pool:
        with _without_sigint():
            futures = [pool.submit(_write_shard, spec, shard, folder, intercepts) for shard in range(spec.shards)]
        try:
            while not all(f.done() for f in futures):
                try:
                    done += steps.get(timeout=0.2)
                except queue.Empty:
                    continue
                report(done, total)
            return [f.result() for f in futures]
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.kill()  # the pool would wait for their shards
            raise


@contextmanager
def _without_sigint() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which the terminal sends them too; their parent handles it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _rows(spec: SynthSpec) -> int:
    return sum(spec.rows_on(day) for day in range(spec.days))


def _set_steps(steps) -> None:
    global _steps
    _steps = steps


_steps = None  # the queue to the parent, in a worker process


def _write_shard(
    spec: SynthSpec,
    number: int,
    folder: OutputFolder,
    intercepts: np.ndarray,
    step: Callable[[int], None] | None = None,
) -> _Tally:
    """Write all days of one shard; `step` (None: the parent's queue) is called with the number of rows of every block."""
    shard, columns = Shard(spec, number, intercepts), Columns(spec, number)
    tally = _Tally(label_columns(spec))
    for day, date in enumerate(spec.dates()):
        files = _Files(spec, folder, f"ds={date}", number, tally)
        for rows in shard.rows(day):
            table = columns.table(rows)
            files.add(nested(table, spec.request_rows) if spec.layout == "nested" else table)
            if step is not None:
                step(table.num_rows)
            elif _steps is not None:
                _steps.put(table.num_rows)
        files.close()
    return tally


class _Files:
    """Writes the files of one shard and day, with at most a row group and a block in memory."""

    def __init__(self, spec: SynthSpec, folder: OutputFolder, day: str, shard: int, tally: _Tally):
        self._spec, self._folder, self._day, self._shard, self._tally = spec, folder, day, shard, tally
        self._partition = day
        width = spec.request_rows if spec.layout == "nested" else 1
        self._group_rows = max(1, spec.row_group_rows // width)
        self._file_rows = max(1, spec.rows_per_file // width)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._file: ParquetFile | None = None
        self._number = 0

    def add(self, table: pa.Table) -> None:
        """Append rows in chronological order."""
        for partition, chunk in self._by_partition(table):
            if partition != self._partition:
                self.close()
                self._partition, self._number = partition, 0
            while chunk.num_rows:
                written = self._file.rows if self._file else 0
                group = min(self._group_rows, self._file_rows - written)
                head = chunk.slice(0, group - self._waiting_rows)
                chunk = chunk.slice(head.num_rows)
                self._waiting.append(head)
                self._waiting_rows += head.num_rows
                if self._waiting_rows == group:
                    self._flush()
                    if written + group == self._file_rows:
                        self.close()

    def close(self) -> None:
        """Write the remaining rows and finish the file."""
        if self._waiting_rows:
            self._flush()
        if self._file is not None:
            self._tally.bytes += self._file.close()
            self._tally.files += 1
            self._file = None
            self._number += 1

    def _flush(self) -> None:
        group = pa.concat_tables(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        if self._file is None:
            self._folder.make(self._partition)
            name = f"{self._partition}/part-{self._shard:03d}-{self._number:05d}.parquet"
            self._file = self._folder.open_parquet(name, group.schema, PLAIN)
        self._file.write(group)
        self._tally.count(group)

    def _by_partition(self, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        if not self._spec.hours:
            yield self._day, table
            return
        hours = table["hour_of_day"].to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(hours)]
        for first, end in itertools.pairwise(starts):
            yield f"{self._day}/hour={hours[first]:02d}", table.slice(first, end - first)
