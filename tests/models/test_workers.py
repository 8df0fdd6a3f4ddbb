"""G5: one worker and two give the same loss and the same weights (docs/formulas.md §1.8)."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raymtl.config.slots.penalties import ConversionLoss, OrderLoss
from raymtl.objectives.conversion import ConversionRisk
from raymtl.objectives.losses import TaskLosses
from tests.helpers.model_zoo import PRESETS, config, make, rows_of, stir, take, tasks_of

STEPS, ROWS, CUT = 3, 24, 7
TIME_LIMIT_S = 60


def batch(step: int, tasks: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels, mask, weight and validity; the first worker lacks every label of the last task, and in step 1 both do."""
    g = torch.Generator().manual_seed(step)
    observed = torch.rand(ROWS, tasks, generator=g) < 0.6
    observed[:CUT, -1] = False
    if step == 1:
        observed[:, -1] = False
    y = (torch.rand(ROWS, tasks, generator=g) < 0.4).float()
    return y, observed, torch.rand(ROWS, generator=g), torch.rand(ROWS, generator=g) < 0.9


def train(name: str, rank: int, world: int) -> list[Tensor]:
    """Losses of all steps, then the weights."""
    ranker = stir(make(name))
    model: nn.Module = DistributedDataParallel(ranker) if world > 1 else ranker
    tasks = tasks_of(name)
    losses = TaskLosses(tasks, OrderLoss(alpha=0.6), config(name).kl_bound)
    risk = ConversionRisk(tasks, list(ranker.outputs.derived.values()), ConversionLoss(weight=0.5, min_propensity=0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    mine = slice(0, ROWS) if world == 1 else (slice(0, CUT), slice(CUT, ROWS))[rank]
    totals = []
    for step in range(STEPS):
        y, observed, weight, valid = (t[mine] for t in batch(step, len(tasks)))
        counts = losses.counts(observed, weight, valid)
        if world > 1:
            dist.all_reduce(counts)
        logits = model(take(rows_of(name, ROWS, seed=step), mine))
        rows = (y, observed, weight, valid, counts[:-1])
        total = losses(logits[:, : len(tasks)], *rows, counts[-1], world).total
        if ranker.outputs.derived:
            total = total + risk(logits, *rows, world)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        total = total.detach()
        if world > 1:
            dist.all_reduce(total)
        totals.append(total / world)
    return [*totals, *(p.detach() for p in ranker.parameters())]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for name in PRESETS:
        torch.save(train(name, rank, 2), f"{folder}/{name}.{rank}.pt")
    dist.barrier()
    # Leave without the interpreter's tear-down: gloo's threads sometimes abort in it, after all the work is done.
    os._exit(0)


@pytest.mark.dist
def test_g5_one_worker_and_two_agree(tmp_path: Path) -> None:
    workers = mp.start_processes(work, args=(str(tmp_path),), nprocs=2, join=False, start_method="forkserver")
    limit = time.monotonic() + TIME_LIMIT_S
    try:
        while not workers.join(timeout=1):
            assert time.monotonic() < limit, f"the two workers did not finish within {TIME_LIMIT_S} s"
    finally:
        for process in workers.processes:
            if process.is_alive():
                process.kill()
    for name in PRESETS:
        alone = train(name, 0, 1)
        first, second = (torch.load(tmp_path / f"{name}.{rank}.pt") for rank in range(2))
        start = list(stir(make(name)).parameters())
        assert any((a - b).abs().max() > 0.01 for a, b in zip(alone[STEPS:], start, strict=True))
        for a, b, c in zip(alone, first, second, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)  # fp32 sums in another order, three large steps
            assert torch.equal(b, c)
