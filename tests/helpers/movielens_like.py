"""Files in exactly MovieLens-1M's format, with a taste to learn: users and movies that come over time, stars by genre."""

import os

import numpy as np

GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
AGES = (1, 18, 25, 35, 45, 50, 56)
START_S = 956_703_932
"""The first time stamp of MovieLens-1M: 2000-04-25 23:05:32 UTC."""
_DAY_S = 86_400
_WORDS = ("Garçon", "Night", "River", "Été", "Stone", "Señor", "Garden", "Train", "Mirror", "Köln", "Letter", "Winter")


def write_movielens_like(folder, users: int, movies: int, ratings: int, days: int, seed: int = 0) -> None:
    """Write `users.dat`, `movies.dat` and `ratings.dat`, as Latin-1 with `::` between the fields.

    Most users come early in the `days`, rate a lot within their first hour, several movies in one second, and some of them
    come again. A third of the movies appears on the way. Stars follow the user's taste for the genres, the movie's quality and
    the user's kindness. Nobody rates a movie twice: `ratings` is at most a fifth of users · movies, else ValueError.
    """
    if ratings * 5 > users * movies:
        raise ValueError(f"{ratings} ratings of {users} users and {movies} movies; a fifth of all pairs is the most")
    random = np.random.default_rng(seed)
    genres = random.random((movies, len(GENRES))) < 0.1
    genres[np.arange(movies), random.integers(0, len(GENRES), movies)] = True
    quality, popularity = random.normal(0, 0.4, movies), random.permutation(1 / np.arange(2, movies + 2) ** 0.7)
    released = np.where(random.random(movies) < 1 / 3, random.random(movies) * 0.9 * days * _DAY_S, 0).astype(np.int64)
    released[random.integers(movies)] = 0
    taste, friendly = random.normal(0, 0.7, (users, len(GENRES))), random.normal(0, 0.35, users)
    user, movie, time = _events(random, users, ratings, days, popularity, released)
    shared = (taste[user] * genres[movie]).sum(axis=1) / np.sqrt(genres[movie].sum(axis=1))
    stars = 3.6 + shared + quality[movie] + friendly[user] + random.normal(0, 0.6, ratings)
    stars = np.clip(np.rint(stars), 1, 5).astype(int)

    os.makedirs(folder, exist_ok=True)
    movie_ids = np.sort(random.permutation(movies + movies // 50)[:movies]) + 1  # with gaps, as in the original
    _write(folder, "users.dat", [_user_line(random, n + 1) for n in range(users)])
    _write(folder, "movies.dat", [_movie_line(random, movie_ids[n], genres[n]) for n in range(movies)])
    order = np.lexsort((random.random(ratings), user))  # by user; within a user not by time
    columns = (user[order] + 1, movie_ids[movie[order]], stars[order], START_S + time[order])
    _write(folder, "ratings.dat", ["{}::{}::{}::{}".format(*row) for row in zip(*columns, strict=True)])


def _events(
    random: np.random.Generator, users: int, ratings: int, days: int, popularity: np.ndarray, released: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, movie and seconds since the start of each rating; pairs are distinct, movies are out by then."""
    end = days * _DAY_S
    signed_up = (random.beta(1, 4, users) * 0.95 * end).astype(np.int64)
    activity = random.gamma(0.8, 1.0, users) + 0.2
    user = movie = time = np.empty(0, np.int64)
    while len(user) < ratings:
        who = random.choice(users, 4 * ratings, p=activity / activity.sum())
        what = random.choice(len(popularity), 4 * ratings, p=popularity / popularity.sum())
        page = random.integers(0, 12, len(who)) * 300  # ratings are sent by the page, with one stamp for all
        later = (random.random(len(who)) ** 4 * (end - signed_up[who])).astype(np.int64)
        when = signed_up[who] + np.where(random.random(len(who)) < 0.7, page, later)
        there = (released[what] <= when) & (when < end)
        user, movie, time = (np.concatenate([a, b[there]]) for a, b in ((user, who), (movie, what), (time, when)))
        first = np.unique(user * len(popularity) + movie, return_index=True)[1]
        user, movie, time = user[first], movie[first], time[first]
    kept = random.permutation(len(user))[:ratings]
    return user[kept], movie[kept], time[kept]


def _user_line(random: np.random.Generator, number: int) -> str:
    zip_code = f"{random.integers(100_000):05d}" + random.choice(["", "", "", f"-{random.integers(10_000):04d}"])
    return f"{number}::{random.choice(['F', 'M'])}::{random.choice(AGES)}::{random.integers(21)}::{zip_code}"


def _movie_line(random: np.random.Generator, number: int, genres: np.ndarray) -> str:
    title = f"{random.choice(_WORDS)} {random.choice(_WORDS)}, The ({random.integers(1919, 2001)})"
    return f"{number}::{title}::{'|'.join(GENRES[n] for n in np.flatnonzero(genres))}"


def _write(folder, name: str, lines: list[str]) -> None:
    with open(os.path.join(folder, name), "w", encoding="latin-1", newline="\n") as file:
        file.write("\n".join(lines) + "\n")
