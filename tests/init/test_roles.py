"""What a column is for, from its type, its name and its values."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymtl.init.roles import Guess, answered, choices, find_leaks, guess_roles, with_answers
from tests.helpers.profiles import profile_of, write_logs

ROWS = 2003
RANDOM = np.random.default_rng(0)
CLICK = RANDOM.random(ROWS) < 0.3
BUY = CLICK & (RANDOM.random(ROWS) < 0.4)
WORDS = np.array([f"w{n}" for n in range(200)])


def lists(values: np.ndarray, most: int) -> pa.Array:
    lengths = np.arange(ROWS) % (most + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.resize(values, offsets[-1])))


def guesses(root: Path, columns: dict[str, Any], **options: Any) -> dict[str, Guess]:
    write_logs(root, {"click": CLICK, **columns})
    found = profile_of(root)
    return find_leaks(found, guess_roles(found, **options))


@pytest.mark.parametrize(
    ("name", "values", "use"),
    [
        ("user_id", np.arange(ROWS) % 300, "group"),
        ("userId", WORDS[np.arange(ROWS) % 200], "group"),
        ("member_key", WORDS[np.arange(ROWS) % 200], "group"),
        ("device", WORDS[np.arange(ROWS) % 3], "id"),
        ("device_id", WORDS[np.arange(ROWS) % 200], "group"),
        ("request_id", np.arange(ROWS) // 3, "ignore"),
        ("log_id", np.arange(ROWS), "ignore"),
        ("anything", [f"x{n}" for n in range(ROWS)], "ignore"),
        ("title", [f"a long text about the number {n} and much more" for n in range(ROWS)], "ignore"),
        ("category", np.arange(ROWS) % 40, "id"),
        ("brand", WORDS[np.arange(ROWS) % 200], "id"),
        ("age", 18 + np.arange(ROWS) % 70, "dense"),
        ("age", 10 * (np.arange(ROWS) % 7), "id"),
        ("clicks_30d", RANDOM.poisson(5, ROWS), "dense"),
        ("offset", RANDOM.integers(-50, 50, ROWS), "dense"),
        ("price", RANDOM.gamma(2, 3, ROWS), "dense"),
        ("is_weekend", np.arange(ROWS) % 2 == 0, "dense"),
        ("is_like", np.arange(ROWS) % 2, "label"),
        ("long_view", np.arange(ROWS) % 2, "label"),
        ("watch_time", RANDOM.gamma(2, 3, ROWS), "label"),
        ("avg_watch_time", RANDOM.gamma(2, 3, ROWS), "dense"),
        ("pctr", RANDOM.random(ROWS), "truth"),
        ("scene", WORDS[np.arange(ROWS) % 4], "scenario"),
        ("tab", np.arange(ROWS) % 15, "scenario"),
        ("position", 1 + np.arange(ROWS) % 10, "bias"),
        ("ts", 1_760_000_000 + np.arange(ROWS), "time"),
        ("timestamp", 1_760_000_000_000 + np.arange(ROWS), "time"),
        ("when", pa.array(1_760_000_000 + np.arange(ROWS), pa.timestamp("s")), "time"),
        ("time", RANDOM.random(ROWS), "dense"),
        ("weight", RANDOM.random(ROWS), "weight"),
        ("birth_date", pa.array(1_760_000_000 + np.arange(ROWS), pa.timestamp("s")), "ignore"),
        ("click_time", pa.array(1_760_000_000 + np.arange(ROWS), pa.timestamp("s")), "ignore"),
        ("event_date", [f"2026-01-{n % 28 + 1:02d}" for n in range(ROWS)], "time"),
        ("event_date", [f"{n % 28 + 1:02d}.01.2026" for n in range(ROWS)], "ignore"),
        ("birth_date", [f"2026-01-{n % 28 + 1:02d}T12:00Z" for n in range(ROWS)], "ignore"),
        ("is_long_video", np.arange(ROWS) % 2, "dense"),
        ("is_paid_user", np.arange(ROWS) % 2, "dense"),
        ("target_gender", np.arange(ROWS) % 2, "dense"),
        ("spend_limit", RANDOM.gamma(2, 3, ROWS), "dense"),
        ("followers", RANDOM.permutation(ROWS) * 37, "dense"),
        ("__index_level_0__", np.arange(ROWS), "ignore"),
        ("is_new", np.arange(ROWS) % 200 == 0, "dense"),
        ("badge", np.where(np.arange(ROWS) % 500 == 0, "gold", "none"), "id"),
        ("order_id", [f"o{n}" if b else None for n, b in enumerate(CLICK.tolist())], "ignore"),
        ("tags", lists(WORDS, 4), "ids"),
        ("hist_items", lists(np.arange(100), 9), "sequence"),
        ("clicked_items", lists(WORDS, 9), "sequence"),
        ("embedding", pa.array([[1.5, 2.0]] * ROWS, pa.list_(pa.float32(), 2)), "vector"),
        ("embedding", pa.array([[1.5, 2.0], None, [0.5, 0.5]] + [[1.0, 2.0]] * (ROWS - 3)), "vector"),
        ("embedding", pa.array([[1.5, 2.0], [0.5]] + [[1.0, 2.0]] * (ROWS - 2)), "ignore"),
        ("interests", pa.array([[(7, 0.5)]] * ROWS, pa.map_(pa.int64(), pa.float32())), "ignore"),
        ("context", pa.array([{"os": "ios"}] * ROWS), "ignore"),
        ("version", np.repeat("v3", ROWS), "ignore"),
        ("nothing", pa.nulls(ROWS), "ignore"),
        ("cosine", np.where(np.arange(ROWS) % 9 == 0, np.nan, 0.5), "ignore"),
        ("author_id", np.arange(ROWS, dtype=float) % 50, "id"),
        ("user_id", pa.array(np.arange(ROWS, dtype=float) % 300, mask=np.arange(ROWS) % 7 == 0), "group"),
        ("author_id", np.arange(ROWS) % 50 + 0.5, "dense"),
    ],
)
def test_the_use_of_a_column(name: str, values: Any, use: str, tmp_path: Path) -> None:
    found = guesses(tmp_path, {name: values})
    assert found[name].role == use, found[name]
    assert found["click"].role == "label"


def test_what_may_stand_beside_ids_says_how_to_read_it(tmp_path: Path) -> None:
    maps = pa.array([[(7, 0.5)]] * ROWS, pa.map_(pa.int64(), pa.float32()))
    numbers = pa.array([[1.5] * (n % 3) for n in range(ROWS)])
    found = guesses(tmp_path, {"interests": maps, "dwell": numbers})
    assert found["interests"].why == "a map: if it has IDs with weights, read it as {kind: ids, weights: interests}"
    assert "if they stand beside another list, see `weights` or `sequence_dense`" in found["dwell"].why


def test_what_is_only_known_afterwards_is_found(tmp_path: Path) -> None:
    columns = {
        "buy": BUY,
        "landing_seconds": np.where(CLICK, RANDOM.gamma(2, 9, ROWS), 0.0),
        "page": np.where(BUY, "thanks", WORDS[np.arange(ROWS) % 7]),
        "amount": np.where(BUY, RANDOM.gamma(2, 9, ROWS), 0.0),
        "hint": np.where(CLICK, 1.0, 0.0) + RANDOM.normal(0, 1, ROWS),
    }
    found = guesses(tmp_path, columns)
    assert {n: g.role for n, g in found.items()} == {
        "click": "label",
        "buy": "label",
        "landing_seconds": "ignore",
        "page": "ignore",
        "amount": "label",
        "hint": "dense",
    }
    assert "tells `click` almost perfectly (AUC 1.000)" in found["landing_seconds"].why
    assert not found["landing_seconds"].sure


def test_what_the_user_says_counts(tmp_path: Path) -> None:
    columns = {"buy": BUY, "is_like": np.arange(ROWS) % 2, "price": RANDOM.random(ROWS)}
    found = guesses(tmp_path, columns, labels=["buy"], ignored=["price"])
    assert {n: g.role for n, g in found.items()} == {
        "click": "ignore",
        "buy": "label",
        "is_like": "ignore",
        "price": "ignore",
    }


def test_without_an_event_by_name_the_few_columns_of_zero_and_one_are_labels(tmp_path: Path) -> None:
    write_logs(tmp_path, {"income": CLICK.astype(np.int8), "age": 18 + np.arange(ROWS) % 70})
    found = guess_roles(profile_of(tmp_path))
    assert found["income"].role == "label"
    assert not found["income"].sure


def test_only_the_likeliest_user_is_the_group(tmp_path: Path) -> None:
    found = guesses(
        tmp_path,
        {"account_id": np.arange(ROWS) % 50, "user": np.arange(ROWS) % 300, "cookie": WORDS[np.arange(ROWS) % 90]},
    )
    assert [n for n, g in found.items() if g.role == "group"] == ["user"]
    assert found["cookie"].role == "id"


def test_the_likeliest_time_is_that_of_the_impression(tmp_path: Path) -> None:
    times = pa.array(1_760_000_000 + np.arange(ROWS), pa.timestamp("s"))
    some = pa.array(1_760_000_000 + np.arange(ROWS), pa.timestamp("s"), mask=np.arange(ROWS) % 3 == 0)
    found = guesses(tmp_path, {"seen_time": some, "when": times, "ts": times})
    assert [n for n, g in found.items() if g.role == "time"] == ["ts"]


def test_answers_find_their_own_leaks(tmp_path: Path) -> None:
    columns = {
        "bought": BUY,
        "receipt": np.where(BUY, "yes", "no"),
        "w": RANDOM.random(ROWS),
        "weight": RANDOM.random(ROWS),
    }
    write_logs(tmp_path, {"click": CLICK, **columns})
    found = profile_of(tmp_path)
    first = guess_roles(found, labels=["click"])
    assert first["receipt"].role == "id"
    answers = {"bought": Guess("bought", "label", "as you said"), "w": Guess("w", "weight", "as you said")}
    merged = with_answers(found, first, answers)
    assert {name: guess.role for name, guess in merged.items()} == {
        "click": "label",
        "bought": "label",
        "receipt": "ignore",
        "w": "weight",
        "weight": "ignore",
    }


def test_files_that_differ(tmp_path: Path) -> None:
    write_logs(
        tmp_path,
        {"click": CLICK, "code": np.arange(ROWS) % 9, "n": np.arange(ROWS), "late": CLICK},
        {"click": CLICK, "code": WORDS[np.arange(ROWS) % 9], "n": np.arange(ROWS) + 0.5},
    )
    found = guess_roles(profile_of(tmp_path))
    assert {n: g.role for n, g in found.items()} == {"click": "label", "code": "ignore", "n": "dense", "late": "ignore"}
    both = {"click": CLICK, "a": CLICK, "t": pa.array(np.arange(ROWS), pa.timestamp("s"))}
    write_logs(
        tmp_path / "types",
        both,
        both | {"a": CLICK.astype(np.int8), "t": pa.array(np.arange(ROWS), pa.timestamp("us", "UTC"))},
    )
    assert profile_of(tmp_path / "types").sample.num_rows > ROWS
    assert found["code"].why == "the files differ in it: integer and text"
    assert found["late"].why == "the files differ in it: not in all files"


def test_only_uses_that_a_column_may_have_can_be_chosen(tmp_path: Path) -> None:
    write_logs(
        tmp_path,
        {"click": CLICK, "price": RANDOM.random(ROWS), "hist": lists(WORDS, 9), "tab": WORDS[np.arange(ROWS) % 4]},
    )
    found = profile_of(tmp_path)
    guesses = guess_roles(found)
    assert {name: choices(guess, found.columns[name]) for name, guess in guesses.items()} == {
        "click": ["label", "dense", "observed", "ignore"],
        "price": ["dense", "label", "weight", "ignore"],
        "hist": ["sequence", "ids", "ignore"],
        "tab": ["scenario", "id", "ignore"],
    }
    assert answered(guesses["price"], "dense") == guesses["price"]
    assert answered(guesses["price"], "weight") == Guess("price", "weight", "as you said")
