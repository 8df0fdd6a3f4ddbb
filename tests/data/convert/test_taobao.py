"""The Taobao converter, on a few events by hand and against plain counting on a file of the same format."""

import datetime as dt

import numpy as np
import pyarrow.compute as pc
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import convert, taobao, text_table
from raymtl.data.convert.taobao import BEHAVIORS, DENSE, HISTORIES, HISTORY, IDS, LABELS, convert_taobao
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from tests.helpers.converted import read_split
from tests.helpers.listed import list_files
from tests.helpers.taobao_like import write_taobao_like

MIDNIGHT = 1_511_539_200  # 2017-11-25 00:00 in Beijing, a Saturday
DAY_S, HOUR_S = 86_400, 3600
ORDER = [("timestamp", "ascending"), ("user_id", "ascending"), ("item_id", "ascending"), ("category_id", "ascending")]
EVENTS = [
    f"7,50,9,pv,{MIDNIGHT + 10}",
    f"7,51,9,pv,{MIDNIGHT + HOUR_S}",
    f"7,51,9,cart,{MIDNIGHT + HOUR_S}",
    f"7,50,9,buy,{MIDNIGHT + 10 + DAY_S}",
    f"7,50,9,pv,{MIDNIGHT + 11 + DAY_S}",
    f"8,50,9,pv,{MIDNIGHT + 20}",
    f"8,50,9,pv,{MIDNIGHT + 8 * DAY_S + 1}",
    f"8,50,9,buy,{MIDNIGHT + 8 * DAY_S + 2}",
    f"8,50,9,pv,{MIDNIGHT + 9 * DAY_S}",
    "8,50,9,pv,-2134949234",
]


def write(folder, lines: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "UserBehavior.csv").write_text("".join(line + "\n" for line in lines))
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("taobao")
    write_taobao_like(folder, rows=2503, users=23, items=40, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("taobao", source, folder)
    return folder


def test_the_rows_by_hand(tmp_path):
    convert_taobao(write(tmp_path / "in", EVENTS), f"{tmp_path}/out")
    rows = read_split(f"{tmp_path}/out", "logs")
    assert rows.column_names == [*IDS, *HISTORIES, *DENSE, *LABELS, "timestamp"]
    rows = rows.sort_by(ORDER)
    assert rows.drop_columns(["timestamp", "category_id"]).to_pydict() == {
        "user_id": [7, 8, 7, 7, 8],
        "item_id": [50, 50, 51, 50, 50],
        "hour": [0, 0, 1, 0, 0],
        "weekday": [5, 5, 5, 6, 6],
        "last_items": [[], [], [50], [50, 51, 51, 50], [50]],
        "last_categories": [[], [], [9], [9, 9, 9, 9], [9]],
        "last_behaviors": [[], [], [0], [0, 0, 2, 3], [0]],
        "item_events": [0, 0, 0, 2, 1],
        "category_events": [0, 0, 1, 4, 1],
        "fav": [0, 0, 0, 0, None],
        "cart": [0, 0, 1, 0, None],
        "buy": [1, 0, 0, 0, None],  # exactly 24 hours later; the last one is not observed to its end
    }
    files = list_files(Folder.open(f"{tmp_path}/out/logs"), None)
    assert [str(f.day) for f in files] == [str(dt.date(2017, 11, 25) + dt.timedelta(n)) for n in range(9)]


def test_all_rows_against_plain_counting(source, out, tmp_path, monkeypatch):
    events = []
    with open(f"{source}/UserBehavior.csv") as file:
        for place, line in enumerate(file):
            user, item, category, behavior, time = line.strip().split(",")
            if MIDNIGHT <= int(time) < MIDNIGHT + 9 * DAY_S:
                events.append((int(time), place, int(user), int(item), int(category), behavior))
    events.sort()
    assert len({(e[0], e[2]) for e in events}) < len(events)  # there are ties to go wrong on
    expected = []
    for time, _, user, item, category, behavior in events:
        if behavior == "pv":
            past = [e for e in events if e[2] == user and e[0] < time]
            later = {e[5] for e in events if e[2:4] == (user, item) and time <= e[0] <= time + DAY_S}
            row = {"user_id": user, "item_id": item, "category_id": category}
            row["last_items"] = [e[3] for e in past[-HISTORY:]]
            row["last_categories"] = [e[4] for e in past[-HISTORY:]]
            row["last_behaviors"] = [BEHAVIORS.index(e[5]) for e in past[-HISTORY:]]
            row["item_events"] = sum(e[3] == item for e in past)
            row["category_events"] = sum(e[4] == category for e in past)
            observed = time + DAY_S <= MIDNIGHT + 9 * DAY_S
            row |= {name: int(name in later) if observed else None for name in LABELS}
            expected.append(row | {"timestamp": dt.datetime(1970, 1, 1) + dt.timedelta(seconds=time)})
    key = [name for name, _ in ORDER]
    expected.sort(key=lambda row: [row[name] for name in key])
    assert max(len(row["last_items"]) for row in expected) == HISTORY
    assert sum(row["buy"] or 0 for row in expected) > 20
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 3000)
    monkeypatch.setattr(taobao, "_BUCKET_BYTES", 9000)
    monkeypatch.setattr(taobao, "_VIEWS", 37)
    convert("taobao", source, str(tmp_path))  # in many batches, of many temporary files
    for folder in (out, tmp_path):
        rows = read_split(folder, "logs").sort_by(ORDER)
        assert rows.drop_columns(["hour", "weekday"]).to_pylist() == [
            {name: row[name] for name in rows.column_names if name not in ("hour", "weekday")} for row in expected
        ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "logs"]


