"""Rows for the metric tests, and the independent answers to compare with."""

import numpy as np
import torch

from raymtl.config.tasks import Task
from raymtl.objectives.metrics.evaluate import EvalMetrics

FUNNEL = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="cart")}


def draw_rows(rows: int, tasks: int = 3, seed: int = 0, scenarios: int = 0, groups: int = 0) -> dict:
    """Rows with correlated logits, labels drawn from shifted truths, missing labels as NaN, and some filling at the end."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.randn(rows, tasks, generator=g) - torch.arange(1.0, tasks + 1)
    logits = truth + 0.7 * torch.randn(rows, tasks, generator=g)
    labels = (torch.rand(rows, tasks, generator=g) < torch.sigmoid(truth)).float()
    observed = torch.rand(rows, tasks, generator=g) < 0.9
    return {
        "logits": logits,
        "labels": labels.masked_fill(~observed, torch.nan),
        "observed": observed,
        "weight": torch.ones(rows),
        "valid": torch.arange(rows) < rows - rows // 20,
        "scenario": torch.randint(0, scenarios, (rows,), generator=g) if scenarios else None,
        "group": torch.randint(-(2**62), 2**62, (groups,), generator=g)[torch.randint(0, groups, (rows,), generator=g)]
        if groups
        else None,
        "truth": torch.sigmoid(truth),
    }


def part(rows: dict, where) -> dict:
    """The rows at an index, a mask or a slice."""
    return {name: None if column is None else column[where] for name, column in rows.items()}


def feed(metrics: EvalMetrics, rows: dict, batch: int = 1000) -> EvalMetrics:
    for start in range(0, len(rows["weight"]), batch):
        metrics.update(**part(rows, slice(start, start + batch)))
    return metrics


def seen(rows: dict, task: int, scenario: int | None = None) -> dict[str, np.ndarray]:
    """Logit, label, weight, truth and group of the rows that count for one task, as float64 numpy."""
    keep = rows["observed"][:, task] & rows["valid"] & (rows["weight"] > 0)
    if scenario is not None:
        keep &= rows["scenario"] == scenario
    columns = {
        "x": rows["logits"][:, task],
        "y": rows["labels"][:, task],
        "w": rows["weight"],
        "truth": rows["truth"][:, task],
    }
    found = {name: column[keep].double().numpy() for name, column in columns.items()}
    if rows["group"] is not None:
        found["group"] = rows["group"][keep].numpy()
    return found
