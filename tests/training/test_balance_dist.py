"""Balancing through sharded tables: one worker and two alike, one update of the tables per step, resuming after a stop."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.training import checkpoint
from raymtl.training.build import TrainState, build
from raymtl.training.pipeline import make_pipeline
from raymtl.training.progress import Progress
from tests.helpers.version_models import contents
from tests.helpers.worker_processes import mixed_block, mixed_config, several

METHODS: dict[str, dict[str, Any]] = {
    "fixed": {"cosine_every_steps": 2},
    "entropy": {},
    "uncertainty": {},
    "famo": {"lr": 5.0, "smoothing": 0.5, "cosine_every_steps": 3},
    "pcgrad": {},
    "cagrad": {},
    "gradnorm": {"lr": 0.2},
}
STATEFUL = ["entropy", "uncertainty", "famo", "pcgrad", "gradnorm"]
PIPED = ["famo", "cagrad", "gradnorm"]
STEPS, ROWS, WITHOUT_BUY = 4, 24, 1
LR = {"rowwise_adagrad": 0.1, "sgd": 100.0}
RATES = {"click": 0.3, "buy": 0.1, "views": 0.4, "spend": 0.4}


def config_of(method: str, sharding: str = "row_wise", optimizer: str = "rowwise_adagrad", **weights: float) -> Config:
    """Every kind of lookup and of task; all weights 1 but the given ones."""
    raw = mixed_config([sharding], optimizer, ROWS).model_dump(mode="json")
    raw["tasks"] |= {"views": {"kind": "count"}, "spend": {"kind": "real"}}
    for name in raw["tasks"]:
        raw["tasks"][name]["weight"] = weights.get(name, 1.0)
    raw["train"]["sparse_optimizer"]["lr"] = LR[optimizer]
    raw["train"]["balance"] = {"type": method, **METHODS[method]}
    return Config(**raw)


def ragged(config: Config, rank: int, workers: int, step: int) -> Batch:
    """A worker's part of the batch; its first half lacks every `buy`, and at one step no worker has any."""
    block = mixed_block(config, ROWS, seed=step)
    labels = block.column("label:buy").to_numpy().copy()
    labels[: ROWS if step == WITHOUT_BUY else ROWS // 2] = float("nan")
    block = block.set_column(block.column_names.index("label:buy"), "label:buy", [labels])
    rows = ROWS // workers
    batch = Collator(config, rows, False)([block.slice(rank * rows, rows)])
    batch.totals = Collator(config, ROWS, False)([block]).totals
    return batch


def make(config: Config) -> TrainState:
    group = dist.group.WORLD
    assert group is not None
    return build(config, RATES, 10, torch.device("cpu"), group)


def train(built: TrainState, config: Config, rank: int, workers: int, steps: range) -> list[Any]:
    """What each step reports."""
    reports = []
    for step in steps:
        built.optimizers.zero_grad()
        loss, _ = built.model(ragged(config, rank, workers, step))
        loss.backward()
        built.optimizers.step()
        assert built.balancer is not None
        reports.append(built.balancer.report())
    return reports


def dense_state(built: TrainState) -> dict[str, torch.Tensor]:
    """Dense weights, and what the method keeps."""
    kept = [*built.model.named_parameters(), *built.model.named_buffers()]
    return {name: value.detach().clone() for name, value in kept if "head." in name}


def state(built: TrainState, config: Config, rank: int, workers: int) -> dict[str, torch.Tensor]:
    """The dense state, and the evaluation logits of a fixed batch, which tell the tables'."""
    found = dense_state(built)
    built.model.eval()
    with torch.no_grad():
        own = built.model(ragged(config, rank, workers, step=99))[1][0].contiguous()
    built.model.train()
    parts = [torch.empty_like(own) for _ in range(workers)]
    dist.all_gather(parts, own)
    return {**found, "logits": torch.cat(parts)}


# One worker and two


def train_all(rank: int, workers: int, sharding: str) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for method in METHODS:
        config = config_of(method, sharding)
        built = make(config)
        start = dense_state(built)
        reports = train(built, config, rank, workers, range(STEPS))
        answer[method] = {"start": start, "reports": reports, "end": state(built, config, rank, workers)}
    return answer


@pytest.fixture(scope="module", params=["row_wise", "replicated"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """What one worker, and what the first and the second of two, came to."""
    folder = tmp_path_factory.mktemp("balance")
    alone = several(1, folder / "one", train_all, "table_wise")[0]
    first, second = several(2, folder / "two", train_all, request.param)
    return alone, first, second


@pytest.mark.dist
@pytest.mark.parametrize("method", METHODS)
def test_l7_one_worker_and_two_find_the_same_weights(method: str, trained: tuple[Any, Any, Any]) -> None:
    alone, first, second = (answer[method] for answer in trained)
    assert first["reports"] == second["reports"]
    for a, b in zip(alone["reports"], first["reports"], strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-5), key
    for name, value in alone["end"].items():
        torch.testing.assert_close(first["end"][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(first["end"][name], second["end"][name]), name
    if method in STATEFUL:
        assert any(".balancer." in n and not torch.equal(alone["end"][n], v) for n, v in alone["start"].items())
    without = alone["reports"][WITHOUT_BUY]
    assert set(without["weights"]) == {"click", "views", "spend"}  # L6
    measured = {"fixed": [0, 2], "famo": [0, 3], "entropy": [], "uncertainty": []}.get(method, range(STEPS))
    assert [n for n, r in enumerate(alone["reports"]) if "gradient_cosine" in r] == list(measured)


# A stop, and the pipeline


def go_on(rank: int, workers: int, folder: str) -> dict[tuple[str, str], Any]:
    """The same steps with a stop half way, and through the pipeline; of two shardings one before the stop and one after."""
    answer: dict[tuple[str, str], Any] = {}
    for method in STATEFUL:
        config, place = config_of(method), f"{folder}/{method}"
        half = make(config)
        train(half, config, rank, workers, range(STEPS // 2))
        if rank == 0:
            Path(place).mkdir()
        dist.barrier()
        checkpoint.save(half, Progress(step=STEPS // 2), place, dist.group.WORLD, background=False)
        again = make(config_of(method, "replicated"))
        checkpoint.load(again, place, model_only=False, group=dist.group.WORLD)
        again.optimizers.restore(STEPS // 2)
        train(again, config, rank, workers, range(STEPS // 2, STEPS))
        answer[method, "resumed"] = state(again, config, rank, workers)
    for method in PIPED:
        config = config_of(method)
        built = make(config)
        pipeline = make_pipeline(built, torch.device("cpu"))
        batches = iter([ragged(config, rank, workers, step) for step in range(STEPS)])
        for _ in range(STEPS):
            pipeline.progress(batches)
        pipeline.detach()
        answer[method, "piped"] = state(built, config, rank, workers)
    return answer


@pytest.mark.dist
def test_going_on_and_the_pipeline_change_nothing(trained: tuple[Any, Any, Any], tmp_path: Path) -> None:
    for rank, answer in enumerate(several(2, tmp_path / "again", go_on, str(tmp_path))):
        assert len(answer) == len(STATEFUL) + len(PIPED)
        for (method, how), found in answer.items():
            for name, value in trained[1 + rank][method]["end"].items():
                said = f"{method} {how}: {name}"
                torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda m, s=said: f"{s}: {m}")


# The tables


def without_order(config: Config) -> Config:
    order = config.model.order_loss.model_copy(update={"alpha": 0.0})
    return config.model_copy(update={"model": config.model.model_copy(update={"order_loss": order})})


def user_table(built: TrainState) -> torch.Tensor:
    return next(v for k, v in contents(built).items() if k == "user weight").double()


def moved(config: Config) -> tuple[torch.Tensor, dict[str, float]]:
    """Change of the table `user` in one step, and the weights that were reported."""
    built = make(config)
    before = user_table(built)
    report = train(built, config, 0, 1, range(1))[0]
    return user_table(built) - before, report["weights"]


def one_update(rank: int, workers: int, sharding: str) -> dict[Any, Any]:
    """How far the rows of one table move in a step: with Adagrad, with plain SGD, and with SGD for each task alone."""
    answer: dict[Any, Any] = {}
    for task in RATES:
        alone = config_of("fixed", "table_wise", "sgd", **{name: float(name == task) for name in RATES})
        answer[task] = moved(without_order(alone))[0]
    for method in METHODS:
        answer["rowwise_adagrad", method] = moved(config_of(method, sharding))
        answer["sgd", method] = moved(without_order(config_of(method, sharding, "sgd")))
    return answer


@pytest.fixture(scope="module", params=["table_wise", "replicated"])
def updates(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    return several(1, tmp_path_factory.mktemp("updates") / "one", one_update, request.param)[0]


@pytest.mark.dist
@pytest.mark.parametrize("method", METHODS)
def test_l8_one_update_of_the_tables_per_step(method: str, updates: dict[Any, Any]) -> None:
    """Row-wise Adagrad's first update has the mean square lr² in every row; a second one in the same step would add to it."""
    change, _ = updates["rowwise_adagrad", method]
    rows = change[(change != 0).any(1)]
    assert len(rows) > 5
    lr = torch.full((len(rows),), LR["rowwise_adagrad"]).double()
    torch.testing.assert_close(rows.square().mean(1).sqrt(), lr, rtol=1e-3, atol=1e-5)


@pytest.mark.dist
@pytest.mark.parametrize("method", METHODS)
def test_l8_the_tables_take_the_reported_combination(method: str, updates: dict[Any, Any]) -> None:
    """Plain SGD's step is linear in the gradient: a method's is the mix by its weights of what each task does alone."""
    change, weights = updates["sgd", method]
    mix = sum(weights[task] * updates[task] for task in RATES)
    assert change.abs().max() > 0.01
    torch.testing.assert_close(change, mix, rtol=1e-3, atol=1e-6)
    if method in ("pcgrad", "cagrad", "entropy", "famo"):
        assert max(weights.values()) > 1.001
