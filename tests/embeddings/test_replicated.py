"""Replicated tables learn what sharded ones learn, on any number of workers, and reshard exactly in both directions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from raymtl.config.features import Init
from raymtl.config.root import Config
from raymtl.embeddings.rows import decay_state, fill, reset_rows, table_rows, weight_square_sum
from raymtl.training import checkpoint
from raymtl.training.build import TrainState
from raymtl.training.pipeline import make_pipeline
from raymtl.training.progress import Progress
from tests.helpers.version_models import contents, logits, make, mixed_config, share, train
from tests.helpers.worker_processes import several

STEPS = 6
OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd")
SOME = ["replicated", "row_wise", "replicated", "table_wise"]


def every_lookup(sharding: list[str | None], optimizer: str, **train: Any) -> Config:
    """`mixed_config` with a bias feature, a bag and a single ID of the table that a history reads, a sum over a bag, a table that
    two pooled features share, a `map` table, another width, a learning rate of its own, bags with weights, numbers of steps."""
    raw = mixed_config(sharding, optimizer, **train).model_dump(mode="json")
    kinds = [sharding[n % len(sharding)] for n in range(8)]
    raw["features"] |= {
        "place": {"kind": "bias"},
        "seen_items": {"kind": "ids", "table": "item"},
        "topics": {"kind": "ids"},
        "home_city": {"kind": "id", "table": "city"},
        "shop": {"kind": "id"},
        "labels": {"kind": "ids", "weights": "label_weights"},
        "liked_items": {"kind": "ids", "table": "item", "weights": "likes"},
        "gap": {"kind": "sequence_dense", "of": "history"},
    }
    raw["tables"] |= {
        "place": {"rows": 7, "dim": 8, "sharding": kinds[4]},
        "topics": {"rows": 23, "dim": 8, "sharding": kinds[5]},
        "shop": {"rows": 19, "id_space": "map", "lr": 0.03, "sharding": kinds[6]},
        "labels": {"rows": 29, "sharding": kinds[7]},
    }
    raw["tables"]["item"]["pooling"] = "mean"
    raw["model"]["bias"] = {"type": "position", "dropout": 0.0}
    return Config(**raw)


def trained(rank: int, workers: int, cases: list[tuple[list[str], str]], pipeline: bool) -> Any:
    """What the model holds after a few steps, with its losses and logits."""
    found = []
    for sharding, optimizer in cases:
        config = every_lookup(sharding, optimizer, clip_grad_norm=1.0, schedule={"warmup_steps": 3, "decay": "linear"})
        built = make(config)
        assert set(built.sharding.values()) == set(sharding)
        if pipeline:
            piped(built, config)
            losses = []
        else:
            losses = train(built, config, range(STEPS))
        found.append((losses, contents(built), logits(built, config)))
    return found


def piped(built: TrainState, config: Config) -> None:
    """The same steps through the pipeline, with batches that a loader has prepared, several at a time."""
    batches = [share(config, dist.get_rank(), dist.get_world_size(), seed) for seed in range(STEPS)]
    if built.replicated is not None:
        prepare = built.replicated.touched_rows.prepare
        batches = prepare(batches[:4], dist.group.WORLD) + prepare(batches[4:], dist.group.WORLD)
    pipeline = make_pipeline(built, torch.device("cpu"))
    source = iter(batches)
    for _ in range(STEPS):
        pipeline.progress(source)
    pipeline.detach()


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.dist
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_replicated_tables_learn_what_sharded_ones_learn(workers: int, tmp_path: Path) -> None:
    sharded = several(workers, tmp_path / "sharded", trained, [(["row_wise"], o) for o in OPTIMIZERS], False)[0]
    expected = dict(zip(OPTIMIZERS, sharded, strict=True))
    cases = [(sharding, optimizer) for optimizer in OPTIMIZERS for sharding in (["replicated"], SOME)]
    for pipeline in (False, True):
        for answer in several(workers, tmp_path / f"piped-{pipeline}", trained, cases, pipeline):
            for (_, optimizer), (losses, values, seen) in zip(cases, answer, strict=True):
                its_losses, its_values, its_logits = expected[optimizer]
                if losses:
                    torch.testing.assert_close(torch.tensor(losses), torch.tensor(its_losses), rtol=0, atol=1e-6)
                same(values, its_values, 1e-6)
                torch.testing.assert_close(seen, its_logits, rtol=0, atol=1e-6)


# Resharding

HELD = [
    (2, ["replicated"], "rowwise_adagrad"),
    (3, ["row_wise"], "rowwise_adagrad"),
    (1, ["replicated", "table_wise"], "adagrad"),
    (2, ["column_wise"], "adagrad"),
    (3, ["replicated"], "adagrad"),
    (1, ["table_wise"], "rowwise_adagrad"),
    (3, ["replicated", "column_wise"], "rowwise_adagrad"),
]
"""Workers, sharding and optimizer, in the order in which a model with that optimizer moves from one to the next."""


def move(rank: int, workers: int, folder: str, number: int, sharding: list[str], optimizer: str, first: bool) -> Any:
    """Load what the one before has saved, or train at first; save it; and what the model then holds and does."""
    config = every_lookup(sharding, optimizer, clip_grad_norm=1.0)
    built, group = make(config), dist.group.WORLD
    if first:
        train(built, config, range(4))
    else:
        checkpoint.load(built, f"{folder}/{optimizer}-{number - 1}", model_only=False, group=group)
        built.optimizers.restore(4)
    held, seen = contents(built), logits(built, config)
    place = f"{folder}/{optimizer}-{number}"
    Path(place).mkdir(exist_ok=True)
    checkpoint.save(built, Progress(step=4), place, group, background=False)
    return held, seen, train(built, config, range(4, 7))


@pytest.mark.dist
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_rows_and_states_are_equal_under_every_sharding(optimizer: str, tmp_path: Path) -> None:
    moves = [(workers, sharding) for workers, sharding, kind in HELD if kind == optimizer]
    found = []
    for number, (workers, sharding) in enumerate(moves):
        run = tmp_path / f"run-{number}"
        found.append(several(workers, run, move, str(tmp_path), number, sharding, optimizer, number == 0)[0])
    held, seen, after = found[0]
    for (_, sharding), (its, its_logits, its_losses) in zip(moves[1:], found[1:], strict=True):
        for key, value in held.items():
            # one accumulator a row becomes one per column shard, and their mean again: rounded
            exact = not ("column_wise" in sharding and key.endswith(" momentum1") and optimizer == "rowwise_adagrad")
            assert torch.equal(its[key], value) if exact else torch.allclose(its[key], value, rtol=1e-6), (
                sharding,
                key,
            )
        torch.testing.assert_close(its_logits, seen, rtol=0, atol=1e-6)
        if "column_wise" not in sharding:
            torch.testing.assert_close(torch.tensor(its_losses), torch.tensor(after), rtol=0, atol=1e-5)


def saved_bytes(rank: int, workers: int, folder: str) -> int:
    """Bytes of a checkpoint of replicated tables alone, together with the dense weights."""
    built = make(mixed_config(["replicated"]))
    Path(folder).mkdir(exist_ok=True)
    checkpoint.save(built, Progress(), folder, dist.group.WORLD, background=False)
    dist.barrier()
    return sum(path.stat().st_size for path in Path(folder).iterdir())


@pytest.mark.dist
def test_a_checkpoint_holds_a_replicated_table_once(tmp_path: Path) -> None:
    one = several(1, tmp_path / "one", saved_bytes, str(tmp_path / "a"))[0]
    three = several(3, tmp_path / "three", saved_bytes, str(tmp_path / "b"))[0]
    assert three < 1.3 * one


def changed_everywhere(rank: int, workers: int) -> dict[str, Any]:
    """What each worker's own replica holds after rows were filled, reset and decayed; and the sum of squares over the workers."""
    built = make(every_lookup(["replicated"], "rowwise_adagrad"))
    train(built, every_lookup(["replicated"], "rowwise_adagrad"), range(2))
    table = table_rows(built.model, dist.group.WORLD)["shop"]
    rows = np.array([1, 5, 18])
    new = {"weight": np.full((3, 16), 2.0, np.float32), "momentum1": np.full(3, 4.0, np.float32)}
    fill(table.local[0], rows, new["weight"], {"momentum1": new["momentum1"]})
    decay_state(table, 0.5)
    reset_rows(table, np.array([5]), Init(distribution="uniform", scale=0.5), 3)
    squares = torch.tensor(weight_square_sum(table)[0], dtype=torch.float64)
    dist.all_reduce(squares)
    assert built.replicated is not None
    held = built.replicated.tables()["shop"]
    return {"weight": held.weight.clone(), "state": held.state["momentum1"].clone(), "squares": squares.item()}


