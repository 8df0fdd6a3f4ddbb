"""What `raymtl check` finds odd: data that keeps the contract but is rarely meant so."""

import datetime as dt
import math
import re

import numpy as np
import pyarrow as pa
import pytest

from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.units import plan_input
from raymtl.data.validation.moments import Moments
from raymtl.data.validation.rules import expected_shared, rows_for
from raymtl.data.validation.run import check_data
from tests.helpers.small_data import write_file
from tests.helpers.validation_logs import DAYS, FEATURES, TASKS, config_of, good_rows, table


def warnings_of(root, days=DAYS, change=None, **config) -> list[str]:
    for n, day in enumerate(days):
        rows = good_rows(2000, seed=n, day=day)
        if change:
            change(rows, n)
        types = {name: pa.int8() for name in ("click", "buy", "views") if name in rows}
        write_file(root, table(rows, user=pa.string(), price=pa.float32(), **types), day)
    report = check_data(config_of(root, days, **config))
    assert report.problems == []
    return report.warnings


def warnings_of_files(root, days, **settings):
    report = check_data(config_of(root, days, **settings))
    assert report.problems == []
    return report.warnings


def put(column, value, day=None, share=1.0):
    def change(rows, n):
        if day is None or n == day:
            stop = int(share * len(rows[column]))
            rows[column] = [value] * stop + rows[column][stop:]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("price", None, share=0.7), "features.price: 70% of column `price` are null"),
        (put("user", None), "features.user: the column `user` is null in every row"),
        (put("city", 4), "features.city: the column `city` has one value only"),
        (put("price", 2.5), "features.price: the column `price` has one value only"),
        (put("tags", []), "features.tags: every list of column `tags` is empty"),
        (put("click", 1), "tasks.click: all 6,000 observed labels are 1"),
        (put("buy", 0, day=1), "tasks.buy: 1 day (2026-01-02) where all observed labels are 0"),
        (put("mature", False, day=2), "tasks.buy: 1 day (2026-01-03) without an observed label"),
        (put("mature", False, day=2, share=0.8), "tasks.buy: 1 day (2026-01-03) with far fewer observed labels"),
        (put("views", 40, day=0, share=0.5), "tasks.views: the label rate jumps on"),
        (put("scene", "live", share=0.1), "data.scenario: 600 rows (10.0%) with values that are not listed count as `other`"),
        (put("scene", "feed"), "data.scenario.values: 1 value (search) that no row has"),
        (put("ts", 0, day=1), "data.timestamp: 2,000 rows of column `ts` are more than a day outside"),
    ],
)  # fmt: skip
def test_odd_data(tmp_path, in_process, change, words):
    found = warnings_of(tmp_path, change=change)
    assert any(words in w for w in found), found


def test_a_dense_feature_far_from_unit_scale(tmp_path, in_process):
    raw = {**FEATURES, "price": {"kind": "dense", "mean": 0, "std": 0.01}}
    found = warnings_of(tmp_path, features=raw)
    assert any("features.price: the model's input has mean" in w and "; set mean: 2.7" in w for w in found), found


def test_a_clip_that_most_values_are_outside_of(tmp_path, in_process):
    price = {"kind": "dense", "transform": "log1p", "mean": 1.2, "std": 0.6, "clip": [None, 1.0]}
    found = warnings_of(tmp_path, features={**FEATURES, "price": price})
    assert any(
        re.search(r"features.price: (68|69|70)% of column `price` are outside the feature's clip; widen it", w)
        for w in found
    ), found
    report = check_data(config_of(tmp_path, features={**FEATURES, "price": {**price, "clip": [0, 50]}}))
    assert 0 < report.parts["train"].features["price"].clipped < 20
    assert report.warnings == []


def test_a_table_that_is_too_small_says_how_many_rows(tmp_path, in_process):
    (found,) = warnings_of(tmp_path, tables={"user": {"rows": 300}})
    assert re.search(r"tables\.user: about (29|30)\d distinct IDs on 300 rows, so 6\d% of them share a row", found)
    assert re.search(r"tables\.user\.rows: 2[89]00 brings that to 10%", found)


