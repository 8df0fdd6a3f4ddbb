"""How much faster training is when the rows of a request share its user side: flat rows against `data.request`, in turn.

python -m tests.benchmarks.training.requests [--presets dupn,dtrn,m2m,mmoe] [--workers 1,2] [--request-rows 10] [--history 50]
python -m tests.benchmarks.training.requests --exchange [--workers 4]
python -m tests.benchmarks.training.requests --auc [--presets mmoe,dupn]

Synthetic logs, blocks in memory. Workers are processes of one thread over gloo; each builds both models and trains the same rows
with them in turn, a step of each at a time. A step includes collation, as the loader's thread does it. Prints the ratio of the
median steps and where the time goes. `--exchange` shards the table of the histories by rows instead, and counts the bytes that
a worker sends to the others in a step: IDs with their lengths, vectors and their gradients. `--auc` trains flat rows and requests
on three days of 100,000 rows, three seeds each, in this process alone, and prints the AUC of the clicks of a fourth day.
"""

import argparse
import inspect
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.requests import own_requests
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.build import TrainState, build
from tests.benchmarks.training.inprocess import train
from tests.helpers.worker_processes import several

ROOT = Path(__file__).parents[3]
LAYOUTS = {"flat": [], "request": ["data.request=request_id"]}
HISTORIES = ("hist_items", "hist_carts", "hist_buys", "hist_kinds", "hist_gaps", "hist_hours")
WARM_UP = 2


def configured(preset: str, logs: str, batch_size: int, history: int, keys: list[str]) -> Config:
    path = str(ROOT / "jobs" / "conf" / f"{preset}.yaml")
    sets = [
        f"data.path={logs}",
        f"train.batch_size={batch_size}",
        "data.train={start: 2026-01-02, end: 2026-01-02}",
        "data.eval=null",
        "train.precision=fp32",
        *keys,
    ]
    plain = load_config(path, sets)
    long = [f"features.{n}.max_length={history}" for n in HISTORIES if n in plain.features]
    return load_config(path, [*sets, *long, "features.user_id.side=user"])


