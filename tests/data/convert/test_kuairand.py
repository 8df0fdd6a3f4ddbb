"""The KuaiRand converter, against plain parsing of files of the same format."""

import csv
import datetime as dt

import numpy as np
import pyarrow.compute as pc
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import convert, text_table
from raymtl.data.convert.kuairand import DENSE, IDS, LABELS, USER_NUMBERS, USER_WORDS, convert_kuairand
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from tests.helpers.converted import read_split
from tests.helpers.kuairand_like import write_kuairand_like
from tests.helpers.listed import list_files

LOG = "log_standard_4_08_to_4_21_pure.csv"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("kuairand")
    write_kuairand_like(folder, rows=1501, users=40, videos=70, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("kuairand", source, folder)
    return folder


def rows_of(source: str, name: str) -> list[dict[str, str]]:
    with open(f"{source}/data/{name}", newline="") as file:
        return list(csv.DictReader(file))


def expected(source: str, *logs: str) -> list[dict]:
    """The rows as plain Python makes them, sorted by day; of one day in the order of the files."""
    users = {row["user_id"]: row for row in rows_of(source, "user_features_pure.csv")}
    videos = {row["video_id"]: row for row in rows_of(source, "video_features_basic_pure.csv")}
    found = []
    for row in (row for log in logs for row in rows_of(source, log)):
        user, video = users[row["user_id"]], videos[row["video_id"]]
        new = {name: user[name] or None for name in USER_WORDS} | {name: float(user[name]) for name in USER_NUMBERS}
        new |= {name: int(row[name]) for name in ("user_id", "video_id", "tab", *LABELS)}
        new |= {name: int(video[name]) for name in ("author_id", "music_id")}
        new |= {name: video[name] or None for name in ("video_type", "upload_type", "music_type")}
        new["tags"] = [int(tag) for tag in video["tag"].split(",")] if video["tag"] else None
        new |= {"hour": int(row["hourmin"]) // 100, "duration_ms": float(row["duration_ms"])}
        new["timestamp"] = dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=int(row["time_ms"]))
        found.append((row["date"], new))
    return [new for _, new in sorted(found, key=lambda pair: pair[0])]


def test_all_rows_against_plain_parsing(source, out, tmp_path, monkeypatch):
    standard = expected(source, LOG, "log_standard_4_22_to_5_08_pure.csv")
    random = expected(source, "log_random_4_22_to_5_08_pure.csv")
    assert (len(standard), len(random)) == (1200, 300)
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 5000)
    convert("kuairand", f"{source}/data", str(tmp_path))  # the folder of the files itself, in many batches
    for folder in (out, tmp_path):
        rows = read_split(folder, "standard")
        assert rows.column_names == [*IDS, "tags", *DENSE, *LABELS, "timestamp"]
        assert rows.to_pylist() == standard
        assert read_split(folder, "random").to_pylist() == random


def test_every_day_is_there(source, out):
    files = list_files(Folder.open(f"{out}/standard"), None)
    days = [str(f.day) for f in files]
    first = dt.date(2022, 4, 8)
    assert days == [str(first + dt.timedelta(n)) for n in range(31)]


def test_days_without_impressions_have_an_empty_file(tmp_path):
    write_kuairand_like(tmp_path / "in", rows=40, users=5, videos=9)
    config = load_config(convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out"))
    files = list_files(Folder.open(f"{tmp_path}/out/standard"), config.data.train)
    assert len(files) == len(config.data.train.days()) > 5
    assert plan_input(config, "train").rows == 24


def test_both_parts_of_27k_are_read(source, out, tmp_path):
    write_kuairand_like(tmp_path / "in", rows=1501, users=40, videos=70, version="27k", seed=1)
    convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out")
    key = [(name, "ascending") for name in ("timestamp", "user_id", "video_id")]
    parts, whole = (read_split(folder, "standard").sort_by(key) for folder in (f"{tmp_path}/out", out))
    assert parts.equals(whole)


def test_the_configuration_fits_the_data(out):
    config, rows = load_config(f"{out}/config.yaml"), read_split(out, "standard")
    assert [plan_input(config, part).rows for part in ("train", "eval")] == [900, 300]
    assert (str(config.data.train.end), str(config.data.eval.start)) == ("2022-04-21", "2022-04-22")
    assert list(config.tasks) == list(LABELS)
    assert config.data.scenario.values == [0, 1, 2, 4, 8]
    assert config.map_tables() == ["user_id", "video_id", "author_id", "music_id"]
    for name in DENSE:
        values = np.log1p(rows[name].to_numpy()[:900].astype(float))
        feature = config.features[name]
        assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std()), abs=1e-5)
    with open(f"{out}/config.yaml", encoding="utf-8") as file:
        assert f"--set data.eval_path={out}/random" in file.read()


def test_the_check_finds_no_problem(out, in_process):
    report = check_data(load_config(f"{out}/config.yaml"), "both")
    assert report.problems == []
    assert report.parts["train"].others["data.timestamp"].off_day == 0


