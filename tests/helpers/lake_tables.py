"""Rows of a few days for tables of Delta Lake and Apache Iceberg, and what raymtl reads of such a table."""

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa

from raymtl.config.root import Config
from raymtl.data.fragments import read_fragment
from raymtl.data.units import Plan, plan_input
from tests.helpers.small_data import make_config

DAYS = (dt.date(2026, 1, 1), dt.date(2026, 1, 2), dt.date(2026, 1, 3))


def day_rows(day: dt.date, count: int, country: str = "de") -> pa.Table:
    """Rows with an item that tells the day and the number of the row, and a click every third row."""
    numbers = range(count)
    return pa.table(
        {
            "ds": pa.array([day] * count, pa.date32()),
            "country": [country] * count,
            "item": pa.array([1000 * day.day + n for n in numbers], pa.int64()),
            "click": pa.array([int(n % 3 == 0) for n in numbers], pa.int32()),
        }
    )


def config_of(path: Path | str, days: tuple[dt.date, dt.date] = (DAYS[0], DAYS[1]), **data: Any) -> Config:
    """A configuration that reads the item and the country on the days from the first to the last."""
    features = {"item": {"kind": "id"}, "country": {"kind": "id"}}
    window = {"start": str(days[0]), "end": str(days[1])}
    return make_config(features, **{"path": str(path), "train": window, "unit_rows": 5, **data})


def items_of(plan: Plan) -> list[int]:
    """The items of all rows of a plan, in order, read as training reads them."""
    found: list[int] = []
    for unit in plan.units:
        for fragment in unit.fragments:
            for table, _ in read_fragment(plan.root, fragment, ["item"], 4):
                found += table.column("item").to_pylist()
    return found


def items_at(path: Path | str, **data: Any) -> list[int]:
    """The items of the training days of a table, sorted."""
    return sorted(items_of(plan_input(config_of(path, **data), "train")))