@pytest.mark.parametrize(("distinct", "rows"), [(50, 100), (1000, 1000), (5000, 40_000)])
def test_the_expected_share_is_what_hashing_gives(distinct, rows):
    random = np.random.default_rng(distinct)
    shares = []
    for _ in range(100_000 // distinct):
        placed = random.integers(0, rows, distinct)
        shares.append(np.mean(np.bincount(placed, minlength=rows)[placed] > 1))
    assert expected_shared(distinct, rows) == pytest.approx(np.mean(shares), abs=0.02)
    assert expected_shared(distinct, rows_for(distinct, 0.1)) == pytest.approx(0.1, abs=0.01)


def test_the_smallest_tables():
    assert (expected_shared(1, 1), expected_shared(2, 1), expected_shared(0, 5)) == (0, 1, 0)


def test_a_day_that_is_much_shorter_than_the_others(tmp_path, in_process):
    for n, day in enumerate(DAYS):
        write_file(tmp_path, table(good_rows(2000 if n else 100, seed=n, day=day)), day)
    (found,) = check_data(config_of(tmp_path)).warnings
    assert "1 day (2026-01-01) with an unusual number of rows: 100 on 2026-01-01, the median day has 2,000" in found


def test_empty_files_and_days(tmp_path, in_process):
    write_file(tmp_path, table(good_rows()), DAYS[0])
    empty = table(good_rows()).slice(0, 0)
    write_file(tmp_path, empty, DAYS[1])
    assert any("1 day (2026-01-02) without any row" in w for w in check_data(config_of(tmp_path, DAYS[:2])).warnings)
    write_file(tmp_path, empty, DAYS[0])
    (problem,) = check_data(config_of(tmp_path, DAYS[:2])).problems
    assert "there are no rows on 2026-01-01..2026-01-02" in problem


def test_what_holds_for_both_parts_is_one_warning(tmp_path, in_process):
    def spoil(rows, n):
        rows["user"] = [None] * 2000
        rows["scene"] = [["live", "story"][k % 2] for k in range(100 + 51 * n)] + rows["scene"][100 + 51 * n :]
        rows["ts"] = [0] * (10 + n) + rows["ts"][10 + n :]
        rows["spend"] = [0.0] * (1800 + 20 * n) + [5.0] * (200 - 20 * n)

    tasks = {**TASKS, "spend": {"kind": "real", "transform": "log1p"}}
    days = {"train": {"start": DAYS[0], "end": DAYS[0]}, "eval": {"start": DAYS[1], "end": DAYS[1]}}
    found = warnings_of(tmp_path, DAYS[:2], spoil, tasks=tasks, **days)
    expected = [
        "train and eval: features.user: the column `user` is null in every row; leave",
        "train and eval (figures of train): tasks.spend.transform: 90.0% of",
        "train and eval (figures of train): data.scenario: 100 rows (5.0%) with",
        "train and eval (figures of train): data.timestamp: 10 rows of",
    ]
    assert [w.startswith(words) for w, words in zip(found, expected, strict=True)] == [True] * 4, found


def test_the_same_problem_of_both_parts_is_two_with_their_places(clean, in_process):
    for day in DAYS[1:]:
        write_file(clean, table({**good_rows(day=day), "click": [3] * 400}), day)
    days = {"train": {"start": DAYS[0], "end": DAYS[1]}, "eval": {"start": DAYS[2], "end": DAYS[2]}}
    found = check_data(config_of(clean, **days)).problems
    assert [[day in problem for day in DAYS[1:]] for problem in found] == [[True, False], [False, True]]


def test_a_training_file_in_the_evaluation_under_another_name(clean, in_process):
    (clean / "ds=2026-01-04").symlink_to(f"ds={DAYS[2]}")
    (found,) = check_data(config_of(clean, eval={"start": "2026-01-04", "end": "2026-01-04"})).problems
    assert "(and 1 more such pairs) are two names of one file" in found


def test_layouts_that_cost_time(tmp_path, in_process):
    for n in range(60):
        write_file(tmp_path, table(good_rows(5, seed=n)), DAYS[0], f"part-{n}.parquet")
    found = check_data(config_of(tmp_path, DAYS[:1], unit_rows=1)).warnings
    assert any("60 files have 5 rows each on average" in w for w in found)
    assert any("the largest row group has 5 rows, data.unit_rows is 1" in w for w in found)


def test_features_of_one_table_with_strings_and_integers(tmp_path, in_process):
    features = {**FEATURES, "city": {"kind": "id", "table": "user"}}
    found = warnings_of(tmp_path, features=features)
    assert any(
        "tables.user: its features hold integers (features.city) and strings (features.user)" in w for w in found
    )


def test_training_days_in_the_evaluation(clean, in_process):
    report = check_data(config_of(clean, eval={"start": DAYS[2], "end": DAYS[2]}))
    assert any("data.eval: the day 2026-01-03 is also a training day" in w for w in report.warnings)


def test_moments_merge_exactly():
    values = np.random.default_rng(0).normal(1e9, 1, 1000)
    merged = Moments()
    for part in np.array_split(values, 7):
        moments = Moments()
        moments.add(part)
        merged.merge(moments)
    assert (merged.count, merged.low, merged.high) == (1000, values.min(), values.max())
    assert (merged.mean, merged.std) == pytest.approx((values.mean(), values.std()), rel=1e-7)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (pa.timestamp("ms", "UTC"), "2026-01-01 12:00:00"),
        (pa.timestamp("us"), "2026-01-01 12:00:00"),
        (pa.date32(), "2026-01-01 00:00:00"),
        (pa.string(), "2026-01-01 12:00:00"),
    ],
    ids=str,
)
def test_times_of_every_type(tmp_path, in_process, kind, shown):
    moments = pa.array([dt.datetime(2026, 1, 1, 12)] * 3 + [None], pa.timestamp("us")).cast(kind, safe=False)
    rows = {name: values[:4] for name, values in good_rows().items()}
    write_file(tmp_path, table(rows).drop_columns(["ts"]).append_column("ts", moments))
    report = check_data(config_of(tmp_path, DAYS[:1]))
    time = report.parts["train"].others["data.timestamp"]
    assert (time.min, time.max, time.nulls, time.off_day) == (shown, shown, 1, 0)


