"""The MovieLens converter, on a few lines counted by hand and on files of the same format with a taste to learn."""

import datetime as dt
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymtl.config.data import DayRange
from raymtl.config.load import load_config
from raymtl.data.convert import convert
from raymtl.data.convert.movielens import DENSE, HISTORY, IDS, LABELS, PRIOR, SIGN_UP, convert_movielens
from raymtl.data.ids.hashing import hash_rows, to_int64
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from tests.helpers.listed import list_files
from tests.helpers.movielens_like import write_movielens_like

MAY = 957_139_200  # 2000-05-01 00:00 UTC, a Monday
DAY_S = 86_400
COLUMNS = [*IDS, "genres", "liked_movies", *DENSE, *LABELS, "timestamp"]
USERS = ["1::F::1::10::48067", "2::M::56::16::70072-1234"]
MOVIES = ["1::Toy Story (1995)::Animation|Comedy", "5::Misérables, Les (1998)::Drama", "9::(Untitled)::"]
RATINGS = [
    f"1::9::4::{MAY + 18_000}",
    f"1::5::3::{MAY + 18_000}",
    f"1::1::5::{MAY}",
    f"2::1::4::{MAY + 10}",
    f"2::5::2::{MAY + 2 * DAY_S + 7200}",
]


def write(folder, end: str = "\n", **files: list[str]) -> str:
    """The three files of few lines; `users`, `movies`, `ratings` replace theirs. Returns the folder's path."""
    folder.mkdir(exist_ok=True)
    for name, lines in {"users": USERS, "movies": MOVIES, "ratings": RATINGS, **files}.items():
        (folder / f"{name}.dat").write_bytes("".join(line + end for line in lines).encode("latin-1"))
    return str(folder)


def read(out) -> pa.Table:
    """All rows, in the order of the files."""
    return pa.concat_tables(
        pq.read_table(f.path, partitioning=None) for f in list_files(Folder.open(f"{out}/logs"), None)
    )


