"""The stages of training, each measured alone: scan, reading, step, plain PyTorch step, end to end."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import nn

from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.data.blocks import BlockMaker
from raymtl.data.dealer import start_dealers
from raymtl.data.read import Input, stream
from raymtl.data.slices import unpacked
from raymtl.data.units import Plan, plan_input
from raymtl.embeddings.tables import describe_lookup
from raymtl.models.inputs import ModelInput
from raymtl.models.ranker import build_ranker
from raymtl.objectives.losses import TaskLosses
from raymtl.training import driver
from raymtl.training.build import build
from raymtl.training.pipeline import make_pipeline
from raymtl.training.resources import reading_tasks
from raymtl.training.steps import epoch_schedule
from raymtl.training.synced_loader import SyncedLoader


def family_cpu_s() -> float:
    """CPU seconds so far of this process and everything below it that still runs."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def figures(rows: int, seconds: float, cpu_s: float) -> dict[str, float]:
    return {
        "rows": rows,
        "rows_per_s": round(rows / seconds),
        "cpu_s_per_million_rows": round(cpu_s / rows * 1e6, 2),
    }


def scan(config: Config) -> dict[str, float]:
    """(a) pyarrow alone reads the needed columns of the training days."""
    plan = plan_input(config, "train")
    columns = BlockMaker(config, evaluation=False).raw_columns()
    start, cpu = time.perf_counter(), time.process_time()
    rows = 0
    for path in dict.fromkeys(f.path for u in plan.units for f in u.fragments):
        rows += sum(len(b) for b in pq.ParquetFile(path).iter_batches(columns=columns, use_threads=False))
    return figures(rows, time.perf_counter() - start, time.process_time() - cpu)


def feed(config: Config, plan: Plan, read_tasks: int) -> SyncedLoader:
    schedule = epoch_schedule(plan, config)
    (dealt,) = stream(Input(plan), schedule, config, workers=1, read_tasks=read_tasks, dealers=start_dealers([1]))
    slices = dealt.iterators[0].iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=config.data.prefetch_blocks
    )
    return SyncedLoader(unpacked(slices, 0), Collator(config, config.train.rows_per_step, False), None)


def reading(config: Config, skip_rows: int = 0) -> dict[str, float]:
    """(b) Ray Data and collation up to the batch, nothing trained; steady state after the first batch and `skip_rows`."""
    plan = plan_input(config, "train")
    rows = skipped = 0
    start, cpu = time.perf_counter(), family_cpu_s()
    for step in feed(config, plan, reading_tasks(config, 1)):
        if skipped <= skip_rows:
            skipped += step.rows
            start, cpu = time.perf_counter(), family_cpu_s()
            continue
        rows += step.rows
    return figures(rows, time.perf_counter() - start, family_cpu_s() - cpu)


def some_batches(config: Config, count: int) -> list[Batch]:
    """The first full batches of the training days."""
    plan = plan_input(config, "train")
    batches: list[Batch] = []
    source = feed(config, plan, 1)
    for step in source:
        if step.rows == config.train.rows_per_step:
            batches.append(step.batch)
        if len(batches) == count:
            break
    source.close()
    return batches


@contextmanager
def alone() -> Iterator[dist.ProcessGroup]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def step(config: Config, batches: list[Batch], threads: int, steps: int) -> dict[str, float]:
    """(c) raymtl's training step, batches in memory, through TorchRec's pipeline as in a run."""
    torch.set_num_threads(threads)
    with alone() as group:
        built = build(config, {}, steps, torch.device("cpu"), group)
        built.model.train()
        pipeline = make_pipeline(built, torch.device("cpu"))
        if built.replicated is not None:  # as the loader's thread does
            batches = built.replicated.touched_rows.prepare(batches, None)
        warm = steps // 4

        def source() -> Iterator[Batch]:
            for n in range(warm + steps):
                yield batches[n % len(batches)]

        it = source()
        start = cpu = 0.0
        for n in range(warm + steps):
            if n == warm:
                start, cpu = time.perf_counter(), time.process_time()
            pipeline.progress(it)
        return figures(steps * len(batches[0].weight), time.perf_counter() - start, time.process_time() - cpu)