def steps(built: TrainState, config: Config, rank: int, workers: int, count: int) -> Iterator[dict[str, float]]:
    """Yields the seconds of each step."""
    plan = plan_input(config, "train")
    maker = BlockMaker(config, evaluation=False)
    rows = config.train.rows_per_step
    collator = Collator(config, rows // workers, False)
    whole = Collator(config, rows, False)
    fragments = [f for unit in plan.units for f in unit.fragments]
    raws = (raw for f in fragments for raw in read_fragment(plan.root, f, maker.raw_columns(), rows * count))
    raw, row = next(raws)
    block = maker(raw, Place("part", row), 0)
    group = dist.group.WORLD
    for step in range(len(block) // rows):
        part = block.slice(step * rows, rows)
        mine = own_requests(part.slice(rank * rows // workers, rows // workers))
        totals = whole([part]).totals
        dist.barrier()
        began = time.perf_counter()
        batch = collator([mine])
        batch.totals = totals
        if built.replicated is not None:
            [batch] = built.replicated.touched_rows.prepare([batch], group)
        collated = time.perf_counter()
        built.optimizers.zero_grad()
        loss, _ = built.model(batch)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        built.optimizers.step()
        done = time.perf_counter()
        yield {
            "collate": collated - began,
            "forward": forward - collated,
            "backward": backward - forward,
            "update": done - backward,
            "step": done - began,
        }


def compared(rank: int, workers: int, preset: str, logs: str, options: dict[str, int]) -> dict[str, dict[str, float]]:
    group = dist.group.WORLD
    assert group is not None
    running = {}
    for layout, keys in LAYOUTS.items():
        config = configured(preset, logs, options["batch_size"], options["history"], keys)
        rates = sample_base_rates(config, plan_input(config, "train"))
        built = build(config, rates, options["steps"], torch.device("cpu"), group)
        running[layout] = steps(built, config, rank, workers, options["steps"])
    times: dict[str, list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    for found in zip(*running.values(), strict=True):
        for layout, seconds in zip(LAYOUTS, found, strict=True):
            times[layout].append(seconds)
    return {
        layout: {part: statistics.median(step[part] for step in all_steps[WARM_UP:]) for part in all_steps[0]}
        for layout, all_steps in times.items()
    }


def exchanged(rank: int, workers: int, logs: str, options: dict[str, int]) -> dict[str, dict[str, float]]:
    """Bytes of all-to-all exchanges to other workers in a step, by the layout."""
    group = dist.group.WORLD
    assert group is not None
    sent = 0.0
    exchange = dist.all_to_all_single

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal sent
        call = inspect.signature(exchange).bind(*arguments, **named).arguments
        given = call["input"]
        splits = call.get("input_split_sizes") or [len(given) // workers] * workers
        sent += given.nbytes / max(len(given), 1) * (sum(splits) - splits[rank])
        return exchange(*arguments, **named)

    dist.all_to_all_single = counted
    found = {}
    for layout, keys in LAYOUTS.items():
        # histories alone: no other feature reads the sharded table
        others = (f"tables.{name}.sharding=replicated" for name in ("user_id", "candidate", "brand"))
        own = ("features.item_id.table=candidate", "tables.candidate={rows: 11000}", "tables.item_id.sharding=row_wise")
        keys = [*keys, *own, *others]
        config = configured("mmoe", logs, options["batch_size"], options["history"], keys)
        built = build(config, sample_base_rates(config, plan_input(config, "train")), 1, torch.device("cpu"), group)
        assert built.sharding["item_id"] == "row_wise"
        assert [name for name, kind in built.sharding.items() if kind != "replicated"] == ["item_id"]
        list_of_steps = steps(built, config, rank, workers, options["steps"])
        next(list_of_steps)  # the first also exchanges what does not change
        before = sent
        count = sum(1 for _ in list_of_steps)
        found[layout] = {"bytes": (sent - before) / count}
    dist.all_to_all_single = exchange
    return found


def aucs(preset: str, folder: str) -> None:
    """Print the AUC of both layouts after one pass, by seed."""
    days = ["data.train={start: 2026-01-01, end: 2026-01-03}", "data.eval={start: 2026-01-04, end: 2026-01-04}"]
    for layout, keys in LAYOUTS.items():
        found = []
        for seed in range(3):
            seeds = [f"train.seed={seed}", f"data.shuffle.seed={seed}"]
            path = str(ROOT / "jobs" / "conf" / f"{preset}.yaml")
            config = load_config(path, [f"data.path={folder}", *days, *keys, *seeds])
            trained = train(config)
            found.append(trained["metrics"]["tasks"]["click"]["auc"])
            assert trained["rows"] == 300_000
        print(f"{preset}, {layout}: click AUC {', '.join(f'{auc:.4f}' for auc in found)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", default="dupn,dtrn,m2m,mmoe")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--request-rows", type=int, default=10)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--exchange", action="store_true")
    parser.add_argument("--auc", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.auc:
            write_logs(SynthSpec(days=4, rows_per_day=100_000, behaviours=True, engagement=True), f"{folder}/logs")
            for preset in options.presets.split(","):
                aucs(preset, f"{folder}/logs")
            return
        spec = SynthSpec(
            days=2,  # after the first most histories are full
            rows_per_day=100_000,
            last_day_rows=options.batch_size * (options.steps + 1),
            users=200,
            items=5_000,
            history=options.history,
            request_rows=options.request_rows,
            behaviours=True,
            engagement=True,
        )
        write_logs(spec, f"{folder}/logs")
        given: dict[str, Any] = {"batch_size": options.batch_size, "history": options.history, "steps": options.steps}
        if options.exchange:
            workers = max(map(int, options.workers.split(",")))
            [found, *_] = several(workers, Path(folder, "run"), exchanged, f"{folder}/logs", given, limit_s=600)
            flat, shared = (found[layout]["bytes"] for layout in LAYOUTS)
            print(f"{workers} workers, histories of {options.history}, {options.request_rows} rows per request:")
            print(
                f"    flat {flat:,.0f} bytes a step and worker, by request {shared:,.0f}: {flat / shared:.1f} times fewer"
            )
            return
        for preset in options.presets.split(","):
            for workers in map(int, options.workers.split(",")):
                place = Path(folder, f"run-{preset}-{workers}")
                [found, *_] = several(workers, place, compared, preset, f"{folder}/logs", given, limit_s=600)
                ratio = found["flat"]["step"] / found["request"]["step"]
                print(f"{preset}, {workers} workers: {ratio:.2f} times")
                for layout, parts in found.items():
                    shown = ", ".join(f"{part} {1000 * seconds:.1f}" for part, seconds in parts.items())
                    print(f"    {layout}: {shown} ms", flush=True)


if __name__ == "__main__":
    main()
