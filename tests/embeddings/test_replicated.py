"""Replicated tables learn what sharded ones learn, on any number of workers, and reshard exactly in both directions."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.training.build import TrainState
from raymtl.training.pipeline import make_pipeline
from tests.helpers.version_models import contents, logits, make, mixed_config, share, train
from tests.helpers.worker_processes import several

STEPS = 6
OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd")
SOME = ["replicated", "row_wise", "replicated", "table_wise"]


def every_lookup(sharding: list[str | None], optimizer: str, **train: Any) -> Config:
    """`mixed_config` with a bias feature, a bag and a single ID of the table that a history reads, a sum over a bag, a table that
    two pooled features share, a `map` table, another width, and a learning rate of its own."""
    raw = mixed_config(sharding, optimizer, **train).model_dump(mode="json")
    kinds = [sharding[n % len(sharding)] for n in range(8)]
    raw["features"] |= {
        "place": {"kind": "bias"},
        "seen_items": {"kind": "ids", "table": "item"},
        "topics": {"kind": "ids"},
        "home_city": {"kind": "id", "table": "city"},
        "shop": {"kind": "id"},
    }
    raw["tables"] |= {
        "place": {"rows": 7, "dim": 8, "sharding": kinds[4]},
        "topics": {"rows": 23, "dim": 8, "sharding": kinds[5]},
        "shop": {"rows": 19, "id_space": "map", "lr": 0.03, "sharding": kinds[6]},
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
