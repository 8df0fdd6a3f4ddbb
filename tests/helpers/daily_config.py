"""A small configuration with a daily job."""

from typing import Any

from raymtl.config.root import Config

TASKS: dict[str, Any] = {"click": {}, "buy": {"parent": "click", "observed": "mature", "delay_days": 2}}


def daily_config(
    path: str = "/nowhere", tasks: dict[str, Any] | None = None, features: dict[str, Any] | None = None, **daily: Any
) -> Config:
    """Two ID features and two tasks unless others are given; `daily` are keys of its section."""
    features = features or {"user": {"kind": "id"}, "tags": {"kind": "ids"}, "price": {"kind": "dense"}}
    return Config.model_validate(
        {
            "data": {
                "path": path,
                "train": {"start": "2026-01-01", "end": "2026-01-01"},
                "group": "user",
                "scenario": {"column": "scene", "values": ["feed", "search"]},
            },
            "features": features,
            "tables": {name: {"rows": 100} for name, feature in features.items() if feature["kind"] != "dense"},
            "tasks": tasks or TASKS,
            "model": {"trunk": {"type": "shared_bottom", "hidden": [4]}},
            "train": {"precision": "fp32"},
            "daily": {"store": "/nowhere/versions", **daily},
        }
    )
