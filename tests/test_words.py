"""Numbers in sentences."""

import pytest

from raymtl.words import count_of


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 versions"), (1, "1 version"), (2, "2 versions"), (1234, "1,234 versions")]
)
def test_one_of_a_thing_is_not_several(count: int, said: str) -> None:
    assert count_of(count, "version") == said


def test_a_plural_of_its_own() -> None:
    assert (count_of(1, "entry", "entries"), count_of(2, "entry", "entries")) == ("1 entry", "2 entries")
