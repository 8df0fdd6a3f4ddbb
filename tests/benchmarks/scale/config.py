"""The ranking model of docs/scale.md: 60 tables with a long tail, three histories of one table, PLE with four tasks."""

from typing import Any

from raymtl.config.root import Config

# Share of all IDs and width of the large tables; what they leave goes to the tail.
LARGE = {
    "user": (0.30, 64),
    "item": (0.10, 128),
    "query": (0.15, 64),
    "user_x_category": (0.20, 32),
    "user_x_shop": (0.15, 32),
    "query_x_category": (0.05, 32),
    "shop": (0.02, 32),
}
TAIL = 53
TAIL_DIM = 16
SMALLEST = 100
DENSE = 40
HISTORY = 50
HISTORIES = ("clicked", "carted", "bought")
BAGS = {"tail_00": 10, "tail_01": 20}
"""Tables of the tail that a bag of so many IDs reads; all others have one ID per row."""


def table_rows(ids: int) -> dict[str, int]:
    """Rows of each table for so many IDs in all; the tail falls with the power 1.5 of its rank."""
    rows = {name: round(ids * share) for name, (share, _) in LARGE.items()}
    left = 1 - sum(share for share, _ in LARGE.values())
    weights = [(n + 1) ** -1.5 for n in range(TAIL)]
    for n, weight in enumerate(weights):
        rows[f"tail_{n:02d}"] = max(SMALLEST, round(ids * left * weight / sum(weights)))
    return rows


def scale_config(ids: int, workers: int, batch_per_worker: int, **changes: Any) -> Config:
    """The configuration for `ids` IDs in all on `workers` GPUs.

    `changes` adds or replaces top-level sections of the file, such as `table_defaults`.
    """
    rows = table_rows(ids)
    tables = {name: {"rows": n, "dim": LARGE.get(name, (0, TAIL_DIM))[1]} for name, n in rows.items()}
    features: dict[str, dict[str, Any]] = {
        name: {"kind": "ids", "max_length": BAGS[name]} if name in BAGS else {"kind": "id"} for name in rows
    }
    features |= {name: {"kind": "sequence", "table": "item", "max_length": HISTORY} for name in HISTORIES}
    features |= {f"number_{n:02d}": {"kind": "dense"} for n in range(DENSE)}
    raw: dict[str, Any] = {
        "name": "scale",
        "data": {
            "path": "s3://logs",
            "train": {"start": "2026-01-01", "end": "2026-01-05"},
            "eval": {"start": "2026-01-06", "end": "2026-01-06"},
        },
        "features": features,
        "tables": tables,
        "tasks": {"click": {}, "cart": {"parent": "click"}, "buy": {"parent": "cart"}, "like": {}},
        "model": {
            "preset": "ple",
            "trunk": {"levels": 2, "task_experts": 2, "shared_experts": 4, "hidden": [512, 256]},
            "towers": {"hidden": [128, 64]},
            "sequence": {"type": "pooled"},
        },
        "train": {
            "workers": workers,
            "use_gpu": True,
            "batch_size": batch_per_worker * workers,
            "precision": "bf16",
            "sparse_optimizer": {"type": "rowwise_adagrad"},
        },
    }
    return Config(**(raw | changes))
