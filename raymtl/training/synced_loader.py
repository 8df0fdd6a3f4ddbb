"""Turn slices into the same number of steps on every worker, whatever the files.

A background thread of each worker packs its slices into local batches, never beyond the end of a span: the next point at which
all workers meet (`data/dealing.py`). The workers agree on several steps at once, by one small vector over gloo (never over the
GPU, so the training loop is not blocked):

* the weight of observed labels of each task in each local batch. A batch holds the sum of all workers, which normalises the loss
  (`docs/losses.md`).
* whether a worker has no more rows in the span. It uses batches of padding until all have none; so a span ends on all workers at
  the same step, no row is dropped to equalize the workers, and no worker waits for another at the end.
* whether a worker wants a checkpoint soon. Then all meet at the end of the last unit that any of them has started
  (with many workers, up to a few units later).
* whether a worker has an error or wants to stop: then all stop at the same step.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch
import torch.distributed as dist

from raymtl.data.batch import Batch, Collator
from raymtl.data.dealing import Deal
from raymtl.errors import UserError, user_errors

_NO_END = 2**40
MOST_STEPS = 8
"""Steps agreed on at a time; after a meeting 1, 2, 4, then so many."""
_READY = 4  # prefetched batches
_ASKED_AGAIN_S = 1.0


@dataclass
class Step:
    """One synchronous step of all workers."""

    batch: Batch
    rows: int
    """Rows of all workers, padding not counted."""
    done: int = 0
    """If all workers meet after this step, the units of the schedule that are done then; else 0."""
    must_save: bool = False
    """Whether they meet because a worker wants a checkpoint."""


@dataclass
class _Votes:
    """What all workers said; the same on each."""

    failed: bool
    stopped: bool
    wants_meeting: bool
    ended: bool
    """No worker has more rows in the span."""
    unit: int
    """The farthest unit of which any worker has packed a row."""
    totals: torch.Tensor
    """[K, T + 1] float64: totals of each step, summed over the workers."""


class _Packer:
    """Packs a worker's slices, in order, into batches."""

    def __init__(self, blocks: Iterable[pa.Table], collator: Collator, rows: int):
        self._blocks, self._collator, self._rows = user_errors(blocks), collator, rows
        self._block: pa.Table | None = None
        self._start = self._unit = 0
        self.unit = -1
        """Unit of the last packed row."""

    def has_rows(self, end: int) -> bool:
        """Whether the next row belongs to a unit before `end`."""
        while self._block is None or self._start == len(self._block):
            self._block, self._start = next(self._blocks, None), 0
            if self._block is None:
                return False
            if len(self._block):
                self._unit = self._block.column("unit")[0].as_py()
        return self._unit < end

    def pack(self, end: int) -> Batch | None:
        """The next batch of rows of units before `end`; the last one contains padding. None: there are no more."""
        chunks: list[pa.Table] = []
        held = 0
        while held < self._rows and self.has_rows(end):
            assert self._block is not None
            chunks.append(self._block.slice(self._start, self._rows - held))
            held += len(chunks[-1])
            self._start += len(chunks[-1])
            self.unit = self._unit
        return self._collator(chunks) if chunks else None


