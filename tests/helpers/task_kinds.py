"""One task of every kind, and labels for them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymtl.config.task_kinds import BaseRate
from raymtl.config.tasks import Task

RAW: dict[str, dict[str, Any]] = {
    "click": {},
    "share": {"kind": "fraction"},
    "device": {"kind": "multiclass", "classes": ["phone", "desk", "pad"], "class_weights": [1.0, 2.0, 0.5]},
    "topic": {"kind": "multiclass", "classes": 4},
    "stars": {"kind": "ordinal", "classes": 5},
    "views": {"kind": "count"},
    "watched": {"kind": "watch_time"},
    "paid": {"kind": "ziln"},
    "rating": {"kind": "real"},
    "spend": {"kind": "real", "transform": "log1p"},
    "delay": {"kind": "quantile", "quantiles": [0.1, 0.5, 0.75, 0.9]},
    "late": {"kind": "quantile", "quantiles": [0.9]},
}
"""One task of each kind and each transform; `topic` and `device` have one kind and other options."""
TASKS = {name: Task.model_validate(raw) for name, raw in RAW.items()}


def labels_of_kinds(rows: int, seed: int = 2) -> Tensor:
    """Labels [rows, T] that keep to the rules."""
    g = torch.Generator().manual_seed(seed)

    def random() -> Tensor:
        return torch.rand(rows, generator=g)

    found = {
        "click": (random() < 0.4).float(),
        "share": random().clamp(0.1, 0.9),
        "device": (random() * 3).floor(),
        "topic": (random() * 4).floor(),
        "stars": (5 * random().sqrt()).floor(),
        "watched": (random() < 0.6) * torch.exp(torch.randn(rows, generator=g) + 1),
        "paid": (random() < 0.3) * torch.exp(0.7 * torch.randn(rows, generator=g) + 3),
        "delay": 40 - 10 * random().log(),
        "late": torch.randn(rows, generator=g) * 3 - 7,
        "views": torch.poisson(torch.full((rows,), 1.5), generator=g),
        "rating": torch.randn(rows, generator=g) - 2,
        "spend": torch.expm1(2 * random() + 1),
    }
    return torch.stack([found[name] for name in TASKS], 1)


def rates_of(labels: Tensor) -> dict[str, BaseRate]:
    """What a sample of labels [rows, T] tells about every task, as `sample_base_rates` would."""
    found = {}
    for t, (name, task) in enumerate(TASKS.items()):
        values = labels[:, t].double().numpy()
        target = task.traits.trained_on(values)
        terms = task.traits.start_terms(values, task).mean(0)
        found[name] = BaseRate(float(values.mean()), float(np.mean(target)), float(np.std(target)), terms.tolist())
    return found
