"""What each kind of task costs: CPU time of a training step and of an evaluated batch, against a binary task.

python -m tests.benchmarks.models.task_kinds [--rows 2048] [--repeats 15]

A model without tables, four tasks of one kind (MMoE, 16 numbers, 4 experts of 64, towers of 32), one thread; the least of all
repeats.
"""

import argparse
import time
from collections.abc import Callable

import torch

from raymtl.config.model import Model
from raymtl.config.slots.penalties import OrderLoss
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import build_ranker
from raymtl.objectives.losses import TaskLosses
from raymtl.objectives.metrics.evaluate import EvalMetrics
from tests.helpers.task_kinds import RAW, TASKS, labels_of_kinds

TASK_COUNT, NUMBERS = 4, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    works = {name: work(name, options.rows) for name in RAW}
    least = {name: [float("inf")] * 2 for name in works}
    for _ in range(options.repeats):
        for name, both in works.items():
            for place, run in enumerate(both):
                least[name][place] = min(least[name][place], seconds(run))
    print("| kind | outputs | µs per row: step | evaluation | step / binary | evaluation / binary |")
    print("|---|---|---|---|---|---|")
    first = least[next(iter(works))]
    for name, found in least.items():
        task = TASKS[name]
        per_row = [f"{1e6 * value / options.rows / TASK_COUNT:.2f}" for value in found]
        ratios = [f"{value / base:.2f}" for value, base in zip(found, first, strict=True)]
        words = task.kind + (f" ({task.transform})" if task.transform != "none" else "")
        print(f"| {words} | {task.traits.outputs(task)} | {' | '.join(per_row + ratios)} |")


def work(name: str, rows: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step of four tasks of the kind, and the update of their metrics."""
    torch.manual_seed(0)
    tasks = {f"t{n}": TASKS[name].model_copy(update={"label": "t"}) for n in range(TASK_COUNT)}
    spec = InputSpec(pooled={}, dense=[f"x{n}" for n in range(NUMBERS)])
    model = Model.model_validate(
        {"preset": "mmoe", "trunk": {"type": "mmoe", "experts": 4, "hidden": [64]}, "towers": {"hidden": [32]}}
    )
    ranker = build_ranker(model, tasks, spec, {})
    losses = TaskLosses(tasks, OrderLoss(), outputs=ranker.outputs)
    column = list(TASKS).index(name)
    labels = labels_of_kinds(rows)[:, column : column + 1].expand(-1, TASK_COUNT).contiguous()
    inputs = ModelInput(torch.empty(rows, 0), torch.randn(rows, NUMBERS), {})
    weight, valid = torch.ones(rows), torch.ones(rows, dtype=torch.bool)
    observed = torch.ones(rows, TASK_COUNT, dtype=torch.bool)
    counts = losses.counts(observed, weight, valid)
    optimizer = torch.optim.Adam(ranker.parameters())
    metrics = EvalMetrics(tasks, [])

    def step() -> None:
        optimizer.zero_grad()
        losses(ranker(inputs), labels, observed, weight, valid, counts[:-1], counts[-1]).total.backward()
        optimizer.step()

    with torch.no_grad():
        logits = ranker(inputs)

    def evaluation() -> None:
        metrics.update(logits, labels, observed, weight, valid)

    return step, evaluation


def seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


if __name__ == "__main__":
    main()
