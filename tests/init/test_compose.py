"""The configuration: checked, complete, with its reasons."""

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.yamltext import parse_yaml
from raymtl.data.partitions import Layout
from raymtl.errors import DataError
from raymtl.init import compose as compose_module
from raymtl.init.compose import compose
from raymtl.init.days import Days
from raymtl.init.roles import find_leaks, guess_roles
from tests.helpers.profiles import profile_of, write_logs
from tests.init.test_roles import BUY, CLICK, RANDOM, ROWS, WORDS, lists

DAYS = Days("/logs", Layout(), (dt.date(2026, 1, 1),) * 2, ROWS, (dt.date(2026, 1, 2),) * 2)


def text_of(root: Path, columns: dict[str, Any], days: Days = DAYS) -> str:
    write_logs(root, columns)
    found = profile_of(root)
    return compose("first", days, found, find_leaks(found, guess_roles(found)))


def config_of(root: Path, columns: dict[str, Any]) -> Config:
    return config_from_dict(parse_yaml(text_of(root, columns), "text"))


def test_the_funnel_follows_from_inclusion(tmp_path: Path) -> None:
    cart = CLICK & (BUY | (RANDOM.random(ROWS) < 0.3))
    like = RANDOM.random(ROWS) < 0.1
    config = config_of(tmp_path, {"buy": BUY, "like": like, "cart": cart, "click": CLICK, "age": np.arange(ROWS) % 90})
    assert {name: task.parent for name, task in config.tasks.items()} == {
        "click": None,
        "like": None,
        "cart": "click",
        "buy": "cart",
    }
    assert [*config.tasks].index("click") < [*config.tasks].index("cart") < [*config.tasks].index("buy")
    assert config.model.preset == "mmoe"


def test_kinds_of_tasks_and_what_says_that_they_are_final(tmp_path: Path) -> None:
    columns = {
        "click": CLICK,
        "buy": np.where(np.arange(ROWS) % 5 == 0, None, BUY).tolist(),
        "buy_mature": np.arange(ROWS) % 5 != 0,
        "pageviews": RANDOM.poisson(2, ROWS),
        "watch_time": RANDOM.gamma(2, 3, ROWS),
        "p_click": RANDOM.random(ROWS),
        "age": np.arange(ROWS) % 90,
    }
    config = config_of(tmp_path, columns)
    assert {name: task.kind for name, task in config.tasks.items()} == {
        "click": "binary",
        "buy": "binary",
        "pageviews": "count",
        "watch_time": "real",
    }
    assert config.tasks["buy"].observed == "buy_mature"
    assert config.tasks["click"].truth == "p_click"
    assert config.tasks["click"].observed is None
    assert config.tasks["watch_time"].transform == "log1p"
    assert [*config.features] == ["age"]


