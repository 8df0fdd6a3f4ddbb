"""Labels whose two values are not 0 and 1."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.yamltext import parse_yaml
from raymtl.init.compose import compose
from raymtl.init.label_values import event_labels
from raymtl.init.roles import choices, find_leaks, guess_roles
from tests.helpers.profiles import profile_of, write_logs
from tests.init.test_compose import DAYS
from tests.init.test_roles import BUY, CLICK, RANDOM, ROWS


def text_of(root: Path, columns: dict[str, Any], labels: list[str]) -> str:
    write_logs(root, {"age": np.arange(ROWS) % 90, **columns})
    found = profile_of(root)
    return compose("first", DAYS, found, find_leaks(found, guess_roles(found, labels)))


def config_of(root: Path, columns: dict[str, Any], *labels: str) -> Config:
    return config_from_dict(parse_yaml(text_of(root, columns, list(labels)), "text"))


def with_nulls(values: np.ndarray) -> list[Any]:
    return [None if n % 7 == 3 else value for n, value in enumerate(values.tolist())]


@pytest.mark.parametrize(
    ("yes", "no"), [(1, -1), ("yes", "no"), ("Y", "N"), ("True", "False"), ("t", "f"), ("1", "0"), ("1", "-1")]
)
def test_values_that_tell_which_is_the_event(yes: Any, no: Any, tmp_path: Path) -> None:
    columns = {"bought": with_nulls(np.where(BUY, yes, no)), "click": np.where(CLICK, yes, no)}
    config = config_of(tmp_path, columns)
    assert [*config.tasks] == ["click", "bought"]
    assert [*config.features] == ["age"]
    for task in config.tasks.values():
        assert (task.kind, task.positive, task.negative) == ("binary", [yes], [no])
    assert config.tasks["bought"].parent == "click"  # the sample is read in the same way
    found = event_labels(profile_of(tmp_path), "bought")
    assert np.array_equal(found, [np.nan if n % 7 == 3 else float(v) for n, v in enumerate(BUY)], equal_nan=True)


def test_the_more_frequent_value_may_be_the_event(tmp_path: Path) -> None:
    """Only text that says nothing by itself is told by how rare it is."""
    config = config_of(tmp_path, {"watched": np.where(CLICK, "no", "yes")})
    assert config.tasks["watched"].positive == ["yes"]


def test_of_two_texts_the_rarer_is_the_event_if_somebody_names_the_label(tmp_path: Path) -> None:
    columns = {"income": np.where(CLICK, ">50K", "<=50K"), "liked": RANDOM.random(ROWS) < 0.2}
    text = text_of(tmp_path, columns, ["income"])
    assert "as you said; `>50K` as the rarer value" in text
    task = config_from_dict(parse_yaml(text, "text")).tasks["income"]
    assert (task.positive, task.negative) == ([">50K"], ["<=50K"])
    found = profile_of(tmp_path)
    guess = guess_roles(found)["income"]
    assert guess.role == "id"  # but not without a word
    assert choices(guess, found.columns["income"]) == ["id", "label", "ignore"]


def test_a_column_that_tells_such_a_label_is_left_out(tmp_path: Path) -> None:
    columns = {"click": np.where(CLICK, "yes", "no"), "dwell_code": np.where(CLICK, "a", "b")}
    text = text_of(tmp_path, columns, [])
    assert "dwell_code: it tells `click` almost perfectly" in text
