"""What a day's losses are divided by: the mean weights in its own files, beside the base rates of the base version."""

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.daily.day_job import _base_rates
from raymtl.daily.input_plan import plan_day
from raymtl.model_store.manifest import Manifest
from tests.helpers.daily_config import daily_config

TASKS: dict[str, Any] = {"click": {}, "buy": {"delay_days": 2}, "new": {}}
BASE = cast(Manifest, SimpleNamespace(base_rates={"click": 0.3, "buy": 0.02}))


def jan(day: int) -> dt.date:
    return dt.date(2026, 1, day)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Buys of a day are null until two days later; the fresh day's rows weigh 2 and 4, those of the older ones 10."""
    for day in range(1, 7):
        fresh = day == 6
        columns = {
            "user": [1, 2],
            "scene": ["feed"] * 2,
            "click": [0, 1],
            "new": [1, 0],
            "buy": pa.array([None] * 2 if fresh else [0, 1], pa.int8()),
            "w": [2.0, 4.0] if fresh else [10.0, 10.0],
        }
        path = tmp_path / f"ds={jan(day)}" / "part-0.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table(columns), path)
    return tmp_path


def test_rates_of_the_base_and_weights_of_the_files_that_are_read(logs: Path) -> None:
    config = daily_config(str(logs), TASKS, {"user": {"kind": "id"}})
    weighted = config.model_copy(update={"data": config.data.model_copy(update={"weight": "w"})})
    plans = plan_day(weighted, jan(6), jan(5), ())
    found = _base_rates(weighted, plans, BASE)
    assert found == {"click": 0.3, "buy": 0.02, "new": 0.5}
    # The files of the 4th and the 6th are read, the first for its buys
    assert [found[name].weight for name in TASKS] == [6.5, 10.0, 6.5]  # type: ignore[attr-defined]
    assert _base_rates(config, plans, BASE) == found


def test_a_first_version_measures_both(logs: Path) -> None:
    config = daily_config(str(logs), TASKS, {"user": {"kind": "id"}}, bootstrap_days=3)
    found = _base_rates(config, plan_day(config, jan(6), None, ()), None)
    assert found == {"click": 0.5, "buy": 0.5, "new": 0.5}
