"""DIN with a search on real batches: one worker and three, other shardings, requests and a checkpoint between them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import checkpoint
from raymtl.training.build import TrainState, build
from raymtl.training.progress import Progress
from tests.helpers.worker_processes import several
from tests.training.test_every_preset import batches, logits
from tests.training.test_requests import ROWS, configured

STEPS = 4


def steps_of(built: TrainState, batch: Any) -> list[float]:
    built.optimizers.zero_grad()
    loss, (_, per_task, *_) = built.model(batch)
    loss.backward()
    built.optimizers.step()
    return [loss.item(), *per_task.tolist()]


def train_some(rank: int, workers: int, logs: str, folder: str, more: list[str], load: bool) -> Any:
    """Losses of the first steps before a checkpoint, or after it, and the logits at the checkpoint."""
    group = dist.group.WORLD
    assert group is not None
    config = configured("din", logs, *more)
    some, rates = batches(config, rank, workers, 2 * STEPS, ROWS)
    built = build(config, rates, 2 * STEPS, torch.device("cpu"), group)
    if load:
        checkpoint.load(built, folder, model_only=False, group=group)
        seen = logits(built, some[0])
        return [steps_of(built, batch) for batch in some[STEPS:]], seen, built.sharding
    losses = [steps_of(built, batch) for batch in some[:STEPS]]
    seen = logits(built, some[0])
    Path(folder).mkdir(exist_ok=True)
    checkpoint.save(built, Progress(step=STEPS), folder, group, False)
    return losses + [steps_of(built, batch) for batch in some[STEPS:]], seen, built.sharding


def mean(parts: list[Any]) -> Tensor:
    """The losses over all workers: each worker has those of its rows, times the number of workers."""
    return torch.tensor([part[0] for part in parts]).mean(0)


@pytest.mark.dist
def test_one_worker_and_three(tmp_path: Path) -> None:
    logs = str(tmp_path / "logs")
    write_logs(SynthSpec(days=1, rows_per_day=2_000, users=60, items=80, interest=1.0), logs)
    one, three = str(tmp_path / "one"), str(tmp_path / "three")
    requests = ["data.request=request_id"]
    sharded = [*requests, "table_defaults.sharding=row_wise"]
    [alone] = several(1, tmp_path / "a", train_some, logs, one, [], False)
    parts = several(3, tmp_path / "b", train_some, logs, three, sharded, False)
    assert set(parts[0][2].values()) == {"row_wise"}
    torch.testing.assert_close(mean(parts), torch.tensor(alone[0]), rtol=1e-5, atol=1e-6)
    seen = torch.cat([part[1] for part in parts])
    torch.testing.assert_close(seen, alone[1], rtol=1e-5, atol=1e-5)
    # The checkpoint of three workers with sharded tables, on one with replicated ones, and on three by tables
    [again] = several(1, tmp_path / "c", train_some, logs, three, requests, True)
    torch.testing.assert_close(again[1], seen, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(again[0]), mean(parts)[STEPS:], rtol=1e-5, atol=1e-6)
    by_table = ["table_defaults.sharding=table_wise"]
    others = several(3, tmp_path / "d", train_some, logs, one, by_table, True)
    torch.testing.assert_close(torch.cat([part[1] for part in others]), alone[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(mean(others), torch.tensor(alone[0][STEPS:]), rtol=1e-5, atol=1e-6)
