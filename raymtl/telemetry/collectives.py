"""How long the workers' collectives take, sampled with torch's profiler from one step in many.

A step cannot be timed from the outside: its collectives run concurrently, in gloo's threads or on GPU streams, and waiting for
them would change what is measured. So after every `_EVERY_WINDOWS`-th log line one step runs under the profiler, the same step on
all workers; all other steps run without it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# By reported kind: prefixes of gloo's and NCCL's names of their work. Over gloo the reduce-scatter of row-wise tables is an
# all-reduce. All-gathers are left out: the loader's threads wait in one for as long as there is no data.
_NAMES = {
    "all_to_all": ("gloo:all_to_all", "ncclDevKernel_SendRecv"),
    "reduce": ("gloo:all_reduce", "gloo:reduce_scatter", "ncclDevKernel_AllReduce", "ncclDevKernel_ReduceScatter"),
}
_EVERY_WINDOWS = 10


class CollectiveSampler:
    """Measures an occasional step; `seconds` holds the times of the last one measured, by kind of collective."""

    def __init__(self, device: torch.device, workers: int, every_steps: int):
        """`every_steps`: steps between two log lines."""
        self._every = every_steps * _EVERY_WINDOWS if workers > 1 else 0
        self._activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            self._activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wrap the step after step `number`; does nothing for nearly all steps."""
        # Not the first step after a start: it waits for the start's own work
        if not self._every or number % self._every != self._every // 2 or torch._C._autograd._profiler_enabled():
            yield
            return
        with torch.profiler.profile(activities=self._activities) as profiler:
            yield
        try:
            self.seconds = _seconds(profiler.profiler.kineto_results.events())  # type: ignore[union-attr]
        except AttributeError as error:  # not a public API of torch; the public one takes 0.1 s a step
            logging.getLogger("raymtl").warning("cannot time the collectives: torch's profiler has changed: %s", error)
            self._every = 0


def _seconds(events: list[Any]) -> dict[str, float]:
    """Length of the union of the intervals of each kind that occurred."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for event in events:
        name = event.name()
        for kind, beginnings in _NAMES.items():
            if name.startswith(beginnings):
                begin = event.start_ns()
                spans.setdefault(kind, []).append((begin, begin + event.duration_ns()))
    return {kind: _union(found) / 1e9 for kind, found in spans.items()}


def _union(spans: list[tuple[int, int]]) -> int:
    total, end = 0, 0
    for begin, stop in sorted(spans):
        total += max(0, stop - max(begin, end))
        end = max(end, stop)
    return total
