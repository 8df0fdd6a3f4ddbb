"""What the driver posts to the workers, and what they tell it."""

import asyncio
from typing import Any

import ray

from raymtl.telemetry.events import Event

FINISHED = "finished"
"""Key of the event that ends a job: its number. `summary` is the first worker's."""


@ray.remote(num_cpus=0)
class EventQueue:
    """Events from the first worker to the driver, which may be on another machine without shared storage; the driver's jobs, one
    at a time, and its request for a checkpoint."""

    def __init__(self) -> None:
        self._items: list[Event] = []
        self._dropped = 0
        self._save_soon = self._closed = False
        self._job: Any = None
        self._number = self._finished = 0
        self._changed = asyncio.Event()

    async def put(self, item: Event) -> None:
        self._items.append(item)
        self._wake()

    async def take(self, arrived: int, wait_s: float = 0.0) -> list[Event]:
        """The events after the first `arrived`, which the driver has; if there are none, those that come within `wait_s`.

        Events are kept until the driver says that they have arrived: an answer can be lost.
        """
        end = asyncio.get_running_loop().time() + wait_s
        self._drop(arrived)
        while not self._items and not self._closed and (left := end - asyncio.get_running_loop().time()) > 0:
            await self._change(left)
        return self._items[max(0, arrived - self._dropped) :]

    async def save_soon(self) -> None:
        self._save_soon = True

    async def wants_save(self) -> bool:
        return self._save_soon

    async def post(self, number: int, job: Any) -> None:
        """The next job; numbers grow. The driver posts it when the one before is finished."""
        self._number, self._job = number, job
        self._wake()

    async def next_job(self, done: int) -> tuple[int, Any] | None:
        """The job after number `done`, as soon as there is one; None: the driver needs the workers no more. Workers that start
        again get the job that is not finished."""
        while not self._closed:
            if self._number > max(done, self._finished):
                return self._number, self._job
            await self._change(None)
        return None

    async def finish(self, number: int, summary: dict[str, Any]) -> None:
        """The first worker's summary of a job."""
        self._finished, self._job = number, None
        await self.put({FINISHED: number, "summary": summary})

    async def close(self) -> None:
        """Let the workers end, and nobody wait for events."""
        self._closed = True
        self._wake()

    def _drop(self, arrived: int) -> None:
        new = max(0, arrived - self._dropped)
        del self._items[:new]
        self._dropped += new

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self, within_s: float | None) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), within_s)
        except TimeoutError:
            return
