"""How full steps are, and what is said where they are not."""

import pytest

from raymtl.data.units import Fragment, Plan, Unit
from raymtl.training.fill import fill_advice, fill_of
from raymtl.training.steps import with_batch_size
from tests.helpers.small_data import DAY, make_config


def plan_of(units: int) -> Plan:
    return Plan("/nowhere", (Unit((Fragment("part", (0,), 0, 10),)),) * units, "plan", (DAY, DAY))


def test_full_steps_say_nothing() -> None:
    config = with_batch_size(make_config(), 1_000_000)
    assert fill_of(config, rows=3 * 2048 - 10, steps=3) == pytest.approx(1 - 10 / (3 * 2048))
    assert fill_of(config, 0, 0) == 0
    assert fill_advice(config, plan_of(3), 0.9) is None


def test_the_setting_that_makes_steps_partly_empty_is_named() -> None:
    config = with_batch_size(make_config(), 1_000_000)
    said = fill_advice(config, plan_of(3), 0.61)
    assert said == (
        "only 61% of each step held rows, since the last step before each checkpoint and evaluation is partly empty; raise "
        "train.checkpoint.every_units (1) or data.unit_rows (1000000), or lower train.batch_size (2048)"
    )
    said = fill_advice(config, plan_of(1), 0.61)
    assert said == (
        "only 61% of each step held rows, since the last step of each epoch is partly empty; lower train.batch_size (2048)"
    )
