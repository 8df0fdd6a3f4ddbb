"""What each loss of a task costs: forward and backward per row, against the kind's own loss and a training step (docs/losses.md).

python -m tests.benchmarks.models.loss_cost [--rows 8192] [--list 10]

One JSON line per loss, for one binary task on one thread: CPU time of the fastest repetition in nanoseconds per row, over that
of the own loss alone, and as a share of a pass through the dense part of a small model (12 embeddings, 4 experts, two towers).
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raymtl.config.early_labels import Arrival
from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.tasks import Task
from raymtl.data.batch import comparable_rows
from raymtl.models.arrival_head import ArrivalHead
from raymtl.objectives.losses import TaskLosses

LOSSES: dict[str, dict[str, Any]] = {
    "own": {},
    "own, smoothing": {"own": {"smoothing": 0.1}},
    "focal": {"own": None, "focal": {}},
    "own + listwise": {"listwise": {}},
    "own + ranknet, window 16": {"ranknet": {"window": 16}},
    "own + ranknet, window 64": {"ranknet": {}},
}
EARLY = "own, early labels"
"""With the arrival head, on the 192 inputs of the model."""


def fastest(work: Callable[[], None], repeats: int = 30) -> float:
    """CPU seconds of the fastest repetition."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def seconds(losses: dict[str, Any], rows: int, length: int, is_early: bool = False) -> float:
    early = {"delay_days": 1, "early_labels": {"time": "t"}} if is_early else {}
    task = Task.model_validate({"losses": losses, **early})
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 1, generator=generator, requires_grad=True)
    labels = (torch.rand(rows, 1, generator=generator) < 0.15).float()
    lists = (torch.arange(rows) // length).unsqueeze(1)
    weight = torch.ones(rows)
    totals = [float(rows)]
    totals += [comparable_rows(lists[:, 0].numpy(), labels[:, 0].numpy(), weight.numpy() > 0)] * len(
        task.losses.lists()
    )
    normalizer, valid = torch.tensor(totals), torch.ones(rows, dtype=torch.bool)
    module = TaskLosses({"t": task}, OrderLoss())
    x, arrival = torch.randn(rows, 192), torch.zeros(rows, 1, dtype=torch.uint8)
    arrival[: rows // 2], arrival[rows // 2 :] = Arrival.OPEN, Arrival.LATE
    head = ArrivalHead({"t": task}, 192) if is_early else None

    def work() -> None:
        logits.grad = None
        arrived = None if head is None else (arrival, head(x))
        rest = (torch.tensor(float(rows)), 1, None, lists, arrived)
        module(logits, labels, valid.unsqueeze(1), weight, valid, normalizer, *rest).total.backward()

    return fastest(work)


def step_seconds(rows: int) -> float:
    """A forward and backward pass of 12 embeddings of 16, 4 experts of 128 and 64 units, and two towers of 32."""
    layers = [nn.Sequential(nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()) for _ in range(4)]
    towers = [nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(2)]
    x = torch.randn(rows, 192, requires_grad=True)

    def work() -> None:
        h = torch.stack([layer(x) for layer in layers]).mean(0)
        sum(tower(h).square().mean() for tower in towers).backward()

    return fastest(work, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--list", type=int, default=10, help="rows of each list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    step, own = step_seconds(options.rows), 0.0
    for name, losses in (*LOSSES.items(), (EARLY, {})):
        found = seconds(losses, options.rows, options.list, name == EARLY)
        own = own or found
        line = {"loss": name, "ns_per_row": round(found / options.rows * 1e9), "over_own": round(found / own, 1)}
        print(json.dumps({**line, "of_a_model": f"{found / step:.1%}"}), flush=True)


if __name__ == "__main__":
    main()
