"""Steps of the census model on several processes of one thread, without Ray, under one sharding after another.

    python -m tests.benchmarks.training.replicated --config CENSUS/config.yaml --workers 1,2 --sharding planner,row_wise

Every round runs each number of workers and each sharding once, so all see the same machine. Prints the median over the rounds of
rows per second and milliseconds per step, the CPU time and the written bytes per step of all workers together, and the losses
of the last steps. The batches are in memory; each worker's loader collates them and exchanges what the steps need, in its own
thread, as in a run.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.data.units import plan_input
from raymtl.training.build import build
from raymtl.training.pipeline import make_pipeline
from raymtl.training.synced_loader import SyncedLoader
from tests.benchmarks.training.census import MODELS
from tests.benchmarks.training.inprocess import blocks

WARM = 10
PLANNER = "planner"


def configured(options: argparse.Namespace, sharding: str, workers: int) -> Config:
    fixed = [] if sharding == PLANNER else [f"table_defaults.sharding={sharding}"]
    sets = [
        *MODELS[options.model],
        "data.eval=null",
        "train.sparse_optimizer={type: rowwise_adagrad, lr: 0.02}",
        f"train.batch_size={options.batch_size}",
        f"train.workers={workers}",
        f"train.precision={options.precision}",
        *fixed,
        *options.set,
    ]
    return load_config(options.config, sets)


def parts(config: Config, rank: int, workers: int, steps: int) -> list[pa.Table]:
    """This worker's rows of each step: the same rows of all workers together, whatever their number."""
    plan, rows, found = plan_input(config, "train"), config.train.rows_per_step, []
    for block in blocks(config, plan, [(0, n) for n in range(len(plan.units))], False):
        for start in range(0, len(block) - rows + 1, rows):
            found.append(block.slice(start + rank * rows // workers, rows // workers))
            if len(found) == steps:
                return found
    return [found[n % len(found)] for n in range(steps)]


def written_bytes() -> int:
    """Bytes that this process has written, to sockets too."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


def work(rank: int, workers: int, folder: str, options: argparse.Namespace, sharding: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_WORLD_SIZE=str(workers), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    group = dist.group.WORLD
    assert group is not None
    config = configured(options, sharding, workers)
    built = build(config, {}, 1000, torch.device("cpu"), group)
    rows = parts(config, rank, workers, WARM + options.steps)
    replicated = built.replicated
    feed_group = dist.new_group(backend="gloo") if workers > 1 else None
    prepare = None if replicated is None else lambda batches: replicated.touched_rows.prepare(batches, feed_group)
    unit = [
        block.set_column(block.column_names.index("unit"), "unit", pa.array([0] * len(block), pa.int32()))
        for block in rows
    ]
    feed = SyncedLoader(unit, Collator(config, len(rows[0]), False), feed_group, prepare=prepare)
    pipeline, source = make_pipeline(built, torch.device("cpu")), (step.batch for step in feed)
    losses, start, cpu, before = [], 0.0, 0.0, 0
    for step in range(WARM + options.steps):
        if step == WARM:
            dist.barrier()
            start, cpu, before = time.perf_counter(), time.process_time(), written_bytes()
        losses.append(pipeline.progress(source)[1])
    dist.barrier()
    seconds = time.perf_counter() - start
    used = torch.tensor([time.process_time() - cpu, written_bytes() - before], dtype=torch.float64)
    mean = torch.stack(losses[-3:])
    dist.all_reduce(mean)
    dist.all_reduce(used)
    if rank == 0:
        kinds = list(built.sharding.values())
        answer = {
            "seconds": seconds,
            "cpu_s": used[0].item(),
            "sent": int(used[1]),
            "losses": (mean / workers).tolist(),
            "tables": {kind: kinds.count(kind) for kind in set(kinds)},
        }
        Path(folder, "answer.json").write_text(json.dumps(answer))
    dist.barrier()
    dist.destroy_process_group()


def once(options: argparse.Namespace, workers: int, sharding: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        spawn = multiprocessing.get_context("spawn")
        children = [spawn.Process(target=work, args=(r, workers, folder, options, sharding)) for r in range(workers)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        return json.loads(Path(folder, "answer.json").read_text())  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config.yaml that `raymtl convert census` wrote")
    parser.add_argument("--model", choices=MODELS, default="mmoe")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--sharding", default=f"{PLANNER},row_wise")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    cases = [(int(w), s) for w in options.workers.split(",") for s in options.sharding.split(",")]
    found: dict[tuple[int, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            found[case].append(once(options, *case))
    for (workers, sharding), runs in found.items():
        step_s = statistics.median(run["seconds"] for run in runs) / options.steps
        answer = {
            "workers": workers,
            "sharding": sharding,
            "tables": runs[0]["tables"],
            "rows_per_s": round(options.batch_size / step_s),
            "best_rows_per_s": round(options.batch_size * options.steps / min(run["seconds"] for run in runs)),
            "step_ms": round(1000 * step_s, 2),
            "cpu_ms_per_step": round(1000 * statistics.median(run["cpu_s"] for run in runs) / options.steps, 1),
            "written_kb_per_step": round(runs[0]["sent"] / options.steps / 1000),
            "losses": [[round(loss, 6) for loss in step] for step in runs[0]["losses"]],
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
