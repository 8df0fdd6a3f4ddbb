"""How long the workers' collectives take, from one step in many that is watched by torch's profiler.

No step can be timed from the outside: the collectives run beside the step, in threads of gloo or on streams of the GPU, and to
wait for them would change what is measured. So every `_EVERY_WINDOWS`-th log line the next step runs under the profiler, on all
workers the same one; all others run as if it were not there.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# By the kind that is reported: begins of the names that gloo and NCCL give their work. Over gloo the reduce-scatter of row-wise
# tables is an all-reduce. An all-gather is left out: the feed's threads wait in one for as long as there is no data.
_NAMES = {
    "all_to_all": ("gloo:all_to_all", "ncclDevKernel_SendRecv"),
    "reduce": ("gloo:all_reduce", "gloo:reduce_scatter", "ncclDevKernel_AllReduce", "ncclDevKernel_ReduceScatter"),
}
_EVERY_WINDOWS = 10


class CollectiveSampler:
    """Measures a step now and then; `seconds` holds what the last measured one took, by kind of collective."""

    def __init__(self, device: torch.device, workers: int, every_steps: int):
        """`every_steps`: steps between two log lines."""
        self._every = every_steps * _EVERY_WINDOWS if workers > 1 else 0
        self._activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            self._activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the step after step `number`; nearly always nothing."""
        # Not the step after a start: it waits for all that a start makes
        if not self._every or number % self._every != self._every // 2 or torch._C._autograd._profiler_enabled():
            yield
            return
        with torch.profiler.profile(activities=self._activities) as profiler:
            yield
        try:
            self.seconds = _seconds(profiler.profiler.kineto_results.events())  # type: ignore[union-attr]
        except AttributeError as error:  # no part of torch's public surface; its public one takes 0.1 s a step
            logging.getLogger("raymtl").warning(
                "the collectives are not timed, torch has changed its profiler: %s", error
            )
            self._every = 0


def _seconds(events: list[Any]) -> dict[str, float]:
    """Length of the union of the intervals of each kind; of kinds that occurred."""
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