def days_of(out) -> list[str]:
    return sorted(name.removeprefix("ds=") for name in os.listdir(f"{out}/logs"))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """80 users, 120 movies, 1500 ratings on 90 days."""
    folder = tmp_path_factory.mktemp("movielens")
    write_movielens_like(folder, users=80, movies=120, ratings=1500, days=90, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("movielens", source, folder)
    return folder


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_rows_by_hand(tmp_path, end):
    convert_movielens(write(tmp_path / "in", end), f"{tmp_path}/out")
    rows = read(f"{tmp_path}/out")
    assert rows.column_names == COLUMNS
    seen = rows.drop_columns(["user_mean", "movie_mean", "timestamp"]).to_pydict()
    assert seen == {  # by time; of one second, as in the file
        "user_id": [1, 2, 1, 1, 2],
        "gender": ["F", "M", "F", "F", "M"],
        "age": [1, 56, 1, 1, 56],
        "occupation": [10, 16, 10, 10, 16],
        "zip_area": ["48", "70", "48", "48", "70"],
        "movie_id": [1, 1, 9, 5, 5],
        "year": [1995, 1995, None, 1998, 1998],
        "hour": [0, 0, 5, 5, 2],
        "weekday": [0, 0, 0, 0, 2],
        "scenario": ["sign_up", "sign_up", "sign_up", "sign_up", "returning"],
        "genres": [["Animation", "Comedy"], ["Animation", "Comedy"], None, ["Drama"], ["Drama"]],
        "liked_movies": [[], [], [1], [1], [1]],
        "user_ratings": [0, 0, 1, 1, 1],
        "movie_ratings": [0, 1, 0, 0, 1],
        "like": [1, 1, 1, 0, 0],
        "love": [1, 0, 0, 0, 0],
        "stars": [5, 4, 4, 3, 2],
    }
    usual = [3, (5 + 30) / 11, (9 + 30) / 12, (9 + 30) / 12, (16 + 30) / 14]
    prior = [PRIOR * mean for mean in usual]
    assert rows["user_mean"].to_pylist() == pytest.approx(
        [usual[0], usual[1], (5 + prior[2]) / 11, (5 + prior[3]) / 11, (4 + prior[4]) / 11]
    )
    assert rows["movie_mean"].to_pylist() == pytest.approx(
        [usual[0], (5 + prior[1]) / 11, usual[2], usual[3], (3 + prior[4]) / 11]
    )
    assert rows["timestamp"][4].as_py() == dt.datetime(2000, 5, 3, 2)
    assert days_of(f"{tmp_path}/out") == ["2000-05-01", "2000-05-02", "2000-05-03"]


def test_every_feature_against_plain_counting(source, out):
    rows = read(out)
    seconds = pc.cast(rows["timestamp"], pa.timestamp("s")).cast(pa.int64()).to_pylist()
    names = ("user_id", "movie_id", "stars")
    events = [
        (user, movie, stars, at)
        for user, movie, stars, at in zip(*(rows[n].to_pylist() for n in names), seconds, strict=True)
    ]
    with open(f"{source}/ratings.dat", encoding="latin-1") as file:
        assert sorted(events) == sorted(tuple(map(int, line.split("::"))) for line in file)
    assert seconds == sorted(seconds)
    assert len({(e[0], e[3]) for e in events}) < 0.8 * len(events)  # there are ties to go wrong on
    found = rows.select(["liked_movies", "user_ratings", "movie_ratings", "scenario"]).to_pylist()
    means = np.stack([rows[name].to_numpy() for name in ("user_mean", "movie_mean")])
    for place, (user, movie, _, at) in enumerate(events):
        before = [e for e in events if e[3] < at]
        own, same = [e for e in before if e[0] == user], [e for e in before if e[1] == movie]
        late = bool(own) and at - own[0][3] >= DAY_S
        assert found[place] == {
            "liked_movies": [e[1] for e in own if e[2] >= 4][-HISTORY:],
            "user_ratings": len(own),
            "movie_ratings": len(same),
            "scenario": "returning" if late else "sign_up" if len(own) < SIGN_UP else "first_day",
        }
        usual = (sum(e[2] for e in before) + 3 * PRIOR) / (len(before) + PRIOR)
        expected = [(sum(e[2] for e in past) + usual * PRIOR) / (len(past) + PRIOR) for past in (own, same)]
        assert means[:, place] == pytest.approx(expected)
    assert {f["scenario"] for f in found} == {"sign_up", "first_day", "returning"}
    assert max(len(f["liked_movies"]) for f in found) == HISTORY


@pytest.mark.parametrize("place", [200, 777, 1400])
def test_nothing_leaks_from_the_future(source, out, tmp_path, place):
    """An event's row stays the same, to the last bit, when all that came at its second or later is taken away."""
    rows = read(out)
    row = rows.slice(place, 1).to_pylist()[0]
    at = int(row["timestamp"].replace(tzinfo=dt.UTC).timestamp())
    with open(f"{source}/ratings.dat", encoding="latin-1") as file:
        events = [line.strip().split("::") for line in file]
    own = [f"{row['user_id']}", f"{row['movie_id']}"]
    kept = [e for e in events if int(e[3]) < at or e[:2] == own]
    assert len(kept) < len(events)
    shutil.copytree(source, tmp_path / "in")
    (tmp_path / "in" / "ratings.dat").write_text("\n".join("::".join(e) for e in kept))
    convert_movielens(f"{tmp_path}/in", f"{tmp_path}/out")
    fewer = read(f"{tmp_path}/out")
    assert fewer.slice(fewer.num_rows - 1).to_pylist() == [row]
    assert fewer.slice(0, fewer.num_rows - 1).equals(rows.slice(0, fewer.num_rows - 1))


def test_every_day_is_there_and_holds_its_rows(out):
    days = days_of(out)
    first, last = dt.date.fromisoformat(days[0]), dt.date.fromisoformat(days[-1])
    files = list_files(Folder.open(f"{out}/logs"), DayRange(start=first, end=last))
    assert [str(f.day) for f in files] == days
    tables = [pq.read_table(f.path, partitioning=None) for f in files]
    empty = [day for day, table in zip(days, tables, strict=True) if not table.num_rows]
    assert empty
    assert {table.schema for table in tables} == {tables[0].schema}
    assert sum(table.num_rows for table in tables) == 1500
    for day, table in zip(days, tables, strict=True):
        assert {str(at.date()) for at in table["timestamp"].to_pylist()} <= {day}
    assert [str(d) for d in load_config(f"{out}/config.yaml").daily.skip] == empty


def test_the_configuration_fits_the_data(out):
    config = load_config(f"{out}/config.yaml")
    rows, days = read(out), days_of(out)
    train, evaluation = (plan_input(config, part).rows for part in ("train", "eval"))
    assert 750 <= train < 1000
    assert 75 <= evaluation < 300
    assert (str(config.data.train.start), config.daily.bootstrap_days) == (days[0], len(config.data.train.days()))
    assert config.data.eval.start == config.data.train.end + dt.timedelta(days=1)
    assert list(config.tasks) == list(LABELS)
    assert config.tasks["love"].parent == "like"
    assert set(config.features) == {*IDS, *DENSE, "genres", "liked_movies"}
    assert config.map_tables() == ["user_id", "movie_id"]
    assert config.table_of("liked_movies") == "movie_id"
    for name in ("user_id", "movie_id"):
        assert config.tables[name].rows > len(pc.unique(rows[name]))
    for name, table in config.tables.items():
        if table.id_space == "hash":
            values = pc.list_flatten(rows[name]) if name == "genres" else rows[name]
            values = pc.unique(values.drop_null())
            assert len(set(hash_rows(to_int64(values).to_numpy(), table.rows).tolist())) == len(values)
    for name, transform in DENSE.items():
        values = rows[name].to_numpy()[:train].astype(float)
        values = np.log1p(values) if transform == "log1p" else values
        feature = config.features[name]
        assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std()), abs=1e-4)
    assert config.daily.store == f"{out}/versions"
    end = days.index(str(config.data.train.end))
    command = f"raymtl daily --config {out}/config.yaml --from {days[end]} --to {days[min(end + 14, len(days) - 1)]}"
    with open(f"{out}/config.yaml", encoding="utf-8") as file:
        assert command in file.read()


