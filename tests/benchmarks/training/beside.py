"""What weights of IDs and numbers of steps cost, against the same features without them.

    python -m tests.benchmarks.training.beside [--rows 2048] [--rounds 15]

A bag of 10 IDs per row on average, with and without weights, and a history of 20 steps, with and without two numbers. Prints CPU
seconds per million rows for reading (checks, hashing, collation), and CPU milliseconds per step and worker: one worker, whose
table is replicated, and two workers with a row-wise table. The variants take turns; the figures are medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.training.build import build
from tests.helpers.worker_processes import several

DAY = {"start": "2026-01-01", "end": "2026-01-01"}
BAG: dict[str, Any] = {"kind": "ids", "table": "item"}
HISTORY: dict[str, Any] = {"kind": "sequence", "table": "item", "max_length": 20}
VARIANTS: dict[str, dict[str, Any]] = {
    "bag": {"bag": BAG},
    "bag with weights": {"bag": BAG | {"weights": "weights"}},
    "history": {"history": HISTORY},
    "history with 2 numbers": {
        "history": HISTORY,
        "gap": {"kind": "sequence_dense", "of": "history", "transform": "log1p"},
        "dwell": {"kind": "sequence_dense", "of": "history"},
    },
}
WARM = 3


def configured(variant: str, sharding: str, rows: int) -> Config:
    features = VARIANTS[variant]
    return config_from_dict(
        {
            "data": {"path": "/nowhere", "train": DAY},
            "features": features | {"price": {"kind": "dense"}},
            "tables": {"item": {"rows": 100_000, "dim": 16, "sharding": sharding}},
            "tasks": {"click": {}},
            "model": {
                "preset": "mmoe",
                "trunk": {"experts": 2, "hidden": [32]},
                "sequence": {"type": "pooled" if "history" in features else "none"},
            },
            "train": {"batch_size": rows, "precision": "fp32"},
        }
    )


def raw_rows(rows: int) -> pa.Table:
    random = np.random.default_rng(0)

    def lists(lengths: np.ndarray, *values: Any) -> list[pa.Array]:
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        return [pa.ListArray.from_arrays(offsets, pa.array(of(int(lengths.sum())))) for of in values]

    ids, numbers = (lambda n: random.integers(0, 10**9, n)), (lambda n: random.random(n, np.float32))
    bag, weights = lists(random.integers(5, 16, rows), ids, numbers)
    history, gap, dwell = lists(np.full(rows, 20), ids, numbers, numbers)
    columns = {"bag": bag, "weights": weights, "history": history, "gap": gap, "dwell": dwell}
    return pa.table({**columns, "price": numbers(rows), "click": random.integers(0, 2, rows)})


def reading(rows: int, rounds: int) -> dict[str, float]:
    """CPU seconds per million rows."""
    raw, taken = raw_rows(32 * rows), {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, times in taken.items():
            config = configured(name, "replicated", rows)
            maker, collate = BlockMaker(config, False), Collator(config, rows, False)
            began = time.process_time()
            block = maker(raw, Place("a", 0), 0)
            for start in range(0, len(block), rows):
                collate([block.slice(start, rows)])
            times.append((time.process_time() - began) / len(raw) * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def steps(rank: int, workers: int, sharding: str, rows: int, rounds: int) -> dict[str, float]:
    """CPU milliseconds per step of this worker."""
    raw, group, made = raw_rows(rows), dist.group.WORLD, {}
    assert group is not None
    for name in VARIANTS:
        config = configured(name, sharding, rows * workers)
        block = BlockMaker(config, False)(raw, Place("a", 0), 0)
        built = build(config, {"click": 0.5}, 1000, torch.device("cpu"), group)
        made[name] = built, Collator(config, rows, False)([block])
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(WARM + rounds):
        for name, (built, batch) in made.items():
            dist.barrier()
            began = time.process_time()
            built.optimizers.zero_grad()
            built.model(batch)[0].backward()
            built.optimizers.step()
            if turn >= WARM:
                taken[name].append(1000 * (time.process_time() - began))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    read = reading(options.rows, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        one, two = (
            several(workers, Path(folder, sharding), steps, sharding, options.rows, options.rounds, limit_s=600)[0]
            for workers, sharding in ((1, "replicated"), (2, "row_wise"))
        )
    print(
        "| | reading, CPU s per million rows | step, 1 worker, replicated | step, 2 workers, row-wise |\n|---|---|---|---|"
    )
    for name in VARIANTS:
        print(f"| {name} | {read[name]:.2f} | {one[name]:.1f} ms | {two[name]:.1f} ms |")


if __name__ == "__main__":
    main()
