"""G5: one worker and two give the same loss and the same weights (design/models.md §1.8)."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from zoo import FUNNEL, make, rows, stir, take

from raymtl.config.slots.penalties import OrderLoss
from raymtl.objectives.losses import TaskLosses

NAMES = ["shared_bottom", "ple", "mmoe_ait"]
STEPS, ROWS, CUT = 3, 24, 7
TIME_LIMIT_S = 60


def batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels, mask, weight and validity; the first worker's rows lack every `buy`, and step 1 has none at all."""
    g = torch.Generator().manual_seed(step)
    observed = torch.rand(ROWS, 3, generator=g) < 0.6
    observed[:CUT, 2] = False
    if step == 1:
        observed[:, 2] = False
    y = (torch.rand(ROWS, 3, generator=g) < 0.4).float()
    return y, observed, torch.rand(ROWS, generator=g), torch.rand(ROWS, generator=g) < 0.9


def train(name: str, rank: int, world: int) -> list[Tensor]:
    """Losses of all steps, then the weights."""
    ranker = stir(make(name))
    model: nn.Module = DistributedDataParallel(ranker) if world > 1 else ranker
    losses = TaskLosses(FUNNEL, OrderLoss(alpha=0.6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    mine = slice(0, ROWS) if world == 1 else (slice(0, CUT), slice(CUT, ROWS))[rank]
    totals = []
    for step in range(STEPS):
        y, observed, weight, valid = (t[mine] for t in batch(step))
        counts = losses.counts(observed, weight, valid)
        if world > 1:
            dist.all_reduce(counts)
        logits = model(take(rows(ROWS, seed=step), mine))
        found = losses(logits, y, observed, weight, valid, counts[:-1], counts[-1], world)
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        total = found.total.detach()
        if world > 1:
            dist.all_reduce(total)
        totals.append(total / world)
    return [*totals, *(p.detach() for p in ranker.parameters())]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for name in NAMES:
        torch.save(train(name, rank, 2), f"{folder}/{name}.{rank}.pt")
    dist.barrier()
    # Leave without the interpreter's tear-down: gloo's threads sometimes abort in it, after all the work is done.
    os._exit(0)


@pytest.mark.dist
def test_g5_one_worker_and_two_agree(tmp_path: Path) -> None:
    workers = mp.spawn(work, args=(str(tmp_path),), nprocs=2, join=False)
    limit = time.monotonic() + TIME_LIMIT_S
    try:
        while not workers.join(timeout=1):
            assert time.monotonic() < limit, f"the two workers did not finish within {TIME_LIMIT_S} s"
    finally:
        for process in workers.processes:
            if process.is_alive():
                process.kill()
    for name in NAMES:
        alone = train(name, 0, 1)
        first, second = (torch.load(tmp_path / f"{name}.{rank}.pt") for rank in range(2))
        start = list(stir(make(name)).parameters())
        assert any((a - b).abs().max() > 0.01 for a, b in zip(alone[STEPS:], start, strict=True))
        for a, b, c in zip(alone, first, second, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
            assert torch.equal(b, c)