def test_text_that_is_no_time_breaks_the_contract(tmp_path, in_process):
    rows = {name: values[:4] for name, values in good_rows().items()}
    texts = pa.array(["2026-01-01T12:00Z", None, "noon", "2026-02-30"])
    write_file(tmp_path, table(rows).drop_columns(["ts"]).append_column("ts", texts))
    (problem,) = check_data(config_of(tmp_path, DAYS[:1])).problems
    assert "column `ts`" in problem
    assert "column `ts` (data.timestamp): 2 values are not a time such as 2026-01-31T12:00:00Z" in problem
    assert "the first is noon in row 2" in problem


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float64()], ids=str)
@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_times_as_numbers_are_unix_times_of_any_unit(tmp_path, in_process, kind, unit):
    rows = {name: values[:4] for name, values in good_rows().items()}
    start, forty_days = 1767225600, 40 * 86_400
    moments = pa.array([start * unit, (start + 86_399) * unit, (start + forty_days) * unit, None], pa.int64())
    logs = table(rows).drop_columns(["ts"]).append_column("ts", moments.cast(kind, safe=False))
    write_file(tmp_path, logs)
    report = check_data(config_of(tmp_path, DAYS[:1]))
    time = report.parts["train"].others["data.timestamp"]
    assert (time.min, time.max, time.off_day) == ("2026-01-01 00:00:00", "2026-02-10 00:00:00", 1)
    assert any("data.timestamp: 1 row of column `ts` is more than a day outside" in w for w in report.warnings)


def test_times_that_are_no_numbers_do_not_count(tmp_path, in_process):
    rows = {name: values[:4] for name, values in good_rows().items()}
    write_file(tmp_path, table({**rows, "ts": [math.nan, math.inf, 1e300, 1767225600.5]}, ts=pa.float64()))
    time = check_data(config_of(tmp_path, DAYS[:1])).parts["train"].others["data.timestamp"]
    assert (time.min, time.off_day) == ("2026-01-01 00:00:00", 1)


