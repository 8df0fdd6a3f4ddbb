"""Rows of sharded tables that are reset for another ID, and the decay of the optimizer's state."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from raymtl.config.features import Init
from raymtl.embeddings.initialisation import fill_rows
from raymtl.embeddings.rows import decay_state, reset_rows, table_rows
from tests.helpers.version_models import contents, make, mixed_config, train
from tests.helpers.worker_processes import several

SHARDING = ["row_wise", "column_wise", "replicated", "row_wise"]
OPTIMIZERS = ("rowwise_adagrad", "adagrad")
INIT, SEED = Init(distribution="normal", scale=0.5), 11
DECAY = 0.75
NEW = {"user": [0, 1, 24, 25, 26, 50], "city": [3, 4, 29], "tags": [], "item": [60]}
"""Rows with a new owner: at the ends of shards of rows, in every column shard, none, and in the last shard alone."""
NEW_LATER = {"tags": [0, 5, 39]}


def anew_and_decay(rank: int, workers: int) -> dict[str, Any]:
    """Trained tables before and after a reset of some rows, and after the decay of their state."""
    found: dict[str, Any] = {}
    for optimizer in OPTIMIZERS:
        config = mixed_config(SHARDING, optimizer)
        built = make(config)
        train(built, config, range(4))
        tables = table_rows(built.model, dist.group.WORLD)
        stages = [contents(built)]
        for rows in (NEW, NEW_LATER):
            for name, numbers in rows.items():
                reset_rows(tables[name], np.array(numbers, np.int64), INIT, SEED)
            stages.append(contents(built))
        for table in tables.values():
            decay_state(table, DECAY)
        stages.append(contents(built))
        kinds = built.sharding
        train(built, config, range(4, 5))  # the kernels continue with the written values
        found[optimizer] = (stages, kinds, contents(built), {n: list(t.state_dims) for n, t in tables.items()})
    return found


def first_weights(table: str, rows: int, dim: int) -> torch.Tensor:
    weight = torch.empty(rows, dim)
    fill_rows(weight, INIT, seed=SEED, table=table, first_row=0, first_column=0, dim=dim)
    return weight


@pytest.mark.dist
def test_i2_a_row_with_a_new_owner_is_reset_and_no_other_one_moves(tmp_path: Path) -> None:
    answers = several(2, tmp_path / "run", anew_and_decay)
    for optimizer in OPTIMIZERS:
        (trained, reset, later, faded), kinds, resumed, states = answers[0][optimizer]
        assert kinds == dict(zip(("user", "city", "tags", "item"), SHARDING, strict=True))
        for before, after, rows in ((trained, reset, NEW), (reset, later, NEW_LATER)):
            assert before.keys() == after.keys()
            for key, value in before.items():
                table, _, what = key.partition(" ")
                new = torch.tensor(rows.get(table, []), dtype=torch.int64)
                kept = torch.ones(len(value), dtype=torch.bool) if value.dim() else torch.tensor(True)
                if table != "dense":
                    kept[new] = False
                    start = first_weights(table, *value.shape)[new] if what == "weight" else torch.zeros(())
                    assert (after[key][new] == start).all(), key
                    assert not len(new) or (value[new] != after[key][new]).any(), key  # there was something to reset
                assert torch.equal(after[key][kept], value[kept]), key
        assert states == dict.fromkeys(NEW, states["user"])
        assert states["user"]
        for key, value in later.items():
            is_state = key.split(" ")[0] in NEW and not key.endswith(" weight")
            if not is_state:
                assert torch.equal(faded[key], value), key
            else:  # that of a table cut by columns is a mean over its shards, so it is rounded
                torch.testing.assert_close(faded[key], value * DECAY, rtol=1e-6, atol=0)
                assert value.any()
                assert (resumed[key] >= faded[key]).all()
                assert (resumed[key] > faded[key]).any()