def test_the_check_finds_no_problem(out, in_process):
    report = check_data(load_config(f"{out}/config.yaml"), "both")
    assert report.problems == []
    assert report.parts["train"].others["data.timestamp"].off_day == 0


@pytest.mark.parametrize(
    ("ratings", "train", "evaluation"),
    [
        (RATINGS[:4], ("2000-05-01", "2000-05-01"), ("2000-05-01", "2000-05-01")),
        (RATINGS, ("2000-05-01", "2000-05-01"), ("2000-05-02", "2000-05-03")),  # the second of May is empty
        ([RATINGS[2], f"1::5::3::{MAY + DAY_S}", f"2::5::3::{MAY + DAY_S}"], ("2000-05-01",) * 2, ("2000-05-02",) * 2),
    ],
)
def test_few_days_are_shared_out_too(tmp_path, ratings, train, evaluation):
    config = load_config(convert_movielens(write(tmp_path / "in", ratings=ratings), f"{tmp_path}/out"))
    assert (str(config.data.train.start), str(config.data.train.end)) == train
    assert (str(config.data.eval.start), str(config.data.eval.end)) == evaluation
    assert plan_input(config, "eval").rows > 0


def test_converting_again_replaces_what_lay_there(tmp_path):
    convert_movielens(write(tmp_path / "in"), f"{tmp_path}/out")
    old = read(f"{tmp_path}/out")
    convert_movielens(f"{tmp_path}/in", f"{tmp_path}/out")
    assert read(f"{tmp_path}/out").equals(old)
    write(tmp_path / "in", ratings=RATINGS[:4])
    with pytest.raises(DataError, match=r"out/logs` has 2 days that this source does not have, such as ds=2000-05-02"):
        convert_movielens(f"{tmp_path}/in", f"{tmp_path}/out")
    assert read(f"{tmp_path}/out").equals(old)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DataError, match=r"source folder .*/nowhere` does not exist; pass the folder"):
        convert_movielens(f"{tmp_path}/nowhere", f"{tmp_path}/out")
    source = write(tmp_path / "in")
    os.remove(f"{source}/movies.dat")
    with pytest.raises(DataError, match=r"has no movies.dat; unpack ml-1m.zip from https://grouplens"):
        convert_movielens(source, f"{tmp_path}/out")
    assert not os.path.exists(f"{tmp_path}/out")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"users": []}, r"users.dat` is empty; unpack"),
        (
            {"users": [USERS[0], "2::M::56::16"]},
            r"users.dat`, line 2: 4 fields instead of 5 \(user_id::.*'2::M::56::16'",
        ),
        (
            {"users": [USERS[0], USERS[0], USERS[1]]},
            "users.dat`, line 2: user_id is '1', not unique: an earlier line",
        ),
        ({"users": [USERS[0], "2::M::old::16::70072"]}, "users.dat`, line 2: age is 'old', not an integer; fix"),
        ({"users": ["x::F::1::10::48067", *USERS]}, "users.dat`, line 1: user_id is 'x', not an integer"),
        ({"movies": [*MOVIES, "7,Heat (1995),Action"]}, "movies.dat`, line 4: 1 fields instead of 3"),
        ({"movies": [*MOVIES, MOVIES[1]]}, "movies.dat`, line 4: movie_id is '5', not unique"),
        ({"ratings": [RATINGS[0], "", RATINGS[1]]}, "ratings.dat`, line 2: 1 fields instead of 4"),
        ({"ratings": [RATINGS[0] + "::1"]}, "ratings.dat`, line 1: 5 fields instead of 4"),
        (
            {"ratings": [*RATINGS, f"2::9::6::{MAY}"]},
            "ratings.dat`, line 6: rating is '6', not an integer number of stars",
        ),
        (
            {"ratings": [f"2::9::0::{MAY}"]},
            "ratings.dat`, line 1: rating is '0', not an integer number of stars from 1 to 5",
        ),
        ({"ratings": [f"2::9::3.5::{MAY}"]}, "ratings.dat`, line 1: rating is '3.5'"),
        (
            {"ratings": [*RATINGS, "2::9::3::noon"]},
            "line 6: timestamp is 'noon', not a time between 1995 and 2100 in whole",
        ),
        ({"ratings": [f"2::9::3::{MAY}000"]}, f"ratings.dat`, line 1: timestamp is '{MAY}000', not a time"),  # ms
        ({"ratings": ["2::9::3::-1"]}, "ratings.dat`, line 1: timestamp is '-1'"),
        ({"ratings": [f"2::9::3::{9 * MAY}{MAY}{MAY}"]}, "ratings.dat`, line 1: timestamp is"),  # beyond 64 bit
        (
            {"ratings": [*RATINGS, f"3::9::3::{MAY}"]},
            r"line 6: user_id is '3', not in .*users.dat`; fix .* same download",
        ),
        ({"ratings": [*RATINGS, f"2::8::3::{MAY}"]}, r"line 6: movie_id is '8', not in .*movies.dat`; fix"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        convert_movielens(write(tmp_path / "in", **files), f"{tmp_path}/out")
    assert not os.path.exists(f"{tmp_path}/out")


def test_the_look_alike_has_the_format_of_the_original(source, tmp_path):
    patterns = {
        "users.dat": r"\d+::[FM]::(1|18|25|35|45|50|56)::\d{1,2}::\d{5}(-\d{4})?",
        "movies.dat": r"\d+::[^:]+ \(\d{4}\)::[A-Z][A-Za-z'-]+(\|[A-Z][A-Za-z'-]+)*",
        "ratings.dat": r"\d+::\d+::[1-5]::9\d{8}",
    }
    for name, lines in zip(patterns, (80, 120, 1500), strict=True):
        with open(f"{source}/{name}", encoding="latin-1") as file:
            text = file.read()
        assert text.count("\n") == lines
        assert re.fullmatch(f"({patterns[name]}\n)+", text)
    pairs = [tuple(line.split("::")[:2]) for line in text.splitlines()]
    assert len(set(pairs)) == len(pairs)
    write_movielens_like(tmp_path, users=80, movies=120, ratings=1500, days=90, seed=1)
    assert (tmp_path / "ratings.dat").read_text() == text
    with pytest.raises(ValueError, match="a fifth of all pairs"):
        write_movielens_like(tmp_path, users=10, movies=10, ratings=21, days=1)


def test_the_look_alike_has_a_taste_to_learn(out):
    """Movies that were liked so far are liked more, and so are users that liked much: what the features say is of use."""
    rows = read(out).slice(750)
    for name in ("movie_mean", "user_mean"):
        high = rows[name].to_numpy() > np.median(rows[name].to_numpy())
        like = rows["like"].to_numpy()
        assert like[high].mean() > like[~high].mean() + 0.1
