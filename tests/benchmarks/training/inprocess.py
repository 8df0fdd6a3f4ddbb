"""A whole training in this process alone: the same blocks, batches, model, loop and metrics as in a run, without Ray.

For comparisons of many models, where starting a cluster for each would take longer than training.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.id_map import MapFile
from raymtl.data.read import Input, Schedule
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import Plan, plan_input
from raymtl.training.build import TrainState, build
from raymtl.training.progress import Progress
from raymtl.training.steps import planned_steps, with_batch_size
from raymtl.training.synced_loader import SyncedLoader
from raymtl.training.trainer import Trainer, Worker
from tests.benchmarks.training.stages import alone

BLOCK_ROWS = 65_536


def blocks(
    config: Config,
    plan: Plan,
    schedule: Schedule,
    evaluation: bool,
    extra: Iterable[str] = (),
    maps: Mapping[str, MapFile | None] | None = None,
) -> Iterator[pa.Table]:
    """The blocks of a schedule, in its order; `extra` raw columns ride along as `raw:<name>`."""
    maker, more = BlockMaker(config, evaluation, maps), list(extra)
    columns = list(dict.fromkeys([*maker.raw_columns(), *more]))
    for place, (_, number) in enumerate(schedule):
        for fragment in plan.units[number].fragments:
            for raw, row in read_fragment(plan.root, fragment, columns, BLOCK_ROWS):
                block = maker(raw, Place(fragment.path, row), place)
                for name in more:
                    block = block.append_column(f"raw:{name}", raw.column(name))
                yield block


def train(config: Config, threads: int = 1, extra: Iterable[str] = ()) -> dict[str, Any]:
    """Train by one worker of `threads` threads and return metrics, speed, sizes and the predictions on the evaluation days.

    `rows_per_cpu_s` counts trained rows over the CPU time of everything: reading, training and evaluation.

    `predictions` has an array for every output, and one for every `extra` column of the logs, in the order of the rows.
    """
    torch.set_num_threads(threads)
    config = config.model_copy(update={"train": config.train.model_copy(update={"workers": 1})})
    plans = {part: plan_input(config, part) for part in ("train", "eval")}
    config = with_batch_size(config, plans["train"].rows)
    with alone() as group:
        steps = planned_steps(config, plans["train"], evaluates=True)
        built = build(config, sample_base_rates(config, plans["train"]), steps, torch.device("cpu"), group)
        worker = Worker(
            0,
            1,
            torch.device("cpu"),
            group,
            None,
            None,
            lambda source, schedule, meetings: blocks(config, source.plan, schedule, source.evaluation),
        )
        progress = Progress()
        cpu = time.process_time()
        inputs = {part: Input(plan, part == "eval") for part, plan in plans.items()}
        Trainer(worker, config, built, inputs, progress, None, lambda: None).run()
        return {
            "metrics": progress.evaluations[-1]["metrics"],
            "rows": progress.rows,
            "rows_per_s": progress.rows / progress.train_seconds,
            "rows_per_cpu_s": progress.rows / (time.process_time() - cpu),
            "dense_parameters": sum(p.numel() for p in built.optimizers.dense_parameters),
            "predictions": predict(built, config, plans["eval"], extra),
        }


@torch.no_grad()
def predict(built: TrainState, config: Config, plan: Plan, extra: Iterable[str]) -> dict[str, np.ndarray]:
    """Predictions on every row of the plan, in order."""
    ranker = built.model.module.head.ranker
    names = ranker.outputs.names
    found: list[torch.Tensor] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in extra}
    seen: list[pa.Table] = []

    def noted() -> Iterator[pa.Table]:
        for block in blocks(config, plan, [(0, n) for n in range(len(plan.units))], True, extra):
            seen.append(block.select([f"raw:{name}" for name in columns]))
            yield block

    built.model.eval()
    for step in SyncedLoader(noted(), Collator(config, config.train.rows_per_step, True), None):
        logits = built.model(step.batch)[1][0]
        found.append(ranker.predictions(logits)[step.batch.valid])
    built.model.train()
    values = torch.cat(found).numpy()
    for block in seen:
        for name in columns:
            columns[name].append(block.column(f"raw:{name}").to_numpy())
    return {name: values[:, n] for n, name in enumerate(names)} | {n: np.concatenate(c) for n, c in columns.items()}
