"""Convert MovieLens-1M: three text files into daily logs, for a model that is updated every day.

An impression is one rating, and every feature is as of its time: histories, counts and means use only ratings with an earlier
time stamp. Ratings of the same second do not count, since users sent a page of ratings at once.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.convert.earlier import Earlier
from raymtl.data.writing import OutputFolder, rows_without_collision, write_config, write_split
from raymtl.errors import DataError
from raymtl.storage.paths import join_path
from raymtl.storage.retry import to_user_error
from raymtl.words import count_of

FILES = {
    "users.dat": ("user_id", "gender", "age", "occupation", "zip"),
    "movies.dat": ("movie_id", "title", "genres"),
    "ratings.dat": ("user_id", "movie_id", "rating", "timestamp"),
}
"""Fields of the three files, which are separated by `::`."""

IDS = ("user_id", "gender", "age", "occupation", "zip_area", "movie_id", "year", "hour", "weekday", "scenario")
"""Features of one ID each."""

DENSE = {"user_ratings": "log1p", "movie_ratings": "log1p", "user_mean": "none", "movie_mean": "none"}
"""Dense features, raw, and the transform that the configuration gives them."""

LABELS = ("like", "love", "stars")
"""4 or 5 stars; 5 stars; the number of stars."""

SCENARIOS = ("sign_up", "first_day", "returning")
"""The first ratings of a user's first 24 hours; the other ratings of these hours; all later ones."""

HISTORY = 20
"""Movies in `liked_movies`, at most."""
SIGN_UP = 20
"""Minimum ratings of a user in the data set: the length of the scenario `sign_up`."""
PRIOR = 10
"""Weight of a mean's prior, in ratings."""

_MIDDLE = 3.0  # of the scale; the mean of all ratings starts here
_LIKE, _LOVE = 4, 5
_DAY_S = 86_400
_EARLIEST, _LATEST = (
    788_918_400,
    4_102_444_800,
)  # 1995 and 2100: a stamp in milliseconds would make a million partitions
_BOOTSTRAP, _EVALUATION = 0.5, 0.05  # shares of the ratings
_FORTNIGHT = 14
_UNITS = 20  # of all ratings, about
_SPLIT = "logs"
_SITE = "https://grouplens.org/datasets/movielens/1m/"
_HEADER = """\
MovieLens-1M (GroupLens), converted by `raymtl convert movielens`. One row is one rating, at its real time (UTC).
Tasks: like (4 or 5 stars), love (5 stars), and the stars themselves, for movies that a user chose to rate.
data.train is the first half of the ratings, data.eval the days after it. To train day by day, for example two weeks:
  raymtl daily --config {config} --from {first} --to {last}
daily.skip lists the days without ratings; bounds and gate allow for days of a few thousand ratings."""


