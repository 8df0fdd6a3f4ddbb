"""A daily job that trains on labels before they are final: what each day reads, and of whom."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.daily.day import DailyRequest
from raymtl.daily.input_plan import users_of
from raymtl.daily.record import Record
from raymtl.daily.runner import dry_run, run_daily
from raymtl.data.ids.hashing import hash_strings
from tests.helpers.daily_world import daily_raw, day_of, write_day

ROWS = 307


def write_early_day(root: Path, number: int) -> None:
    """A day on which a fifth of the rows end in a buy, every other one a day later."""
    bought = np.arange(ROWS) % 5 == 0
    midnight = dt.datetime.combine(day_of(number), dt.time(), dt.UTC) + dt.timedelta(days=1)
    times = [midnight + dt.timedelta(hours=n % 2 or -1) if is_bought else None for n, is_bought in enumerate(bought)]
    late = {"buy_time": pa.array(times, pa.timestamp("ms", "UTC"))}
    write_day(root, number, (ROWS,), click=bought.astype(np.int8), buy=bought.astype(np.int8), **late)


def configured(root: Path, store: Path) -> dict[str, Any]:
    raw = daily_raw(root, store)
    raw["data"]["group"] = "user"
    raw["tasks"]["buy"]["early_labels"] = {"time": "buy_time"}
    return raw


def trained_rows(config: Config, root: Path, number: int, held_out_on: int) -> int:
    """The rows of a day whose users are not held out on a day."""
    users = pq.read_table(root / f"ds={day_of(number)}", columns=["user"], partitioning=None)["user"].combine_chunks()
    return int(users_of(config, day_of(held_out_on), held_out=False).contains(pa.array(hash_strings(users))).sum())


@pytest.mark.ray
@pytest.mark.timeout(480)
def test_a_day_is_read_early_and_again_when_its_labels_are_final(ray_cluster: None, tmp_path: Path) -> None:
    for number in range(4):
        write_early_day(tmp_path / "logs", number)
    config = config_from_dict(configured(tmp_path / "logs", tmp_path / "store"))
    found: list[Record] = []
    for number in (1, 2, 3):
        (planned,) = dry_run(config, DailyRequest(day_of(number)))
        found += run_daily(config, DailyRequest(day_of(number)), address=None, on_event=lambda item: None)
        assert planned["training_rows"] == found[-1].trained.rows + found[-1].trained.held_out  # type: ignore[union-attr]
    days = [record.trained.days for record in found if record.trained is not None]
    zero, one, two, three = (str(day_of(number)) for number in range(4))
    waiting = days[0][one]
    assert waiting is not None
    assert "buy" not in waiting
    assert days == [
        {zero: None, one: waiting},
        {one: ["buy"], two: [*waiting, "buy (early)"]},
        {two: ["buy"], three: [*waiting, "buy (early)"]},
    ]
    of = [record.trained.rows for record in found if record.trained]
    own = [trained_rows(config, tmp_path / "logs", day, day) for day in range(4)]
    # Those held out of a day are the same when it is read again, whatever the day of the job
    assert of[1:] == [own[1] + own[2], own[2] + own[3]]
    assert own[1] != trained_rows(config, tmp_path / "logs", 1, 2)
    gate = [record.gate for record in found]
    assert gate[2] is not None
    assert gate[2].holdout_rows == 4 * ROWS - sum(own) - (2 * ROWS - own[0] - own[1])
    assert [entry.day for entry in found[2].next_day] == [day_of(3), day_of(2)]
