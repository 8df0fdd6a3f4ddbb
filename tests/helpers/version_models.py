"""Small trained models and what tests compare of them."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.data.ids.id_map import IdMap
from raymtl.embeddings.rows import row_chunks, table_rows
from raymtl.model_store.writer import Draft, dense_optimizer, dense_weights
from raymtl.training.build import TrainState
from tests.helpers.mixed_models import logits, make, train
from tests.helpers.worker_processes import mixed_config, share

DAYS = {"train": ["2026-01-01", "2026-01-02"]}


def contents(built: TrainState) -> dict[str, torch.Tensor]:
    """Everything that a version carries, whole on every worker: rows of the tables with their state, dense weights and state."""
    found = {f"dense {k}": v.clone() for k, v in {**dense_weights(built), **dense_optimizer(built)}.items()}
    for name, table in table_rows(built.model, dist.group.WORLD).items():
        own = list(row_chunks(table, 7, dist.group.WORLD))
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, [(int(p.rows[0]), {"weight": p.weight, **p.state}) for p in own])
        rows = sorted((item for part in parts for item in part), key=lambda item: item[0])
        firsts = [first for first, _ in rows]
        lengths = [len(values["weight"]) for _, values in rows]
        assert firsts == [sum(lengths[:n]) for n in range(len(lengths))]
        assert sum(lengths) == table.rows
        for key in rows[0][1]:
            found[f"{name} {key}"] = torch.cat([values[key] for _, values in rows])
    return found


def owned(ids: range) -> IdMap:
    """A map in which the n-th ID holds row n, from 1 on, with a count and a day of its own."""
    count = len(ids)
    return IdMap.of(61, np.array(ids), np.arange(1, count + 1), np.arange(count) + 5, np.arange(count) + 20_000)


def draft(config: Config, name: str, **more: Any) -> Draft:
    return Draft(name, config, DAYS, counts={"rows": 96, "steps": 4}, base_rates={"click": 0.3, "buy": 0.1}, **more)


__all__ = ["contents", "draft", "logits", "make", "mixed_config", "owned", "share", "train"]