class SyncedLoader:
    """Iterator of `Step`s over one stream of slices; `close()` ends it early on all workers at the same step."""

    def __init__(
        self,
        blocks: Iterable[pa.Table],
        collator: Collator,
        group: dist.ProcessGroup | None,
        on_batch: Callable[[Batch], None] | None = None,
        local_rows: int | None = None,
        deal: Deal | None = None,
        wants_meeting: Callable[[], bool] = lambda: False,
        prepare: Callable[[list[Batch]], list[Batch]] | None = None,
    ):
        """`group` is a gloo group of all workers that nothing else uses while the loader runs; None: a single worker.
        `on_batch` gets every batch of this worker's own rows, in the loader's thread, before it is yielded. `local_rows`: rows
        of this worker in a step, the rest is padding; None: the collator's rows. `deal` says where all workers meet; None: only
        at the end. `wants_meeting` says whether this worker wants a checkpoint soon; the loader's thread asks from time to
        time. `prepare` is called in that thread, on all workers, with the local batches (padding included) of the steps agreed
        on; it may use `group`, and returns the batches to yield."""
        self._collator, self._group, self._on_batch, self._prepare = collator, group, on_batch, prepare
        # The packer lets go of them when they end, and other workers may still need their source
        self._blocks = blocks
        self._packer = _Packer(blocks, collator, local_rows or collator.rows)
        self._spans = deal.spans if deal is not None else [(0, _NO_END)]
        self._stretch_ends = [end for begin, end in deal.stretches for _ in range(begin, end)] if deal else None
        self._wants_meeting, self._wanted, self._asked = wants_meeting, False, -_ASKED_AGAIN_S
        self._padding = collator([])
        self._most_steps = 1 if group is None else MOST_STEPS
        self._ready: queue.Queue[Step | None] = queue.Queue(max(_READY, self._most_steps))
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        while (step := self._ready.get()) is not None:
            yield step
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop; all workers call it after the same step, and their loaders then end together."""
        self._stop.set()
        while self._thread.is_alive():
            try:  # the thread may wait for space in the queue
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _run(self) -> None:
        try:
            for step in self._steps():
                self._ready.put(step)
        except BaseException as error:  # the training loop raises it
            self._error = error
        self._ready.put(None)

    def _steps(self) -> Iterator[Step]:
        for begin, end in self._spans:
            done: int | None = begin
            while done is not None and done < end:
                done = yield from self._until_meeting(end)
            if done is None:
                return

    def _until_meeting(self, end: int) -> Generator[Step, None, int | None]:
        """The steps until all workers meet, at the latest after the units before `end`; returns the units done then, None if a
        worker stops."""
        count, must_save = 1, False
        held: Step | None = None
        while True:
            batches: list[Batch] = []
            ended, error = False, None
            try:
                while len(batches) < count and (batch := self._packer.pack(end)) is not None:
                    batches.append(batch)
                ended = not self._packer.has_rows(end)
            except UserError as raised:
                error = raised
            votes = self._exchange(batches, count, ended, error is not None)
            if votes.failed:
                raise self._shared_error(error)
            # Only the votes count: a worker that is stopped after its vote leaves with the others, one exchange later
            if votes.stopped:
                return None
            steps = [*([held] if held else []), *self._make(batches, votes.totals)]
            must_save |= votes.wants_meeting
            if votes.ended:
                if steps:
                    steps[-1].done = votes.unit + 1 if end == _NO_END else end
                    steps[-1].must_save = must_save
                yield from steps
                return end
            held = None
            if votes.wants_meeting and self._stretch_ends is not None:
                end = min(end, self._stretch_ends[votes.unit])
                held = steps.pop()  # the next exchange shows whether it is the last one before that end
            yield from steps
            count = min(2 * count, self._most_steps)

    def _make(self, batches: list[Batch], totals: torch.Tensor) -> list[Step]:
        """The steps in which any worker has rows."""
        rows = [int(count) for count in totals[:, -1].tolist() if count]
        if self._on_batch is not None:
            for batch in batches:
                self._on_batch(batch)
        batches = batches + [self._padding] * (len(rows) - len(batches))
        batches = [Batch(**{**vars(b), "totals": t}) for b, t in zip(batches, totals, strict=False)]
        if self._prepare is not None and batches:
            batches = self._prepare(batches)
        return [Step(batch, count) for batch, count in zip(batches, rows, strict=True)]

    def _exchange(self, batches: list[Batch], count: int, ended: bool, failed: bool) -> _Votes:
        """Tell the others about `batches`, the next of at most `count` steps, and hear of theirs."""
        totals = torch.zeros(count, len(self._padding.totals), dtype=torch.float64)
        for n, batch in enumerate(batches):
            totals[n] = batch.totals
        said = [failed, self._stop.is_set(), self._wants(), ended, self._packer.unit]
        mine = torch.cat([torch.tensor(said, dtype=torch.float64), totals.flatten()])
        votes = [mine]
        if self._group is not None:
            votes = [torch.empty_like(mine) for _ in range(dist.get_world_size(self._group))]
            dist.all_gather(votes, mine, group=self._group)
        every = torch.stack(votes)
        failed, stopped, wanted = every[:, :3].any(0).tolist()
        unit = int(every[:, 4].max())
        return _Votes(failed, stopped, wanted, bool(every[:, 3].all()), unit, every[:, 5:].sum(0).view_as(totals))

    def _wants(self) -> bool:
        if (now := time.monotonic()) >= self._asked + _ASKED_AGAIN_S:
            self._wanted, self._asked = self._wants_meeting(), now
        return self._wanted

    def _shared_error(self, mine: UserError | None) -> UserError:
        """The first error of any worker, the same on all, so that all end with the same message."""
        if self._group is None:
            assert mine is not None
            return mine
        errors: list[UserError | None] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(errors, mine, group=self._group)
        return next(e for e in errors if e is not None)