def test_a_user_or_video_without_features_has_nulls(tmp_path):
    write_kuairand_like(tmp_path / "in", rows=100, users=5, videos=9)
    for name in ("user_features_pure.csv", "video_features_basic_pure.csv"):
        path = tmp_path / "in" / "data" / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))  # of 0, 1 and 2
    convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out")
    rows = read_split(f"{tmp_path}/out", "standard")
    known = pc.less(rows["user_id"], 3)
    assert rows["user_active_degree"].is_valid().equals(known)
    assert rows["register_days"].is_valid().equals(known)
    assert rows["author_id"].is_valid().equals(pc.less(rows["video_id"], 3))


def test_codes_for_unknown_are_values(tmp_path):
    """Kuaishou writes -124 for what is unknown, and pandas 12.0 for 12 in a column with gaps."""
    write_kuairand_like(tmp_path / "in", rows=100, users=5, videos=9)
    path = tmp_path / "in" / "data" / "video_features_basic_pure.csv"
    header, *lines = path.read_text().splitlines()
    rows = [next(csv.reader([line])) for line in lines]
    rows = [[row[0], "-124", *row[2:11], "-124" if n % 2 else "12.0"] for n, row in enumerate(rows)]
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out")
    for row in read_split(f"{tmp_path}/out", "standard").to_pylist():
        assert (row["author_id"], row["tags"]) == (-124, [-124] if row["video_id"] % 2 else [12])


@pytest.mark.parametrize(
    ("name", "place", "field", "message"),
    [
        (LOG, (3, 2), "20221320", f"{LOG}`, line 3: date is '20221320', not a date such as 20220421; fix"),
        (LOG, (3, 5), "2", f"{LOG}`, line 3: is_click is '2', not 0 or 1"),
        (LOG, (2, 4), "1651910806", f"{LOG}`, line 2: time_ms is '1651910806', not an integer from 1000000000000"),
        (LOG, (2, 0), "1,1", f"{LOG}`, line 2: 20 fields instead of 19"),
        (LOG, (2, 13), "long", f"{LOG}`, line 2: duration_ms is 'long', not a number"),
        ("video_features_basic_pure.csv", (5, 11), "12;65", "line 5: tag is '12;65', not integers with commas between"),
        ("video_features_basic_pure.csv", (6, 0), "3", "video_features_basic_pure.csv` has video_id 3 twice; download"),
        ("user_features_pure.csv", (5, 5), "many", "user_features_pure.csv`, line 5: follow_user_num is 'many'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, name, place, field, message):
    write_kuairand_like(tmp_path / "in", rows=50, users=5, videos=9)
    path = tmp_path / "in" / "data" / name
    lines = path.read_text().splitlines()
    line = next(csv.reader([lines[place[0] - 1]]))
    line[place[1]] = field
    lines[place[0] - 1] = ",".join(f'"{f}"' if "," in f and name != LOG else f for f in line)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message):
        convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"source folder .*/nowhere` does not exist; pass the folder of KuaiRand-Pure"):
        convert_kuairand(f"{tmp_path}/nowhere", f"{tmp_path}/out")
    with pytest.raises(DataError, match=r"has no user_features_pure.csv, .*; download the data from https://kuairand"):
        convert_kuairand(str(tmp_path), f"{tmp_path}/out")
    write_kuairand_like(tmp_path / "in", rows=50, users=5, videos=9)
    data = tmp_path / "in" / "data"
    (data / "user_features_1k.csv").write_text("")
    with pytest.raises(DataError, match="has the files of 1k and pure; move one of them away"):
        convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out")
    (data / "user_features_1k.csv").unlink()
    for name in ("log_random_4_22_to_5_08_pure.csv", "video_features_basic_pure.csv"):
        text = (data / name).read_text()
        (data / name).unlink()
        with pytest.raises(DataError, match=f"has no {name}; download the data again"):
            convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out")
        (data / name).write_text(text)
    assert not (tmp_path / "out").exists()
    (data / LOG).write_text((data / LOG).read_text().replace("long_view", "long_look", 1))
    with pytest.raises(DataError, match=f"{LOG}` lacks a column of .*long_view"):
        convert_kuairand(f"{tmp_path}/in", f"{tmp_path}/out")


def test_the_look_alike_has_something_to_learn(out):
    rows = read_split(out, "standard")
    rates = rows.slice(0, 900).group_by("video_id").aggregate([("is_click", "mean")])
    test = rows.slice(900)
    rate = rates["is_click_mean"].take(pc.index_in(test["video_id"], rates["video_id"])).fill_null(0.5)
    high = pc.greater(rate, pc.mean(rate))
    assert (
        pc.mean(test["is_click"].filter(high)).as_py() > pc.mean(test["is_click"].filter(pc.invert(high))).as_py() + 0.1
    )
