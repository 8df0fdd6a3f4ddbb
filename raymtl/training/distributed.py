"""Collective operations of the workers: a call whose failure is raised on all, and metrics over the rows of all."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from raymtl.errors import UserError
from raymtl.objectives.metrics.evaluate import EvalMetrics


def all_gather_or_raise(group: dist.ProcessGroup, work: Callable[[], Any]) -> list[Any]:
    """The results of `work()` of all workers; a UserError of any worker is raised on all, so that none waits forever."""
    answer: Any = None
    failed: tuple[type[UserError], str] | None = None
    try:
        answer = work()
    except UserError as error:
        failed = type(error), str(error)
    answers: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(answers, (answer, failed), group=group)
    for _, trouble in answers:
        if trouble is not None:
            raise trouble[0](trouble[1])
    return [given for given, _ in answers]


def compute_metrics(metrics: EvalMetrics, group: dist.ProcessGroup) -> dict[str, Any]:
    """The metrics over the rows of all workers, the same on each of them."""
    if dist.get_world_size(group) == 1:
        return metrics.compute()
    state = metrics.state()
    for name in sorted(state):
        dist.all_reduce(state[name], group=group)
    metrics.load_state(state)
    return metrics.compute(_gather_ragged(metrics.gather_form(), group))


def _gather_ragged(rows: dict[str, torch.Tensor], group: dist.ProcessGroup) -> list[dict[str, torch.Tensor]]:
    """Gather tensors whose first dims differ: pad to the longest, gather, and truncate again."""
    workers = dist.get_world_size(group)
    own = torch.tensor([len(next(iter(rows.values())))], dtype=torch.int64, device=next(iter(rows.values())).device)
    counts = [torch.empty_like(own) for _ in range(workers)]
    dist.all_gather(counts, own, group=group)
    lengths = [int(c) for c in counts]
    shards: list[dict[str, torch.Tensor]] = [{} for _ in lengths]
    for name in sorted(rows):
        padded = rows[name].new_zeros(max(lengths), *rows[name].shape[1:])
        padded[: len(rows[name])] = rows[name]
        carried = padded.view(torch.uint8)  # gloo supports few of the narrow types
        parts = [torch.empty_like(carried) for _ in lengths]
        dist.all_gather(parts, carried, group=group)
        for shard, part, length in zip(shards, parts, lengths, strict=True):
            shard[name] = part.view(padded.dtype)[:length]
    return shards
