"""What a day that was begun is compared by: how it is trained, and nothing else."""

import datetime as dt
from pathlib import Path

from raymtl.config.roles import run_fields
from raymtl.daily.day import DailyRequest, Day, training_hash
from raymtl.storage.object_store import Store
from raymtl.training.steps import keep_batch_size
from tests.helpers.daily_config import daily_config


def test_the_side_of_a_feature_is_for_serving_alone() -> None:
    features = {"user": {"kind": "id"}, "tags": {"kind": "ids"}, "price": {"kind": "dense"}}
    before = daily_config(features=features)
    sided = daily_config(features={**features, "price": {"kind": "dense", "side": "user"}})
    assert run_fields(sided) == run_fields(before)
    assert training_hash(sided) == training_hash(before)
    other = daily_config(features={**features, "price": {"kind": "dense", "transform": "log1p"}})
    assert training_hash(other) != training_hash(before)


def test_the_record_of_a_day_has_the_settings(tmp_path: Path) -> None:
    config = keep_batch_size(daily_config(), 512)
    day = Day(
        config,
        Store.open(str(tmp_path)),
        dt.date(2026, 1, 5),
        DailyRequest(dt.date(2026, 1, 5)),
        None,
        None,
        None,
        None,
        print,
    )
    assert day.record.settings["batch"] == "512"
    assert day.record.settings["learning rate"] == "adam 0.003"