def convert_movielens(source: str, out: str) -> str:
    """Convert the three files of folder `source` to `out/logs`, one partition per day; returns the path of `out/config.yaml`.

    Columns written: the features of `IDS`, `DENSE`, `genres` (list of strings) and `liked_movies` (list of int32, oldest
    first), the `LABELS` (never null) and `timestamp`. Days without a rating have a file without rows, so that every range of
    days can be read. Raises DataError, with file, line and value, if the files are not those of MovieLens-1M.
    """
    table, time = _table(*(_read(source, name) for name in FILES))
    folder = OutputFolder.open(out)
    first = int(time[0]) // _DAY_S
    counts = np.bincount(time // _DAY_S - first)
    dates = [str(np.datetime64(first + n, "D")) for n in range(len(counts))]
    _refuse_other_days(folder, dates)
    ends = np.cumsum(counts)
    for date, count, end in zip(dates, counts.tolist(), ends.tolist(), strict=True):
        write_split(table.slice(end - count, count), folder, _SPLIT, date, files=1)
    train, _ = _days(counts)
    days = {"first": dates[train], "last": dates[min(train + _FORTNIGHT, len(dates) - 1)]}
    header = _HEADER.format(config=folder.path_of("config.yaml"), **days)
    return write_config(_config(table, dates, counts, folder.path), folder, header)


@dataclass(frozen=True)
class _File:
    """One of the three files: its columns as strings, one value per line."""

    path: str
    columns: dict[str, pa.Array]

    def require(self, name: str, valid: pa.Array, expected: str, remedy: str = "fix the line or remove it") -> None:
        """Raise DataError with the first line where `valid` is not true."""
        bad = np.flatnonzero(~valid.fill_null(False).to_numpy(zero_copy_only=False))
        if len(bad):
            line = int(bad[0])
            value = self.columns[name][line].as_py()
            raise DataError(f"movielens: `{self.path}`, line {line + 1}: {name} is {value!r}, not {expected}; {remedy}")

    def numbers(self, name: str) -> pa.Array:
        """A column of integers ≥ 0, as int32."""
        self.require(name, pc.match_substring_regex(self.columns[name], r"^[0-9]{1,9}$"), "an integer")
        return self.columns[name].cast(pa.int32())

    def require_unique(self, name: str) -> None:
        """Raise DataError if a value occurs twice."""
        first = pc.index_in(self.columns[name], self.columns[name])  # the first line with each value
        here = pa.array(np.arange(len(first), dtype=np.int32))
        self.require(name, pc.equal(first, here), "unique: an earlier line has the same value")

    def places_in(self, name: str, other: "_File") -> np.ndarray:
        """The line, from 0, on which `other` has each value of a column that both files have."""
        places = pc.index_in(self.columns[name], other.columns[name])
        remedy = f"fix the line, or use the {os.path.basename(other.path)} of the same download"
        self.require(name, places.is_valid(), f"in `{other.path}`", remedy)
        return places.to_numpy()


def _read(source: str, name: str) -> _File:
    """The columns of one file."""
    path = os.path.join(source, name)
    if not os.path.isdir(source):
        raise DataError(
            f"movielens: the source folder `{source}` does not exist; pass the folder that holds {', '.join(FILES)}"
        )
    if not os.path.isfile(path):
        raise DataError(
            f"movielens: folder `{source}` has no {name}; unpack ml-1m.zip from {_SITE} and name its folder `ml-1m`"
        )
    try:
        with open(path, encoding="latin-1", newline="") as file:  # every byte is a character, so decoding cannot fail
            text = file.read()
    except OSError as error:
        raise to_user_error(f"read `{path}`", error) from error
    lines = pc.utf8_rtrim(pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten(), "\r")
    if not lines[-1].as_py():
        lines = lines[:-1]
    if not len(lines):
        raise DataError(f"movielens: `{path}` is empty; unpack ml-1m.zip from {_SITE} again")
    fields = FILES[name]
    split = pc.split_pattern(lines, "::")
    counts = pc.list_value_length(split).to_numpy()
    wrong = np.flatnonzero(counts != len(fields))
    if len(wrong):
        line = int(wrong[0])
        raise DataError(
            f"movielens: `{path}`, line {line + 1}: {counts[line]} fields instead of {len(fields)} "
            f"({'::'.join(fields)}) in {lines[line].as_py()[:80]!r}; fix the line or remove it"
        )
    values = split.flatten().cast(pa.string())
    return _File(path, {field: values[n :: len(fields)] for n, field in enumerate(fields)})


def _table(users: _File, movies: _File, ratings: _File) -> tuple[pa.Table, np.ndarray]:
    """The logs in chronological order, and the seconds since 1970 of each row; rows of one second stay in file order."""
    users.require_unique("user_id")
    movies.require_unique("movie_id")
    of_user, of_movie = _user_columns(users), _movie_columns(movies)
    user, movie = ratings.places_in("user_id", users), ratings.places_in("movie_id", movies)
    raw = ratings.columns
    ratings.require(
        "rating", pc.is_in(raw["rating"], pa.array(list("12345"))), "an integer number of stars from 1 to 5"
    )
    digits = pc.match_substring_regex(raw["timestamp"], r"^[0-9]{1,18}$")
    seconds = pc.if_else(digits, raw["timestamp"], None).cast(pa.int64())
    within = pc.and_(pc.greater_equal(seconds, _EARLIEST), pc.less(seconds, _LATEST))
    ratings.require("timestamp", within, "a time between 1995 and 2100 in whole seconds since 1970")
    time, stars = seconds.to_numpy(), raw["rating"].cast(pa.int32()).to_numpy()
    order = np.argsort(time, kind="stable")
    user, movie, time, stars = user[order], movie[order], time[order], stars[order]
    columns = {name: values.take(pa.array(user)) for name, values in of_user.items()}
    columns |= {name: values.take(pa.array(movie)) for name, values in of_movie.items()}
    columns |= _moment_columns(user, movie, columns["movie_id"].to_numpy(), stars, time)
    return pa.table(columns).select([*IDS, "genres", "liked_movies", *DENSE, *LABELS, "timestamp"]), time


def _user_columns(users: _File) -> dict[str, pa.Array]:
    columns = {name: users.numbers(name) for name in ("user_id", "age", "occupation")}
    columns["gender"] = users.columns["gender"]
    # two digits are a state or two, with enough users to learn from; three are almost as rare as users
    columns["zip_area"] = pc.utf8_slice_codeunits(users.columns["zip"], 0, 2)
    return columns


def _movie_columns(movies: _File) -> dict[str, pa.Array]:
    """`year` is null if the title does not end in one, and `genres` if there is none."""
    year = pc.extract_regex(movies.columns["title"], r"\((?P<year>[0-9]{4})\)\s*$")
    genres = movies.columns["genres"]
    return {
        "movie_id": movies.numbers("movie_id"),
        "year": pc.struct_field(year, "year").cast(pa.int32()),
        "genres": pc.split_pattern(pc.if_else(pc.equal(genres, ""), None, genres), "|"),
    }


def _moment_columns(
    user: np.ndarray, movie: np.ndarray, movie_id: np.ndarray, stars: np.ndarray, time: np.ndarray
) -> dict[str, pa.Array]:
    """The columns that depend on the rating's time: hour and weekday (Monday is 0) in UTC, histories, and the labels."""
    by_user, by_movie, all_ratings = (Earlier(keys, time) for keys in (user, movie, np.zeros_like(user)))
    like = stars >= _LIKE
    since_first = time - time[by_user.order[by_user.start]]
    few = by_user.count() < SIGN_UP
    scenario = np.where(since_first >= _DAY_S, 2, np.where(few, 0, 1))
    usual = _mean(all_ratings, stars, _MIDDLE)
    return {
        "hour": pa.array(time // 3600 % 24, pa.int8()),
        "weekday": pa.array((time // _DAY_S + 3) % 7, pa.int8()),  # 1970 began on a Thursday
        "scenario": pa.array(SCENARIOS).take(pa.array(scenario)),
        "liked_movies": by_user.last(movie_id, like, HISTORY),
        "user_ratings": pa.array(by_user.count(), pa.int32()),
        "movie_ratings": pa.array(by_movie.count(), pa.int32()),
        "user_mean": pa.array(_mean(by_user, stars, usual), pa.float32()),
        "movie_mean": pa.array(_mean(by_movie, stars, usual), pa.float32()),
        "like": pa.array(like, pa.int8()),
        "love": pa.array(stars >= _LOVE, pa.int8()),
        "stars": pa.array(stars, pa.float32()),
        "timestamp": pa.array(time).cast(pa.timestamp("s")).cast(pa.timestamp("us")),
    }


def _mean(earlier: Earlier, stars: np.ndarray, prior: np.ndarray | float) -> np.ndarray:
    """Mean stars of the earlier ratings, with a prior of `PRIOR` further ratings of `prior` stars."""
    return (earlier.total(stars) + PRIOR * prior) / (earlier.count() + PRIOR)


def _refuse_other_days(folder: OutputFolder, dates: Sequence[str]) -> None:
    """Raise DataError if the folder holds days that this conversion would not replace."""
    found = {name.split("/")[0] for name in folder.files(_SPLIT)}
    if others := sorted(f for f in found - {f"ds={date}" for date in dates} if f.startswith("ds=")):
        raise DataError(
            f"movielens: `{folder.path_of(_SPLIT)}` has {count_of(len(others), 'day')} that this source does not have, "
            f"such as {others[0]}; remove the folder or choose another one"
        )


def _days(counts: np.ndarray) -> tuple[int, int]:
    """Last day to train on and last day to evaluate on, as numbers of days since the first one, from the ratings per day.

    Training takes the first days that hold half of the ratings, evaluation the next days that hold a twentieth. Data of a
    single day serve as both.
    """
    sums = np.cumsum(counts)
    if len(counts) == 1:
        return 0, 0
    train = min(int(np.searchsorted(sums, _BOOTSTRAP * sums[-1])), len(counts) - 2)
    reach = min(sums[train] + _EVALUATION * sums[-1], sums[-1])
    return train, int(np.searchsorted(sums, reach))


def _config(table: pa.Table, dates: Sequence[str], counts: np.ndarray, root: str) -> dict[str, Any]:
    """The configuration for the converted files."""
    train, evaluation = _days(counts)
    trained = table.slice(0, int(counts[: train + 1].sum()))
    return {
        "name": "movielens",
        "data": {
            "path": join_path(root, _SPLIT),
            "train": {"start": dates[0], "end": dates[train]},
            "eval": {"start": dates[min(train + 1, evaluation)], "end": dates[evaluation]},
            "scenario": {"column": "scenario", "values": list(SCENARIOS)},
            "group": "user_id",
            "timestamp": "timestamp",
            "unit_rows": max(1, table.num_rows // _UNITS),
        },
        "features": _features(trained),
        "table_defaults": {"dim": 16},
        "tables": _tables(table),
        "tasks": {
            "like": {"kind": "binary"},
            "love": {"kind": "binary", "parent": "like"},
            "stars": {"kind": "real", "weight": 0.3},  # its loss is the variance, about three times a cross entropy
        },
        "model": {"preset": "mmoe", "sequence": {"type": "pooled"}},
        "train": {
            "epochs": 1,  # on files of the same format a second one lowered the AUC of like and love
            "checkpoint": {"every_units": 5},
        },
        "daily": {
            "store": join_path(root, "versions"),
            "bootstrap_days": train + 1,
            "skip": [date for date, count in zip(dates, counts, strict=True) if not count],
            "bounds": {"min_days": 7, "spread": 10.0, "slack": 1.0},
            # 2 % of some fifty users is one user: the default share is too small for the gate
            "gate": {"holdout": 0.2, "auc_drop": 0.02},
        },
    }


def _features(trained: pa.Table) -> dict[str, Any]:
    """The features; mean and deviation of the dense ones are those of the training days."""
    features: dict[str, Any] = {name: {"kind": "id"} for name in IDS}
    features["genres"] = {"kind": "ids"}
    features["liked_movies"] = {"kind": "sequence", "table": "movie_id", "max_length": HISTORY}
    for name, transform in DENSE.items():
        values = trained[name].to_numpy().astype(np.float64)
        values = np.log1p(values) if transform == "log1p" else values
        mean, std = round(float(values.mean()), 4), round(float(values.std()), 4)
        features[name] = {"kind": "dense", "transform": transform, "mean": mean, "std": std or 1.0}
    return features


def _tables(table: pa.Table) -> dict[str, Any]:
    """Maps for the IDs that come and go; a column of few values gets a row for each."""
    words = {name: table[name] for name in ("gender", "age", "occupation", "zip_area", "year", "scenario")}
    words["genres"] = pc.list_flatten(table["genres"])
    return {
        "user_id": {"rows": _map_rows(table["user_id"]), "id_space": "map", "admit_count": 5, "evict_after_days": 365},
        "movie_id": {"rows": _map_rows(table["movie_id"]), "id_space": "map", "admit_count": 5},
        "hour": {"rows": 24, "id_space": "direct"},
        "weekday": {"rows": 7, "id_space": "direct"},
        **{name: {"rows": rows_without_collision(values.drop_null())} for name, values in words.items()},
    }


def _map_rows(ids: pa.ChunkedArray) -> int:
    """Rows of a map for these IDs: a quarter more, rounded up to hundreds."""
    return -(-len(pc.unique(ids)) * 5 // 400) * 100