class _Plain(nn.Module):
    """The same slots over ordinary nn.EmbeddingBag tables."""

    def __init__(self, config: Config):
        super().__init__()
        lookup = describe_lookup(config)
        self.names = list(lookup.spec.pooled)
        self.bags = nn.ModuleDict(
            {
                n: nn.EmbeddingBag(config.tables[config.table_of(n)].rows, d, mode="sum")
                for n, d in lookup.spec.pooled.items()
            }
        )
        self.ranker = build_ranker(config.model, config.active_tasks(), lookup.spec, {})
        self.losses = TaskLosses(config.active_tasks(), config.model.order_loss)

    def forward(self, batch: Batch, ids: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        pooled = torch.cat([self.bags[n](*ids[n]) for n in self.names], 1)
        logits = self.ranker(ModelInput(pooled, batch.dense))
        totals = batch.totals
        return self.losses(
            logits, batch.labels, batch.observed, batch.weight, batch.valid, totals[:-1], totals[-1], 1
        ).total


def plain_step(config: Config, batches: list[Batch], threads: int, steps: int) -> dict[str, float]:
    """The yardstick: the same shapes in plain PyTorch, dense gradients and one Adam over everything."""
    torch.set_num_threads(threads)
    model = _Plain(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=True)
    prepared = []
    for batch in batches:
        ids = {k: (batch.ids[k].values(), batch.ids[k].offsets()[:-1]) for k in model.names}
        prepared.append((batch, ids))
    warm = steps // 4
    start = cpu = 0.0
    for n in range(warm + steps):
        if n == warm:
            start, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        model(*prepared[n % len(prepared)]).backward()
        optimizer.step()
    return figures(steps * len(batches[0].weight), time.perf_counter() - start, time.process_time() - cpu)


def end_to_end(config: Config, skip_rows: int) -> dict[str, float]:
    """(d) a whole run on Ray; steady state: from the log line after `skip_rows` to the last one, by the clock on the wall."""
    with tempfile.TemporaryDirectory() as output:
        config = config.model_copy(update={"output": output, "name": "bench"})
        marks: list[tuple[float, float, int]] = []

        def on_event(item: dict[str, Any]) -> None:
            if item.get("kind") == "train":
                marks.append((item["time"], family_cpu_s(), item["rows"]))

        result = driver.train(config, on_event=on_event)
        first = next(m for m in marks if m[2] >= skip_rows)
        last = marks[-1]
        waits = [window["data_wait"] for window in windows(Path(output, "bench"))]
        answer = figures(last[2] - first[2], last[0] - first[0], last[1] - first[1])
        return answer | {
            "data_wait": round(sum(waits[1:]) / max(1, len(waits) - 1), 3),
            "worker_peak_mib": round(result["peak_memory_bytes"] / 2**20),
        }


def windows(run: str | Path) -> list[dict[str, Any]]:
    """The windows of a run's training, from its folder."""
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "train"]


def whole(found: list[dict[str, Any]]) -> float:
    """Rows/s from the first step of a run to the last one, by the clock on the wall."""
    began = found[0]["time"] - found[0]["rows"] / found[0]["rows_per_s"]
    return found[-1]["rows"] / (found[-1]["time"] - began)


def steady(found: list[dict[str, Any]]) -> float:
    """Rows/s of the windows after the first third of a run."""
    first = len(found) // 3
    rows = [after["rows"] - before["rows"] for before, after in pairwise(found[first:])]
    seconds = [count / window["rows_per_s"] for count, window in zip(rows, found[first + 1 :], strict=True)]
    return sum(rows) / sum(seconds)


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2), "torch": torch.__version__}