BAD = pa.array([[b"feed", b"caf\xe9", b"search", b"feed"][n % 4] for n in range(400)])


def not_utf8(values: pa.Array) -> pa.Array:
    """A string column that holds the bytes, as Spark and Hive write it."""
    return pa.StringArray.from_buffers(len(values), values.buffers()[1], values.buffers()[2])


@pytest.mark.parametrize("column", ["scene", "user", "tags"])
def test_bytes_that_are_no_utf8_are_data(tmp_path, in_process, column):
    bad = not_utf8(BAD)
    values = pa.ListArray.from_arrays(pa.array(range(401), pa.int32()), bad) if column == "tags" else bad
    rows = table(good_rows()).drop_columns([column]).append_column(column, values)
    write_file(tmp_path, rows)
    report = check_data(config_of(tmp_path, DAYS[:1]))
    assert report.problems == []
    if column == "scene":
        assert report.parts["train"].scenario.listed == {"feed": 200, "search": 100}
        assert report.parts["train"].scenario.unlisted == {"caf\ufffd": 100}
    else:
        assert report.parts["train"].features[column].distinct == 3
    config = config_of(tmp_path, DAYS[:1], eval={"start": DAYS[0], "end": DAYS[0]})
    (unit,) = plan_input(config, "eval").units
    maker = BlockMaker(config, evaluation=True)
    for raw, row in read_fragment(str(tmp_path), unit.fragments[0], maker.raw_columns(), 100):
        assert maker(raw, Place(unit.fragments[0].path, row), 0).num_rows <= 100


def test_the_schema_of_a_file_without_rows_does_not_count(tmp_path, in_process):
    write_file(tmp_path, table(good_rows()))
    doubles = pa.table({name: pa.array([], pa.float64()) for name in good_rows()})  # as pandas writes it
    write_file(tmp_path, doubles, name="empty.parquet")
    write_file(tmp_path, pa.table({}), name="nothing.parquet")
    report = check_data(config_of(tmp_path, DAYS[:1]))
    assert report.problems == report.notes == []
    assert report.parts["train"].types["user"] == "string"
    assert plan_input(config_of(tmp_path, DAYS[:1]), "train").rows == 400


def test_a_list_that_is_null_all_day_holds_neither_strings_nor_integers(tmp_path, in_process):
    rows = table(good_rows()).drop_columns(["tags"]).append_column("tags", pa.nulls(400))
    write_file(tmp_path, rows)
    features = {"user": {"kind": "id"}, "tags": {"kind": "ids", "table": "user"}}
    assert not any("never look up" in w for w in warnings_of_files(tmp_path, DAYS[:1], features=features))


def test_many_features_alike_are_one_warning(tmp_path, in_process):
    names = [f"f{n:03}" for n in range(200)]
    for day in DAYS[:2]:
        rows = table(good_rows(day=day))
        for name in names:
            rows = rows.append_column(name, pa.array([1.0] * 400))
        write_file(tmp_path, rows, day)
    features = {**FEATURES, **{name: {"kind": "dense"} for name in names}}
    days = {"start": DAYS[1], "end": DAYS[1]}
    found = warnings_of_files(tmp_path, DAYS[:1], features=features, eval=days)
    assert [w for w in found if "one value" in w] == [
        "train: features.f000, features.f001, features.f002 and 197 more: each of these columns has one value only; "
        "leave the features out"
    ]


def test_many_columns_that_differ_alike_are_one_note(tmp_path, in_process):
    rows = table(good_rows())
    write_file(tmp_path, rows)
    for n in range(5):
        rows = rows.append_column(f"extra{n}", pa.array([1] * 400))
    write_file(tmp_path, rows, name="part-1.parquet")
    (note,) = check_data(config_of(tmp_path, DAYS[:1])).notes
    assert "columns `extra0`, `extra1`, `extra2` and 2 more differ between files, unused" in note