@pytest.mark.dist
def test_every_replica_is_changed_and_counted_once(tmp_path: Path) -> None:
    answers = several(3, tmp_path / "run", changed_everywhere)
    for answer in answers:
        assert torch.equal(answer["weight"], answers[0]["weight"])
        assert torch.equal(answer["state"], answers[0]["state"])
        assert answer["squares"] == pytest.approx(answer["weight"].double().square().sum().item(), rel=1e-6)
    assert (answers[0]["weight"][[1, 18]] == 2).all()
    assert answers[0]["state"][[1, 5, 18]].tolist() == [2, 0, 2]
    assert 0 < answers[0]["weight"][5].abs().max() <= 0.5


# Touched rows


def unions(rank: int, workers: int, rows: int) -> list[Any]:
    """The touched rows of some batches as this worker has them, prepared one by one and together."""
    raw = mixed_config(["replicated"], rows=30).model_dump(mode="json")
    raw["tables"]["user"]["rows"] = rows
    config = Config(**raw)
    built = make(config)
    assert built.replicated is not None
    touched = built.replicated.touched_rows
    batches = [share(config, rank, workers, seed) for seed in range(3)]
    together = touched.prepare(batches, dist.group.WORLD)
    alone = [touched.prepare([batch], dist.group.WORLD)[0] for batch in batches]
    return [[batch.replicated[0].rows for batch in found] for found in (together, alone)]


@pytest.mark.dist
@pytest.mark.parametrize("rows", [51, 1_000_000])
def test_all_workers_find_the_rows_of_all(rows: int, tmp_path: Path) -> None:
    """As numbers where the tables are large, as bits where they are small."""
    raw = mixed_config(["replicated"], rows=30).model_dump(mode="json")
    raw["tables"]["user"]["rows"] = rows
    config = Config(**raw)
    answers = several(3, tmp_path / "run", unions, rows)
    first = dict(zip(config.tables, np.cumsum([0, *(t.rows for t in config.tables.values())]).tolist(), strict=False))
    for step in range(3):
        batch = share(config, 0, 1, step)
        expected = {
            first[config.table_of(name)] + int(i)
            for jagged in (batch.ids, batch.sequences)
            for name, ids in jagged.to_dict().items()
            for i in ids.values()
        }
        for together, alone in answers:
            assert torch.equal(together[step], answers[0][0][step])
            assert sorted(together[step].tolist()) == sorted(expected) == sorted(alone[step].tolist())
