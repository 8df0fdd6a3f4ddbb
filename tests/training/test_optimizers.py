"""The schedule by hand, and what the tables' optimizer does to a row."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor

from raymtl.config.slots.penalties import OrderLoss
from raymtl.config.train import Schedule
from raymtl.embeddings.names import table_of
from raymtl.model_store.writer import dense_optimizer, dense_weights
from raymtl.training.build import build
from raymtl.training.optimizers import schedule_factor
from tests.helpers.mixed_models import make, train
from tests.helpers.worker_processes import mixed_config, several, share


@pytest.mark.parametrize(
    ("schedule", "steps", "factors"),
    [
        ({}, 4, [1, 1, 1, 1]),
        ({"warmup_steps": 4}, 6, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"decay": "linear"}, 5, [1, 0.75, 0.5, 0.25, 0]),
        ({"warmup_steps": 2, "decay": "linear", "final_factor": 0.5}, 5, [0.5, 1, 1, 0.75, 0.5]),
        ({"decay": "cosine", "final_factor": 0.2}, 3, [1, 0.6, 0.2]),
    ],
)
def test_schedule(schedule: dict[str, Any], steps: int, factors: list[float]) -> None:
    found = [schedule_factor(Schedule(**schedule), n, steps) for n in range(steps)]
    assert found == pytest.approx(factors)


def table(model: torch.nn.Module, name: str) -> torch.Tensor:
    found = next(v for k, v in model.state_dict().items() if table_of(k) == name)
    return (found.local_shards()[0].tensor if isinstance(found, ShardedTensor) else found).clone()


def one_step(rank: int, workers: int, optimizer: str) -> dict[str, Any]:
    """Weights of the table `user` before and after one step, the rows with a label to learn from, and the schedule's factors."""
    config = mixed_config(["table_wise"], optimizer, schedule={"warmup_steps": 4})
    config = config.model_copy(update={"model": config.model.model_copy(update={"order_loss": OrderLoss()})})
    group = dist.group.WORLD
    assert group is not None
    built = build(config, {"click": 0.3, "buy": 0.1}, 10, torch.device("cpu"), group)
    batch = share(config, rank, workers, seed=5)
    before = table(built.model, "user")
    rates = [built.optimizers.factor]
    answer = {"before": before}
    loss, _ = built.model(batch)
    built.optimizers.zero_grad()
    loss.backward()
    built.optimizers.step()
    rates.append(built.optimizers.factor)
    answer["after"] = table(built.model, "user")
    rows = batch.ids["user"].to_dense()  # per row of the batch its IDs: one, or none where it is null
    labelled = batch.observed.any(1).tolist()
    answer["learned"] = sorted({int(i) for ids, known in zip(rows, labelled, strict=True) if known for i in ids})
    answer["rates"] = rates
    return answer


@pytest.mark.dist
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "sgd", "adagrad"])
def test_only_the_rows_of_the_batch_move(optimizer: str, tmp_path: Path) -> None:
    answer = several(1, tmp_path / "run", one_step, optimizer)[0]
    moved = (answer["after"] != answer["before"]).any(1).nonzero().flatten().tolist()
    assert 0 < len(moved) < 51
    assert moved == answer["learned"]
    assert answer["rates"] == [0.25, 0.5]
    if optimizer == "rowwise_adagrad":
        # I7: the first step is lr · g / (sqrt(mean g²) + ε), so its mean square over a row is lr²; lr = 0.1 · 1/4
        step = (answer["after"] - answer["before"])[moved]
        torch.testing.assert_close(step.pow(2).mean(1).sqrt(), torch.full((len(moved),), 0.025), rtol=1e-3, atol=1e-5)
    if optimizer == "adagrad":
        step = (answer["after"] - answer["before"])[moved]
        # lr · g / (|g| + ε), so lr but where the gradient is as small as ε
        assert step.abs().max() <= 0.025 * 1.001
        assert ((step.abs() - 0.025).abs() < 1e-4).float().mean() > 0.8


def frozen(rank: int, workers: int) -> list[dict[str, torch.Tensor]]:
    """Dense weights with their moments, and a table, before and after steps with the dense weights frozen, and the factors."""
    decaying = {"type": "adamw", "weight_decay": 0.1}
    config = mixed_config([None], clip_grad_norm=0.1, dense_optimizer=decaying, schedule={"warmup_steps": 10})
    built = make(config)
    stages = []
    for n in range(3):
        train(built, config, range(2 * n, 2 * n + 2))
        dense = {**dense_weights(built), **dense_optimizer(built)}
        stages.append({"user": table(built.model, "user"), **{k: v.clone() for k, v in dense.items()}})
        stages[-1]["factor"] = torch.tensor(built.optimizers.factor)
        built.optimizers.freeze_dense()
    return stages


@pytest.mark.dist
def test_frozen_dense_weights_and_their_moments_stay_and_the_tables_learn(tmp_path: Path) -> None:
    first, *later = several(1, tmp_path / "run", frozen)[0]
    assert any("exp_avg" in key for key in first)
    for before, after in zip((first, *later), later, strict=False):
        changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
        assert changed == {"user", "factor"}
    assert [stage["factor"].item() for stage in (first, *later)] == pytest.approx([0.3, 0.5, 0.7])
