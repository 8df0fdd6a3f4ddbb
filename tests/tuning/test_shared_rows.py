"""What trials share: the rows that were read once, and what was measured in them."""

import pytest

from raymtl.config.task_kinds import BaseRate
from raymtl.tuning.trial import _base_rates, reading_part
from tests.helpers.small_config import small


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ("tasks.buy.weight=3", True),
        ("tasks.buy.base_rate=0.1", True),
        ("tasks.buy.normalizer_floor=5", True),
        ("data.shuffle.seed=3", True),
        ("train.batch_size=64", True),
        ("tables.user.dim=4", True),
        ("model.coupler={type: ait}", True),
        ("model.coupler={type: product}", False),  # labels are those of the event *and* its parent's
        ("model.input={type: concat, missing: learned}", False),
        ("tables.user.rows=50", False),
        ("features.age.transform=log1p", False),
    ],
)
def test_rows_are_shared_where_reading_makes_the_same_of_them(change: str, shared: bool) -> None:
    assert (reading_part(small(change)) == reading_part(small())) is shared


def test_a_base_rate_in_a_trial_replaces_the_mean_alone() -> None:
    measured = {"click": BaseRate(0.3, 0.3, 0.4, (1.0,), 2.5), "buy": BaseRate(0.1, weight=4.0)}
    found = _base_rates(measured, small("tasks.click.base_rate=0.2"))
    click = found["click"]
    assert (click, click.center, click.spread, click.terms, click.weight) == (0.2, 0.3, 0.4, (1.0,), 2.5)
    assert found["buy"] is measured["buy"]
