"""Turn blocks into the same number of steps on every worker, whatever the files.

A background thread of each worker splits its blocks into local batches, which never mix two units. Before each step, the
workers exchange one small vector over gloo (never over the GPU, so the training loop is not blocked):

* the unit of each worker's next batch. All work on the smallest of them; a worker that is already past it, or has no rows left,
  uses a batch of padding instead. So a unit ends on all workers at the same step, no row is dropped to equalize the workers,
  and no worker waits for another at the end.
* the weight of observed labels of each task. The batch holds the sum, which normalises the loss (`docs/losses.md`).
* whether a worker has an error or wants to stop: then all stop at the same step.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch
import torch.distributed as dist

from raymtl.data.batch import Batch, Collator
from raymtl.errors import UserError, user_errors

_NO_UNIT = 2.0**40
_READY = 4  # prefetched batches


@dataclass
class Step:
    """One synchronous step of all workers."""

    batch: Batch
    unit: int
    """Position in the epoch of the unit that the rows come from."""
    rows: int
    """Rows of all workers, padding not counted."""
    ends_unit: bool = False
    """After this step every row of `unit` has been seen."""


@dataclass
class _Local:
    unit: int
    rows: int
    batch: Batch


class SyncedLoader:
    """Iterator of `Step`s over one stream of blocks; `close()` ends it early on all workers at the same step."""

    def __init__(
        self,
        blocks: Iterable[pa.Table],
        collator: Collator,
        group: dist.ProcessGroup | None,
        on_batch: Callable[[Batch], None] | None = None,
        local_rows: int | None = None,
        prepare: Callable[[list[Batch]], list[Batch]] | None = None,
    ):
        """`group` is a gloo group of all workers that nothing else uses while the loader runs; None: a single worker.
        `on_batch` gets every batch of this worker's own rows, in the loader's thread, before it is yielded. `local_rows`: rows
        of this worker in a step, the rest is padding; None: the collator's rows. `prepare` changes the batches of steps that all
        workers have agreed on; all call it together, in the loader's thread, so it may use `group`."""
        self._blocks, self._collator, self._group, self._on_batch = blocks, collator, group, on_batch
        self._prepare = prepare
        self._local_rows = local_rows or collator.rows
        self._padding = collator([])
        self._ready: queue.Queue[Step | None] = queue.Queue(_READY)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        while (step := self._ready.get()) is not None:
            yield step
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop; every worker must call it after the same step."""
        self._stop.set()
        while self._thread.is_alive():
            try:  # the thread may wait for space in the queue
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _run(self) -> None:
        try:
            held: Step | None = None  # a step is yielded once the next one shows whether it ends its unit
            for step in self._agreed():
                if held is not None:
                    held.ends_unit = step.unit != held.unit
                    self._ready.put(held)
                held = step
            if held is not None and not self._stop.is_set():
                held.ends_unit = True
                self._ready.put(held)
        except BaseException as error:  # the training loop raises it
            self._error = error
        self._ready.put(None)

    def _agreed(self) -> Iterator[Step]:
        local_batches = self._local()
        pending: _Local | None = None
        exhausted = False
        while True:
            error: UserError | None = None
            if pending is None and not exhausted:
                try:
                    pending = next(local_batches, None)
                except UserError as raised:
                    error = raised
                exhausted = pending is None
            votes = self._exchange(pending, error is not None)
            if votes[:, 1].any():
                raise self._shared_error(error)
            # Only the votes count: a worker that is stopped after its vote leaves with the others, one step later
            if votes[:, 2].any():
                return
            unit = votes[:, 0].min()
            if unit >= _NO_UNIT:
                return
            working = votes[:, 0] == unit
            totals = votes[working, 4:].sum(0)
            if pending is not None and pending.unit == unit:
                batch, pending = pending.batch, None
                if self._on_batch is not None:
                    self._on_batch(batch)
            else:
                batch = self._padding
            batch = Batch(**{**vars(batch), "totals": totals})
            if self._prepare is not None:
                [batch] = self._prepare([batch])
            yield Step(batch, int(unit), int(votes[working, 3].sum()))

    def _exchange(self, pending: _Local | None, failed: bool) -> torch.Tensor:
        """[W, 4 + T + 1] float64 of all workers: unit, failed, stop, rows, then the batch's totals."""
        mine = torch.zeros(4 + len(self._padding.totals), dtype=torch.float64)
        mine[0] = _NO_UNIT if pending is None else pending.unit
        mine[1], mine[2] = float(failed), float(self._stop.is_set())
        if pending is not None:
            mine[3] = pending.rows
            mine[4:] = pending.batch.totals
        if self._group is None:
            return mine.unsqueeze(0)
        votes = [torch.empty_like(mine) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(votes, mine, group=self._group)
        return torch.stack(votes)

    def _shared_error(self, mine: UserError | None) -> UserError:
        """The first error of any worker, the same on all, so that all end with the same message."""
        if self._group is None:
            assert mine is not None
            return mine
        errors: list[UserError | None] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(errors, mine, group=self._group)
        return next(e for e in errors if e is not None)

    def _local(self) -> Iterator[_Local]:
        """Batches of this worker alone, in the order of its blocks; the last one of a unit may contain padding."""
        rows = self._local_rows
        chunks: list[pa.Table] = []
        held, unit = 0, -1
        for block in user_errors(self._blocks):
            if len(block) == 0:
                continue
            block_unit = block.column("unit")[0].as_py()
            if block_unit != unit and chunks:
                yield _Local(unit, held, self._collator(chunks))
                chunks, held = [], 0
            unit = block_unit
            start = 0
            while start < len(block):
                chunk = block.slice(start, rows - held)
                chunks.append(chunk)
                held += len(chunk)
                start += len(chunk)
                if held == rows:
                    yield _Local(unit, held, self._collator(chunks))
                    chunks, held = [], 0
        if chunks:
            yield _Local(unit, held, self._collator(chunks))
