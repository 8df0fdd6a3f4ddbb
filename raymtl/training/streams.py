"""The streams of a worker: opened by the first worker, and read by each from its own iterator."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
import torch
import torch.distributed as dist

from raymtl.data.dealer import DealtStream, start_dealers
from raymtl.data.dealing import groups
from raymtl.data.read import Input, Schedule, stream
from raymtl.data.slices import unpacked
from raymtl.training.job import Job
from raymtl.training.resources import readers_take_cpus, reading_tasks


class Dealers:
    """The processes that deal the slices of this worker's streams to all workers; they start when first needed."""

    def __init__(self) -> None:
        self._started: list[Any] = []

    def __call__(self, workers: int, block_rows: int) -> list[Any]:
        """One for each group; they are the same for every job."""
        self._started = self._started or start_dealers([len(group) for group in groups(workers, block_rows)])
        return self._started


class Streams:
    """Opens streams: the first worker creates the datasets, and each worker gets its own iterator.

    One stream of training is open at a time. The last evaluation input is kept too: a run evaluates the same input repeatedly.
    """

    def __init__(self, job: Job, rank: int, workers: int, dealers: Dealers | None = None):
        self._job, self._rank, self._workers, self._dealers = job, rank, workers, dealers or Dealers()
        self._open: dict[bool, list[DealtStream]] = {False: [], True: []}
        """On the first worker what is open, by whether it is an evaluation."""
        self._kept: tuple[Input, Schedule, _Stream] | None = None

    def __call__(self, source: Input, schedule: Schedule, meetings: Sequence[int]) -> Iterable[pa.Table]:
        if self._kept is not None and self._kept[0] is source and self._kept[1] == schedule:
            return self._kept[2]
        opened = self._opened(source, schedule, meetings)
        if source.evaluation:
            self._kept = source, schedule, opened
        return opened

    def close(self) -> None:
        """End what is open; no worker reads any more."""
        for streams in self._open.values():
            while streams:
                streams.pop().close()

    def _opened(self, source: Input, schedule: Schedule, meetings: Sequence[int]) -> "_Stream":
        job, data = self._job, self._job.config.data
        iterators: list[Any] = [None]
        if self._rank == 0:
            streams = self._open[source.evaluation]
            while streams:
                streams.pop().close()
            streams += stream(
                source,
                schedule,
                job.config,
                workers=self._workers,
                read_tasks=job.read_tasks or reading_tasks(job.config, self._workers),
                task_cpus=1 if readers_take_cpus(job.config) else 0,
                meetings=meetings,
                dealers=self._dealers(self._workers, data.block_rows),
            )
            iterators = [[iterator for dealt in streams for iterator in dealt.iterators]]
        if self._workers > 1:
            dist.broadcast_object_list(
                iterators, src=0, device=torch.device("cpu") if not torch.cuda.is_available() else None
            )
        ranks = next(g for g in groups(self._workers, data.block_rows) if self._rank in g)
        return _Stream(iterators[0][self._rank], self._rank - ranks.start, data.prefetch_blocks)


@dataclass
class _Stream:
    """The rows of this worker, read again for each iteration."""

    own: ray.data.DataIterator
    member: int
    prefetch: int

    def __iter__(self) -> Iterator[pa.Table]:
        return unpacked(
            self.own.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=self.prefetch), self.member
        )
