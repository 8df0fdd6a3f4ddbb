"""Bags with weights and histories with numbers train the same from flat rows and from requests, with every sequence slot."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from tests.helpers.nested_logs import nest_folder
from tests.helpers.worker_processes import several
from tests.training.test_requests import LAYOUTS, ROWS, STEPS, check, trained

DAY = "2026-01-01"
OF_ROWS = ["item", "tags", "tag_weights", "click"]
SLOTS: dict[str, dict[str, Any]] = {
    "pooled": {"type": "pooled"},
    "transformer": {"type": "transformer", "width": 8, "behaviours": {"seen": ["history", "action", "gap"]}},
    "dupn": {"type": "dupn", "item": ["history"], "properties": ["action", "gap"], "hidden": 8, "attention_hidden": 4},
    "tim": {"type": "tim", "target": ["item"], "width": 8, "behaviours": {"seen": ["history", "action"]}},
}


def configured(slot: str, logs: str, changes: dict[str, Any]) -> Config:
    return config_from_dict(
        {
            "data": {"path": logs, "train": {"start": DAY, "end": DAY}, **changes},
            "features": {
                "item": {"kind": "id"},
                "tags": {"kind": "ids", "weights": "tag_weights", "max_length": 3},
                "likes": {"kind": "ids", "weights": "likes", "side": "user"},
                "history": {"kind": "sequence", "table": "item", "max_length": 4},
                "action": {"kind": "sequence", "max_length": 4},
                "gap": {"kind": "sequence_dense", "of": "history", "transform": "log1p", "fill": 0.5},
            },
            "tables": {
                "item": {"rows": 80},
                "tags": {"rows": 30, "pooling": "mean"},
                "likes": {"rows": 40, "pooling": "mean", "sharding": "row_wise"},
                "action": {"rows": 5},
            },
            "tasks": {"click": {}},
            "model": {"preset": "mmoe", "sequence": SLOTS[slot]},
            "train": {
                "batch_size": ROWS,
                "precision": "fp32",
                "sparse_optimizer": {"type": "sgd", "lr": 0.5},
                "schedule": {"decay": "none"},
            },
        }
    )


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Requests of ten rows."""
    folder, random = tmp_path_factory.mktemp("beside"), np.random.default_rng(0)
    requests, each = STEPS * ROWS // 10 + 2, 10
    owner = pa.array(np.repeat(np.arange(requests), each))
    lengths = random.integers(0, 7, requests)
    likes = [[(int(i), float(i % 4)) for i in range(int(n) * 5)] for n in random.integers(0, 4, requests)]
    users = {
        "history": pa.array([random.integers(0, 900, n).tolist() for n in lengths], pa.list_(pa.int64())),
        "action": pa.array([random.integers(0, 4, n).tolist() for n in lengths], pa.list_(pa.int64())),
        "gap": pa.array(
            [[None if x < 0.2 else 9 * x for x in random.random(n)] for n in lengths], pa.list_(pa.float32())
        ),
        "likes": pa.array(likes, pa.map_(pa.int64(), pa.float32())),
    }
    bags = random.integers(0, 6, len(owner))
    table = pa.table(
        {
            "request_id": owner,
            **{name: column.take(owner) for name, column in users.items()},
            "item": random.integers(0, 900, len(owner)),
            "tags": pa.array([random.integers(0, 99, n).tolist() for n in bags], pa.list_(pa.int64())),
            "tag_weights": pa.array([random.random(n).tolist() for n in bags], pa.list_(pa.float64())),
            "click": random.integers(0, 2, len(owner)).astype(np.int8),
        }
    )
    (folder / "logs" / f"ds={DAY}").mkdir(parents=True)
    pq.write_table(table, folder / "logs" / f"ds={DAY}" / "part-0.parquet")
    logs = str(folder / "logs")
    nest_folder(logs, f"{logs}-nested", "request_id", OF_ROWS, 1000)
    return logs


def of_layouts(rank: int, workers: int, logs: str) -> dict[str, Any]:
    changes = {"flat": {}, "requests": {"request": "request_id"}, "nested": {"impressions": "impressions"}}
    assert changes.keys() == LAYOUTS.keys()
    return {
        slot: {
            layout: trained(configured(slot, f"{logs}-nested" if layout == "nested" else logs, own), rank, workers)
            for layout, own in changes.items()
        }
        for slot in SLOTS
    }


@pytest.mark.dist
@pytest.mark.parametrize("workers", [1, 3])
def test_requests_learn_what_flat_rows_do(workers: int, tmp_path: Path, logs: str) -> None:
    for answers in several(workers, tmp_path / "run", of_layouts, logs):
        for slot in SLOTS:
            found = answers[slot]
            for layout in ("requests", "nested"):
                check(found["flat"], found[layout])
            assert any(name.startswith("ranker.sequence") for name in found["flat"]["dense"]) or slot == "pooled"
