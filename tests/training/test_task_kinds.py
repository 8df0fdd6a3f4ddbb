"""Tasks of every kind in the real training step: one worker and three, and a checkpoint of three that one worker loads."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.training import checkpoint
from raymtl.training.build import TrainState, build
from raymtl.training.distributed import compute_metrics
from raymtl.training.progress import Progress
from tests.helpers.task_kinds import RAW, TASKS, labels_of_kinds, rates_of
from tests.helpers.worker_processes import mixed_block, mixed_config, several

ROWS, STEPS, MORE = 48, 3, 2


def kinds_config(sharding: str) -> Config:
    raw = mixed_config([sharding], "sgd", rows=ROWS).model_dump(exclude_unset=True)
    raw["tasks"] = RAW
    raw["model"] = {key: value for key, value in raw["model"].items() if key != "order_loss"}
    return config_from_dict(raw)


def kinds_block(config: Config, seed: int) -> pa.Table:
    """Random rows; a third of the labels are not observed."""
    block, labels = mixed_block(config, ROWS, seed), labels_of_kinds(ROWS, seed)
    for t, name in enumerate(TASKS):
        column = f"label:{name}"
        seen = ~torch.tensor(block.column(column).to_numpy()).isnan()
        found = pa.array(labels[:, t].where(seen, torch.nan).numpy())
        block = block.set_column(block.schema.get_field_index(column), column, found)
    return block


def part_of(config: Config, rank: int, workers: int, seed: int) -> Batch:
    block, rows = kinds_block(config, seed), ROWS // workers
    batch = Collator(config, rows, False)([block.slice(rank * rows, rows)])
    batch.totals = Collator(config, ROWS, False)([block]).totals
    return batch


def made(config: Config) -> TrainState:
    torch.manual_seed(0)
    group = dist.group.WORLD
    assert group is not None
    return build(config, rates_of(labels_of_kinds(2000, seed=9)), 100, torch.device("cpu"), group)


def steps(state: TrainState, config: Config, rank: int, workers: int, seeds: range) -> list[Tensor]:
    """The losses of the tasks in each step."""
    found = []
    for seed in seeds:
        loss, (_, per_task, *_) = state.model(part_of(config, rank, workers, seed))
        state.optimizers.zero_grad()
        loss.backward()
        state.optimizers.step()
        per_task = per_task.clone()
        dist.all_reduce(per_task)
        found.append(per_task / workers)
    return found


def measured(state: TrainState, config: Config, rank: int, workers: int) -> tuple[dict[str, Any], Tensor]:
    """The metrics, and this worker's logits."""
    ranker = state.model.module.head.ranker
    metrics = EvalMetrics(config.active_tasks(), [])
    state.model.eval()
    with torch.no_grad():
        batch = part_of(config, rank, workers, 77)
        _, (logits, *_) = state.model(batch)
        logits = ranker.corrected(logits)
        metrics.update(logits, batch.labels, batch.observed, batch.weight, batch.valid)
    state.model.train()
    group = dist.group.WORLD
    assert group is not None
    return compute_metrics(metrics, group), logits


def train(rank: int, workers: int, folder: str, sharding: str) -> Any:
    config = kinds_config(sharding)
    state = made(config)
    losses = steps(state, config, rank, workers, range(STEPS))
    Path(folder).mkdir(exist_ok=True)
    checkpoint.save(state, Progress(step=STEPS), folder, dist.new_group(backend="gloo"), False)
    result, logits = measured(state, config, rank, workers)
    return losses + steps(state, config, rank, workers, range(STEPS, STEPS + MORE)), result, logits


def resume(rank: int, workers: int, folder: str, sharding: str) -> Any:
    config = kinds_config(sharding)
    state = made(config)
    for parameter in state.model.parameters():
        parameter.data.zero_()
    checkpoint.load(state, folder, model_only=False, group=dist.group.WORLD)
    result, logits = measured(state, config, rank, workers)
    return steps(state, config, rank, workers, range(STEPS, STEPS + MORE)), result, logits


@pytest.mark.dist
def test_three_workers_train_as_one_and_their_checkpoint_reshards(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoint")
    ((alone, one, logits),) = several(1, tmp_path / "one", train, str(tmp_path / "other"), "table_wise")
    answers = several(3, tmp_path / "three", train, folder, "row_wise")
    together = torch.cat([found for *_, found in answers])
    torch.testing.assert_close(together, logits, rtol=1e-4, atol=1e-4)
    assert alone[-1].isfinite().all()
    for losses, result, _ in answers:
        for a, b in zip(alone, losses, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
        for name, report in one["tasks"].items():
            for metric, value in report.items():
                if isinstance(value, float):
                    assert result["tasks"][name][metric] == pytest.approx(value, rel=1e-3, abs=1e-4), (name, metric)
    ((gone_on, again, restored),) = several(1, tmp_path / "again", resume, folder, "table_wise")
    torch.testing.assert_close(restored, together, rtol=1e-6, atol=1e-6)
    for a, b in zip(answers[0][0][STEPS:], gone_on, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    assert again["tasks"]["topic"]["logloss"] == pytest.approx(answers[0][1]["tasks"]["topic"]["logloss"], rel=1e-6)