def test_numbers_are_cut_into_ranges_only_with_enough_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"click": CLICK, "gap": RANDOM.normal(5, 2, ROWS), "half": np.arange(ROWS) % 90 + 0.5}
    columns["two"] = np.where(np.arange(ROWS) % 3, 0.5, 1.5)
    assert all(feature.embed is None for feature in config_of(tmp_path / "few", columns).features.values())
    monkeypatch.setattr(compose_module, "_ROWS_PER_RANGE", ROWS // (3 * 16))
    features = config_of(tmp_path / "enough", columns).features
    assert len(features["gap"].embed.edges) == 17
    assert np.histogram(columns["gap"], features["gap"].embed.edges)[0] == pytest.approx(
        np.full(16, ROWS / 16), rel=0.2
    )
    assert features["two"].embed is None  # two values have no ranges
    text = text_of(tmp_path / "text", columns)
    assert re.search(
        r"\n  half:  # [^\n]+\n    kind: dense\n    mean: [\d.]+\n    std: [\d.]+\n"
        r"    embed:\n      type: piecewise\n      edges: \[0\.5, ",
        text,
    )


def test_dense_features_are_standardised_on_all_rows(tmp_path: Path) -> None:
    price, gap = np.exp(RANDOM.normal(2, 1.5, ROWS)), RANDOM.normal(5, 2, ROWS)
    config = config_of(tmp_path, {"click": CLICK, "price": price, "gap": gap})
    logs = np.log1p(price)
    found = config.features["price"]
    assert found.kind == "dense"
    assert found.transform == "log1p"
    assert (found.mean, found.std) == (pytest.approx(logs.mean(), rel=1e-4), pytest.approx(logs.std(), rel=1e-4))
    other = config.features["gap"]
    assert other.kind == "dense"
    assert other.transform == "none"
    assert (other.mean, other.std) == (pytest.approx(gap.mean(), rel=1e-4), pytest.approx(gap.std(), rel=1e-4))


def test_tables_have_room_and_histories_share_that_of_their_items(tmp_path: Path) -> None:
    items = RANDOM.integers(0, 500, ROWS)
    columns = {
        "click": CLICK,
        "item_id": items,
        "brand": WORDS[items % 200],
        "hist_items": lists(items, 60),
        "tags": lists(WORDS[:7], 3),
    }
    config = config_of(tmp_path, columns)
    assert config.table_of("hist_items") == "item_id"
    assert sorted(config.tables) == ["brand", "item_id", "tags"]
    assert config.tables["item_id"].rows >= 8 * len(np.unique(items))
    assert config.tables["brand"].rows == 2048
    assert config.tables["tags"].rows == 64
    history = config.features["hist_items"]
    assert history.kind == "sequence"
    assert history.max_length == 50
    assert config.model.sequence.type == "pooled"


def test_names_that_no_feature_may_have_keep_their_column(tmp_path: Path) -> None:
    columns = {
        "Is Clicked": CLICK,
        "event.buy": BUY,
        "7 days: état": np.arange(ROWS) % 9,
        "user-id": np.arange(ROWS) % 99,
        "user_id": np.arange(ROWS) % 80,
        "价格": RANDOM.random(ROWS),
        "~": np.arange(ROWS) % 5,
        "城市": WORDS[np.arange(ROWS) % 9],
    }
    config = config_of(tmp_path, columns)
    assert {name: getattr(feature, "column", None) for name, feature in config.features.items()} == {
        "_7_days___tat": "7 days: état",
        "user_id": "user-id",
        "user_id_4": "user_id",
        "column_5": "价格",
        "column_6": "~",
        "column_7": "城市",
    }
    assert config.data.group == "user-id"
    assert {name: (task.label, task.parent) for name, task in config.tasks.items()} == {
        "Is_Clicked": ("Is Clicked", None),
        "event_buy": ("event.buy", "Is_Clicked"),
    }


def test_every_choice_has_its_reason(tmp_path: Path) -> None:
    text = text_of(tmp_path, {"click": CLICK, "age": np.arange(ROWS) % 90, "log_id": np.arange(ROWS)})
    assert re.search(
        r"\n  age: {kind: dense, mean: 44\.\d+, std: \d+\.\d+}  # 0 to 89, with the name of a quantity\n", text
    )
    assert re.search(r"  # Left out:\n  #   log_id: \d,\d+ different integers: it names a row or a request\n", text)
    assert "  eval: {start: 2026-01-02, end: 2026-01-02}  # the last day\n" in text


def test_values_and_names_cannot_write_into_the_file(tmp_path: Path) -> None:
    columns = {
        "click": CLICK,
        "age": np.arange(ROWS) % 90,
        "const": ["hello\nname: evil"] * ROWS,
        "a\nname: worse": ["x"] * ROWS,
    }
    config = config_of(tmp_path, columns | {"long": ["y" * 10_000] * ROWS})
    assert config.name == "first"
    assert max(map(len, text_of(tmp_path, columns | {"long": ["y" * 10_000] * ROWS}).splitlines())) < 400


def test_without_an_event_the_first_amount_selects_the_checkpoint(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"watch_time": RANDOM.gamma(2, 3, ROWS), "age": np.arange(ROWS) % 90})
    assert config.train.select == "watch_time.mse"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.where(CLICK, 1, 2), "holds only 1 and 2"),
        (np.zeros(ROWS), "holds only 0"),
        (
            np.where(CLICK, "yes", np.where(np.arange(ROWS) % 5 == 0, "maybe", "no")),
            "holds text; .* a task with `positive`",
        ),
        (np.where(CLICK, "yes", ""), "holds text"),
        (np.where(CLICK, np.inf, 0.5), "has .* NaN or infinite"),
    ],
)
def test_a_column_that_cannot_be_a_label_is_refused(values: Any, said: str, tmp_path: Path) -> None:
    write_logs(tmp_path, {"bought": values, "age": np.arange(ROWS) % 90})
    found = profile_of(tmp_path)
    with pytest.raises(DataError, match=f"column `bought` cannot be a label: it {said}"):
        compose("first", DAYS, found, guess_roles(found, labels=["bought"]))


def test_logs_without_a_label_or_a_feature_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column that looks like a label .*name it with --label COLUMN\. The columns are age"
    ):
        text_of(tmp_path / "a", {"age": np.arange(ROWS) % 90})
    with pytest.raises(DataError, match="no column for a feature besides its labels"):
        text_of(tmp_path / "b", {"click": CLICK})
