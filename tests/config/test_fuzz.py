"""A slice of the mutations of `tests/benchmarks/config/fuzz.py`, and those that once ended in a traceback."""

import pytest

from raymtl.config.load import load_config
from raymtl.errors import ConfigError
from tests.benchmarks.config.fuzz import fault, unclean
from tests.helpers.small_config import SMALL, small


@pytest.mark.parametrize("first", range(0, 150, 10))
def test_mutations_are_refused_in_clean_sentences_or_train(first: int) -> None:
    assert [how for seed in range(first, first + 10) for _, how in [fault(seed, trains=seed % 5 == 0)] if how] == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tables.user.rows=1" + "0" * 30, "tables.user.rows is a number of 100 bits; expected one that 64 bits hold"),
        ("train.dense_optimizer.lr=1e300", "train.dense_optimizer.lr is 1e+300; expected a number up to 3.4e+38"),
        (
            "features.past={kind: sequence, max_length: 70000}",
            "features.past.max_length is 70000; expected a whole number ≥ 1 and ≤ 65536",
        ),
        ('train.select="a\\x1b[2Jb"', "train.select is `a\\u001b[2Jb`"),
        (
            "model.trunk={type: ple, levels: 1000000}",
            "model.trunk.levels is 1000000; expected a whole number ≥ 1 and ≤ 100",
        ),
        ("model.trunk.hidden=[18446744073709551616]", "model.trunk.hidden[0] is a number of 65 bits"),
        ("data.shuffle.seed=-1", "data.shuffle.seed is -1; expected a whole number ≥ 0 and < 4294967296"),
        ("train.step_timeout_s=0.5", "train.step_timeout_s is 0.5; expected a number ≥ 1"),
    ],
)
def test_what_no_tensor_holds_and_no_terminal_shows(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        small(override)
    assert said in str(error.value)
    unclean(str(error.value))


def test_yaml_that_is_nested_too_deeply() -> None:
    with pytest.raises(
        ConfigError, match=r"^x\.yaml: its lists or mappings are nested too deeply; write them flatter$"
    ):
        load_config("x.yaml", text=SMALL + "x: " + "[" * 3000)