def test_the_configuration_fits_the_data(out):
    config, rows = load_config(f"{out}/config.yaml"), read_split(out, "logs")
    train = rows.filter(pc.less(rows["timestamp"], dt.datetime(2017, 11, 30, 16)))
    assert plan_input(config, "train").rows == train.num_rows
    assert plan_input(config, "eval").rows > 100
    for task in config.tasks.values():  # the labels of the last training day do not reach into the evaluation day
        assert config.data.train.end + dt.timedelta(1 + task.delay_days) <= config.data.eval.start
    assert config.tables["item_id"].rows > len(pc.unique(train["item_id"]))
    assert config.table_of("last_behaviors") == "behavior"
    for name in DENSE:
        values, feature = np.log1p(train[name].to_numpy()), config.features[name]
        assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std()), abs=1e-5)


def test_the_check_finds_no_problem(out, in_process):
    report = check_data(load_config(f"{out}/config.yaml"), "both")
    assert report.problems == []
    assert report.parts["train"].others["data.timestamp"].off_day == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7,50,9,pv", r"UserBehavior.csv`, line 3: 4 fields instead of 5 in '7,50,9,pv'; download"),
        ("7,50,9,like,1511539300", r"line 3: behavior is 'like', not one of \['pv', 'fav', 'cart', 'buy'\]; fix"),
        ("7,50,9,pv,noon", "line 3: timestamp is 'noon', not an integer"),
        ("seven,50,9,pv,1511539300", "line 3: user_id is 'seven', not an integer"),
        ("7,,9,pv,1511539300", "line 3: item_id is '', not an integer"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        convert_taobao(write(tmp_path / "in", [*EVENTS[:2], line, *EVENTS[2:]]), f"{tmp_path}/out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.yaml", "logs"]


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"source folder .*/nowhere` does not exist; pass the folder that holds UserBehavior"
    ):
        convert_taobao(f"{tmp_path}/nowhere", f"{tmp_path}/out")
    with pytest.raises(DataError, match=r"has no UserBehavior.csv; download it from https://tianchi"):
        convert_taobao(str(tmp_path), f"{tmp_path}/out")
    with pytest.raises(DataError, match=r"UserBehavior.csv` has no events from 2017-11-25 to 2017-12-03; download"):
        convert_taobao(write(tmp_path / "in", EVENTS[-2:]), f"{tmp_path}/out")


def test_the_look_alike_has_something_to_learn(out):
    """Users buy from a category again: earlier events in it say more than none."""
    rows = read_split(out, "logs").drop_null()
    likes = rows.group_by(["user_id", "category_id"]).aggregate([("cart", "mean"), ("cart", "count")])
    often = likes.filter(pc.greater(likes["cart_count"], 5))["cart_mean"]
    assert pc.stddev(often).as_py() > 0.05
