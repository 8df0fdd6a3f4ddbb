"""What a day that was begun is compared by: how it is trained, and nothing else."""

from raymtl.config.roles import run_fields
from raymtl.daily.day import training_hash
from tests.helpers.daily_config import daily_config


def test_the_side_of_a_feature_is_for_serving_alone() -> None:
    features = {"user": {"kind": "id"}, "tags": {"kind": "ids"}, "price": {"kind": "dense"}}
    before = daily_config(features=features)
    sided = daily_config(features={**features, "price": {"kind": "dense", "side": "user"}})
    assert run_fields(sided) == run_fields(before)
    assert training_hash(sided) == training_hash(before)
    other = daily_config(features={**features, "price": {"kind": "dense", "transform": "log1p"}})
    assert training_hash(other) != training_hash(before)
