"""The small configuration that the tests of this folder start from."""

from typing import Any

from raymtl.config.load import load_config
from raymtl.config.root import Config

SMALL = """
data: {path: /logs, train: {start: 2026-01-01, end: 2026-01-03}}
features:
  user: {kind: id}
  age: {kind: dense}
tables:
  user: {rows: 100}
tasks:
  click: {}
  buy: {parent: click}
model: {preset: shared_bottom}
"""


def small(*overrides: str) -> Config:
    """The small configuration with `--set` overrides."""
    return load_config(None, overrides, text=SMALL)


def small_raw() -> dict[str, Any]:
    """The same as a dict to change."""
    return {
        "data": {"path": "/logs", "train": {"start": "2026-01-01", "end": "2026-01-03"}},
        "features": {"user": {"kind": "id"}, "age": {"kind": "dense"}},
        "tables": {"user": {"rows": 100}},
        "tasks": {"click": {}, "buy": {"parent": "click"}},
        "model": {"preset": "shared_bottom"},
    }
