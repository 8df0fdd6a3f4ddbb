"""Which trials share the rows that were read once."""

import pytest

from raymtl.tuning.trial import reading_part
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
