"""Requests: rows that stand together, and rows that are requests."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymtl.config.load import config_from_dict, load_config
from raymtl.config.root import Config
from raymtl.config.yamltext import parse_yaml
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.init.compose import compose
from raymtl.init.days import find_days
from raymtl.init.profile import footers_of
from raymtl.init.requests import Nested, find_lists, find_request
from raymtl.init.roles import Guess, guess_roles
from raymtl.init.run import look, write
from raymtl.init.split import Split
from raymtl.storage.folder import Folder
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs as write_synth
from tests.benchmarks.init.logs import write_parquet
from tests.helpers.profiles import profile_of, write_logs
from tests.init.test_compose import DAYS
from tests.init.test_init import columns

RANDOM = np.random.default_rng(0)
EACH = RANDOM.integers(1, 8, 307)
ROWS = int(EACH.sum())
OWNER = np.repeat(np.arange(307), EACH)
USER = OWNER % 61


def lists(values: np.ndarray) -> pa.Array:
    """Lists of 0 to 3 steps; those of equal values are equal."""
    return pa.array([[int(v)] * (v % 4) for v in values])


FLAT = {
    "req": [None if n == 5 else f"r{n}" for n in OWNER],
    "user_id": USER,
    "city_code": USER % 7,
    "age": pa.array(np.where(USER % 5 == 0, np.nan, USER % 30 + 0.5), from_pandas=True),
    "hist_items": lists(USER),
    "hist_viewers": lists(np.arange(ROWS) % 11),
    "item_id": np.arange(ROWS) % 53,
    "price": RANDOM.random(ROWS),
    "position": np.arange(ROWS) % 9,
    "click": RANDOM.random(ROWS) < 0.3,
}


def found_in(root: Path, changes: dict[str, Any], ignored: tuple[str, ...] = ()) -> tuple[dict[str, Guess], Config]:
    write_logs(root, FLAT | changes)
    found = profile_of(root)
    guesses = find_request(found, guess_roles(found, ignored=ignored), ignored)
    return guesses, config_from_dict(parse_yaml(compose("first", DAYS, found, guesses), "text"))


def test_rows_that_stand_together_are_requests(tmp_path: Path) -> None:
    guesses, config = found_in(tmp_path, {"page_id": np.arange(ROWS) // 30, "session_id": OWNER})
    assert guesses["req"].role == "request"
    each = float(guesses["req"].why.split()[0])
    assert each == pytest.approx(ROWS / (306 + EACH[5]), abs=0.1)  # the rows without one are requests of their own
    assert {guesses[name].role for name in ("page_id", "session_id")} == {"ignore"}
    assert config.data.request == "req"
    sides = {name: feature.side for name, feature in config.features.items()}
    assert sides == {
        "user_id": None,
        "city_code": "user",
        "age": "user",
        "hist_items": None,
        "hist_viewers": "item",
        "item_id": None,
        "price": None,
        "position": None,
    }


@pytest.mark.parametrize(
    ("changes", "ignored"),
    [
        ({"req": RANDOM.permutation(OWNER)}, ()),  # scattered
        ({"req": np.arange(ROWS)}, ()),  # a row each
        ({"req": OWNER % 3}, ()),  # a page, not a request
        ({"user_id": np.arange(ROWS) % 61}, ()),  # of several users
        ({}, ("req",)),
    ],
)
def test_what_is_no_request(changes: dict[str, Any], ignored: tuple[str, ...], tmp_path: Path) -> None:
    guesses, config = found_in(tmp_path, changes, ignored)
    assert guesses["req"].role == "ignore"
    assert config.data.request is None
    assert {feature.side for feature in config.features.values()} == {None}


def test_a_single_different_value_is_of_the_item(tmp_path: Path) -> None:
    city = USER % 7
    city[int(np.cumsum(EACH)[EACH.argmax()]) - 1] += 1
    _, config = found_in(tmp_path, {"city_code": city})
    assert config.data.request == "req"
    assert config.features["city_code"].side is None


def test_requests_are_held_out_as_wholes() -> None:
    table = pa.table({"req": FLAT["req"]})
    day = Split(request="req").days_of(table, "a.parquet", 0)
    days_of_request = [len(np.unique(day[n == OWNER])) for n in range(307) if n != 5]
    assert set(days_of_request) == {1}
    assert 0.03 < (day == day.max()).mean() < 0.2


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.parametrize("read_rows", [True, False])
def test_nested_logs(read_rows: bool, ray_cluster: None, tmp_path: Path) -> None:
    spec = SynthSpec(days=2, rows_per_day=2003, users=150, items=90, layout="nested")
    write_synth(spec, str(tmp_path / "logs"))
    write(look(str(tmp_path / "logs"), read_rows=read_rows), str(tmp_path / "c.yaml"))
    config, made = load_config(str(tmp_path / "c.yaml")), load_config(str(tmp_path / "logs" / "config.yaml"))
    assert (config.data.impressions, config.data.request) == ("impressions", None)
    both = config.features.keys() & made.features.keys()
    assert len(both) > 15
    assert both & set(config.user_features()) == both & set(made.user_features())
    assert set(config.tasks) == set(made.tasks)
    assert check_data(config, "both", read_tasks=2).problems == []


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    shown = pa.array([[{"item": 1, "click": True, "watch_time": 2.0}]])
    write_logs(tmp_path / "two", {"shown": shown, "ads": shown, "carts": pa.array([[{"item": 1, "price": 2.0}]])})
    with pytest.raises(
        DataError, match=r"several columns .*: `shown`, `ads`; leave out all but one with --ignore COLUMN"
    ):
        look(str(tmp_path / "two"))
    write_logs(tmp_path / "twice", {"item": [1], "shown": shown})
    with pytest.raises(DataError, match="has a column `item` beside `shown`, whose fields include that name; rename"):
        look(str(tmp_path / "twice"))
    draft = look(str(tmp_path / "two"), ignored=["ads"], read_rows=False)
    assert draft.nested is not None
    assert (draft.nested.columns, sorted(draft.nested.labels)) == (("shown",), ["click", "watch_time"])
    draft = look(str(tmp_path / "two"), labels=["price"], read_rows=False)
    assert draft.nested is not None
    assert draft.nested.columns == ("carts",)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_nested_logs_without_days_are_written_flat(ray_cluster: None, tmp_path: Path) -> None:
    flat = columns(0, 1207, "2026-01-30")
    of_rows = pa.StructArray.from_arrays(
        [pa.array(flat[n]) for n in ("item_id", "price", "click")], ["item_id", "price", "click"]
    )
    requests = {name: flat[name][:172] for name in ("user_id", "ts")} | {"req": np.arange(172)}
    requests["shown"] = pa.ListArray.from_arrays(
        pa.array(np.append(np.arange(172) * 7, 1207).astype(np.int32)), of_rows
    )
    write_parquet(tmp_path / "logs" / "a.parquet", requests)
    write(look(str(tmp_path / "logs")), str(tmp_path / "c.yaml"))
    config = load_config(str(tmp_path / "c.yaml"))
    assert (config.data.impressions, config.data.request) == (None, "req")
    report = check_data(config, "both", read_tasks=2)
    assert report.problems == []
    assert sum(part.rows for part in report.parts.values()) == 1207


def list_logs(root: Path, days: tuple[str, ...] = ("2026-01-30", "2026-01-31")) -> None:
    """Requests with a list per field of their impressions, and two histories of other lengths."""
    for n, day in enumerate(days):
        random = np.random.default_rng(n)
        lengths = random.integers(0, 6, 300)
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        rows = int(lengths.sum())
        fields = {
            "item_id": random.integers(0, 50, rows),
            "price": random.random(rows),
            "click": random.integers(0, 2, rows),
        }
        found = {name: pa.ListArray.from_arrays(ends, pa.array(values)) for name, values in fields.items()}
        found |= {"user_id": random.integers(0, 40, 300), "tags": lists(random.integers(0, 9, 300))}
        write_parquet(root / f"ds={day}" / "a.parquet", found | {"hist_items": found["item_id"]})


def test_lists_of_one_length_are_impressions(tmp_path: Path) -> None:
    list_logs(tmp_path)
    folder = Folder.open(str(tmp_path))
    days = find_days(folder)
    assert days is not None
    footers = footers_of(days)
    found = find_lists(folder, footers, (), ())
    assert found == Nested(
        ("item_id", "price", "click"), frozenset({"item_id", "price", "click"}), frozenset({"click"})
    )
    assert find_lists(folder, footers, (), ("item_id",)) == Nested(
        ("price", "click"), frozenset({"price", "click"}), frozenset({"click"})
    )
    assert find_lists(folder, footers, ("price",), ("click",)) is not None
    assert find_lists(folder, footers, (), ("click",)) is None  # no list looks like a label
    assert find_lists(folder, footers, ("tags",), ()) is None  # no other list has its length


SEVERAL = {"user": [1, 2]}
IDS, OTHERS, EVENTS = (pa.array([[a, b], [c]]) for a, b, c in ((31, 32, 33), (4, 5, 6), (0, 1, 1)))


def impressions_of(root: Path, columns: dict[str, Any], labels: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """The lists that are taken for the impressions of a request."""
    write_parquet(root / "ds=2026-01-30" / "a.parquet", SEVERAL | columns)
    folder = Folder.open(str(root))
    days = find_days(folder)
    assert days is not None
    found = find_lists(folder, footers_of(days), labels, ())
    return None if found is None else found.columns


@pytest.mark.parametrize(
    "columns",
    [
        {"clicked": IDS, "clicked_cat": OTHERS, "click": [0, 1]},
        {"clicked": IDS, "clicked_cat": OTHERS},
        {"seen_item": IDS, "seen_click": EVENTS, "click": [0, 1]},
        {"seen_item": IDS, "seen_click": EVENTS, "bought": ["yes", "no"]},
        {"seen_item": IDS, "seen_click": EVENTS, "watch_time": [3.5, 0.0]},
        {"item_seq": IDS, "item_seq_click": EVENTS},
        {"behavior_item": IDS, "behavior_click": EVENTS},
        {"bought": IDS, "bought_price": OTHERS},
        {"viewed": IDS, "viewed_like": EVENTS},
        {"item": IDS, "watch_time": OTHERS},  # amounts alone do not tell
    ],
)
def test_parallel_histories_are_no_impressions(columns: dict[str, Any], tmp_path: Path) -> None:
    assert impressions_of(tmp_path, columns) is None


@pytest.mark.parametrize(
    ("columns", "labels", "expected"),
    [
        ({"item": IDS, "clicked": EVENTS}, (), ("item", "clicked")),
        ({"item": IDS, "clicked": EVENTS, "viewed": OTHERS}, (), ("item", "clicked")),
        ({"item": IDS, "click": EVENTS, "watch_time": OTHERS}, (), ("item", "click", "watch_time")),
        ({"item": IDS, "click": EVENTS, "buy": [0, 1]}, (), None),
        ({"item": IDS, "click": EVENTS, "buy": [0, 1]}, ("click",), ("item", "click")),
        ({"item": IDS, "watch_time": OTHERS}, ("watch_time",), ("item", "watch_time")),
        ({"seq_item": IDS, "item": IDS, "seq_click": EVENTS}, ("seq_click",), ("item", "seq_click")),
    ],
)
def test_a_list_of_labels_has_0_and_1_or_is_named(
    columns: dict[str, Any], labels: tuple[str, ...], expected: tuple[str, ...] | None, tmp_path: Path
) -> None:
    assert impressions_of(tmp_path, columns, labels) == expected


def test_a_history_of_structs_is_no_impressions(tmp_path: Path) -> None:
    past = pa.array([[{"item": 1, "liked": True}], [{"item": 2, "liked": False}]])
    write_logs(tmp_path / "flat", {"history": past, "click": [0, 1]})
    assert look(str(tmp_path / "flat"), read_rows=False).nested is None


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_logs_with_parallel_lists(ray_cluster: None, tmp_path: Path) -> None:
    list_logs(tmp_path / "logs")
    write(look(str(tmp_path / "logs")), str(tmp_path / "c.yaml"))
    config = load_config(str(tmp_path / "c.yaml"))
    assert config.data.impressions == ["item_id", "price", "click"]
    assert set(config.tasks) == {"click"}
    assert {"user_id", "tags", "hist_items"} <= set(config.user_features())
    assert check_data(config, "both", read_tasks=2).problems == []
