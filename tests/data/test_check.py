"""`raymtl check`: figures against plain counting, each broken rule found with its place, odd data said to be odd."""

import json
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from small_data import make_config, write_file

from raymtl.data import check
from raymtl.data.check import check_data
from raymtl.data.check_judge import expected_shared, rows_for
from raymtl.data.check_scan import Moments
from raymtl.data.check_view import render
from raymtl.errors import DataError

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
FEATURES: dict[str, Any] = {
    "user": {"kind": "id"},
    "city": {"kind": "id"},
    "tags": {"kind": "ids", "max_length": 3},
    "price": {"kind": "dense", "transform": "log1p", "mean": 1.2, "std": 0.6},
}
TABLES = {"user": {"rows": 10_000}, "city": {"rows": 20, "id_space": "direct"}, "tags": {"rows": 1000}}
TASKS = {
    "click": {"kind": "binary", "truth": "p"},
    "buy": {"kind": "binary", "parent": "click", "observed": "mature"},
    "views": {"kind": "count"},
}


def good_rows(count: int = 400, seed: int = 0, day: str = DAYS[0]) -> dict[str, list]:
    """Columns of clean logs, as lists to be spoilt by a test."""
    random = np.random.default_rng(seed)
    click = random.integers(0, 2, count)
    start = np.datetime64(day, "us").astype(np.int64)
    return {
        "user": [f"u{n}" for n in random.integers(0, 300, count)],
        "city": random.integers(0, 20, count).tolist(),
        "tags": [list(map(int, random.integers(0, 90, n))) for n in random.integers(0, 5, count)],
        "price": np.exp(random.normal(0.5, 1, count)).tolist(),
        "click": click.tolist(),
        "p": random.random(count).tolist(),
        "buy": (click * random.integers(0, 2, count)).tolist(),
        "mature": (random.random(count) < 0.8).tolist(),
        "views": random.poisson(2, count).tolist(),
        "scene": random.choice(["feed", "search"], count).tolist(),
        "weight": random.choice([0.0, 1.0, 2.0], count).tolist(),
        "ts": [int(start + n) for n in random.integers(0, 86_400_000_000, count)],
    }


def table(columns: dict[str, list], **types: pa.DataType) -> pa.Table:
    types = {"ts": pa.timestamp("us"), "city": pa.int32(), **types}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


def config_of(root, days=DAYS, **data):
    features, tasks = data.pop("features", FEATURES), data.pop("tasks", TASKS)
    looked_up = {f.get("table", name) for name, f in features.items()}
    tables = {name: spec for name, spec in {**TABLES, **data.pop("tables", {})}.items() if name in looked_up}
    settings = {
        "path": str(root),
        "train": {"start": days[0], "end": days[-1]},
        "scenario": {"column": "scene", "values": ["feed", "search"]},
        "weight": "weight",
        "timestamp": "ts",
        "group": "user",
        "block_rows": 64,
    }
    return make_config(features, tasks, tables, **{**settings, **data})


@pytest.fixture
def in_process(monkeypatch):
    """The tasks of a check run one after another in this process, without Ray."""

    def stream(source, tasks, read_tasks):
        for task in source.get_read_tasks(tasks):
            yield from task()

    monkeypatch.setattr(check, "_stream", stream)


@pytest.fixture
def clean(tmp_path):
    """Three days of two clean files each."""
    for n, day in enumerate(DAYS):
        for part in range(2):
            write_file(tmp_path, table(good_rows(seed=2 * n + part, day=day)), day, f"part-{part}.parquet", 150)
    return tmp_path


def everything(root) -> dict[str, list]:
    """All rows of the clean data as one set of columns."""
    merged: dict[str, list] = {}
    for n, day in enumerate(DAYS):
        for part in range(2):
            for name, values in good_rows(seed=2 * n + part, day=day).items():
                merged.setdefault(name, []).extend(values)
    return merged


def check_figures(report, rows) -> None:
    """The figures of the clean data against plain counting."""
    part = report.parts["train"]
    assert report.problems == report.warnings == []
    assert (part.rows, part.files, part.rows_by_day) == (2400, 6, dict.fromkeys(DAYS, 800))
    user, city, tags, price = (part.features[n] for n in FEATURES)
    assert user.distinct == pytest.approx(len(set(rows["user"])), rel=0.02)
    assert city.distinct == 20
    assert (user.rows, user.nulls) == (2400, 0)
    kept = [ids[:3] for ids in rows["tags"]]
    assert tags.distinct == pytest.approx(len({i for ids in kept for i in ids}), abs=2)
    assert tags.empty == sum(not ids for ids in rows["tags"])
    assert tags.longest == 4
    assert tags.cut == sum(len(ids) == 4 for ids in rows["tags"])
    assert tags.mean_length == pytest.approx(np.mean([len(ids) for ids in rows["tags"] if ids]))
    assert (price.min, price.max) == pytest.approx((min(rows["price"]), max(rows["price"])))
    assert (price.mean, price.std) == pytest.approx((np.mean(rows["price"]), np.std(rows["price"])))
    logs = np.log1p(rows["price"])
    assert (price.scaled_mean, price.scaled_std) == pytest.approx((logs.mean(), logs.std()), rel=1e-4)
    click = part.tasks["click"]
    assert (click.all.observed, click.all.mean) == (2400, pytest.approx(np.mean(rows["click"])))
    assert click.by_day[DAYS[1]].mean == pytest.approx(np.mean(rows["click"][800:1600]))
    in_feed = [c for c, s in zip(rows["click"], rows["scene"], strict=True) if s == "feed"]
    assert (click.by_scenario["feed"].rows, click.by_scenario["feed"].mean) == (
        len(in_feed),
        pytest.approx(np.mean(in_feed)),
    )
    assert click.by_scenario["other"].rows == 0
    bought = [b for b, m in zip(rows["buy"], rows["mature"], strict=True) if m]
    assert (part.tasks["buy"].all.observed, part.tasks["buy"].all.mean) == (len(bought), pytest.approx(np.mean(bought)))
    assert part.tasks["views"].all.mean == pytest.approx(np.mean(rows["views"]))
    (edge,) = part.funnel
    assert (edge.rows, edge.positives, edge.violations) == (len(bought), sum(bought), 0)
    assert part.scenario.listed == {s: rows["scene"].count(s) for s in ("feed", "search")}
    assert part.others["data.group"].distinct == user.distinct
    assert part.others["data.weight"].mean == pytest.approx(np.mean(rows["weight"]))
    assert part.others["data.timestamp"].min.startswith(DAYS[0])
    assert part.others["data.timestamp"].max.startswith(DAYS[2])
    assert part.tables["city"].shared is None


def test_clean_data_passes_with_the_right_figures(clean, in_process):
    seen = []
    report = check_data(config_of(clean), progress=lambda done, total: seen.append((done, total)))
    check_figures(report, everything(clean))
    assert seen[-1] == (2400, 2400)
    assert seen == sorted(seen)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_on_ray_with_tasks_of_several_files(clean, ray_cluster, monkeypatch):
    report = check_data(config_of(clean, block_rows=100), read_tasks=3)
    check_figures(report, everything(clean))


def test_the_report_is_plain_json_and_can_be_shown(clean, in_process):
    report = check_data(config_of(clean))
    loaded = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert loaded["ok"] is True
    assert loaded["parts"]["train"]["tasks"]["click"]["by_day"][DAYS[0]]["rows"] == 800
    assert "squares" not in loaded["parts"]["train"]["tasks"]["click"]["all"]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for shown in render(report):
        console.print(shown)
    text = console.export_text()
    assert "The data keeps its contract, no warnings (2,400 rows" in text
    assert all(word in text for word in ("user", "price", "click", "feed"))


# What breaks the contract

BROKEN: dict[str, tuple[str, Any, str]] = {
    "NaN": (
        "price",
        math.nan,
        "column `price` (features.price): 2 values in 2 files are not a finite number; the first is nan",
    ),
    "infinite": ("price", math.inf, "the first is inf in row 7 of"),
    "label": ("click", 3, "column `click` (tasks.click.label): 2 labels in 2 files are not 0 or 1; the first is 3"),
    "count": ("views", -1, "column `views` (tasks.views.label): 2 labels in 2 files are not a finite number ≥ 0"),
    "weight": ("weight", -0.5, "column `weight` (data.weight): 2 weights in 2 files are not a finite number ≥ 0"),
    "direct ID": (
        "city",
        20,
        "column `city` (features.city): 2 IDs in 2 files are not 0 to 19, the rows of the `direct`",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_values_are_counted_over_all_files(clean, in_process, case):
    column, value, words = BROKEN[case]
    for part, day in ((0, DAYS[1]), (1, DAYS[2])):
        rows = good_rows(seed=9, day=day)
        rows[column][7 if part == 0 else 399] = value
        write_file(clean, table(rows), day, f"part-{part}.parquet", 150)
    report = check_data(config_of(clean))
    (problem,) = report.problems
    assert words in problem
    assert f"in row 7 of {clean}/ds={DAYS[1]}/part-0.parquet" in problem
    (broken,) = report.parts["train"].broken
    assert [(p.row, p.count) for p in broken.places] == [(7, 1), (399, 1)]
    assert json.dumps(report.to_dict(), allow_nan=False)


def test_several_rules_are_found_at_once(clean, in_process):
    rows = good_rows(day=DAYS[0])
    rows["price"][0] = rows["price"][5] = math.nan
    rows["click"][1] = 9
    rows["city"][2] = -1
    write_file(clean, table(rows), DAYS[0], "part-0.parquet")
    report = check_data(config_of(clean))
    assert len(report.problems) == 3
    assert {b.used_by: (b.count, b.places[0].row, b.places[0].value) for b in report.parts["train"].broken} == {
        "features.price": (2, 0, "nan"),
        "tasks.click.label": (1, 1, "9"),
        "features.city": (1, 2, "-1"),
    }


def test_an_id_in_a_list_is_found_in_its_row(clean, in_process):
    rows = good_rows(day=DAYS[0])
    rows["tags"][300:303] = [[], [1, 2], [3, 555]]
    write_file(clean, table(rows), DAYS[0], "part-0.parquet", 150)
    report = check_data(config_of(clean, tables={"tags": {"rows": 500, "id_space": "direct"}}))
    assert "the first is 555 in row 302 of" in report.problems[0]


def test_labels_that_are_not_observed_may_hold_anything(clean, in_process):
    rows = good_rows(day=DAYS[0])
    rows["buy"][3], rows["mature"][3] = -1, False
    write_file(clean, table(rows), DAYS[0], "part-0.parquet")
    assert check_data(config_of(clean)).problems == []


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_order_of_the_funnel(clean, in_process, everywhere):
    rows = good_rows(day=DAYS[0])
    wrong = [n for n in range(400) if rows["mature"][n] and not rows["click"][n]][: 400 if everywhere else 3]
    for n in wrong:
        rows["buy"][n] = 1
    if everywhere:
        rows["click"] = [0] * 400
    write_file(clean, table(rows), DAYS[0], "part-0.parquet", 150)
    days = DAYS[:1]
    (clean / f"ds={DAYS[0]}" / "part-1.parquet").unlink()
    report = check_data(config_of(clean, days, tasks={**TASKS, "click": {"kind": "binary"}}))
    (edge,) = report.parts["train"].funnel
    sentences = report.problems if everywhere else report.warnings
    assert edge.violations == sum(
        b and m and not c for b, m, c in zip(rows["buy"], rows["mature"], rows["click"], strict=True)
    )
    (sentence,) = [s for s in sentences if "tasks.buy.parent" in s]
    first = min(n for n in range(400) if rows["buy"][n] and rows["mature"][n] and not rows["click"][n])
    assert f"part-0.parquet, row {first}" in sentence


def test_missing_days_and_damaged_files_do_not_hide_the_rest(clean, in_process):
    (clean / f"ds={DAYS[1]}" / "part-0.parquet").write_bytes(b"nothing like parquet")
    path = clean / f"ds={DAYS[2]}" / "part-1.parquet"
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 3)
        file.write(b"\xff" * (size // 4))
    report = check_data(config_of(clean, [*DAYS, "2026-01-04"]))
    missing, footer, middle = report.problems
    assert "no partition ds=2026-01-04" in missing
    assert "part-0.parquet: not a readable parquet file" in footer
    assert "part-1.parquet: cannot be read from row" in middle
    assert report.parts["train"].tasks["click"].all.rows >= 1600


def test_no_label_at_all(clean, in_process):
    for day in DAYS:
        rows = good_rows(day=day)
        rows["buy"] = [None] * 400
        for part in range(2):
            write_file(clean, table(rows, buy=pa.int8()), day, f"part-{part}.parquet")
    (problem,) = check_data(config_of(clean)).problems
    assert "tasks.buy: no label is observed (column `buy`, observed where `mature`); choose days" in problem
    rated = {**TASKS, "buy": {**TASKS["buy"], "base_rate": 0.1}}
    assert check_data(config_of(clean, tasks=rated)).problems == []


def test_nothing_to_report_on(tmp_path, in_process):
    with pytest.raises(DataError, match="does not exist"):
        check_data(config_of(tmp_path / "nothing"))
    write_file(tmp_path, table(good_rows()))
    with pytest.raises(DataError, match=r"data\.eval is not set"):
        check_data(config_of(tmp_path, DAYS[:1]), "eval")


# Schemas


def test_columns_that_are_missing_or_of_a_wrong_type(clean, in_process):
    rows = good_rows(day=DAYS[0])
    write_file(clean, table(rows).drop_columns(["price"]), DAYS[0], "part-0.parquet")
    write_file(clean, table({**rows, "views": ["many"] * 400}), DAYS[0], "part-1.parquet")
    report = check_data(config_of(clean))
    assert any("part-0.parquet: column `price` (features.price) is missing" in p for p in report.problems)
    assert any("part-1.parquet: column `views` (tasks.views.label) has type string" in p for p in report.problems)
    part = report.parts["train"]
    assert (part.features["price"].rows, part.features["user"].rows) == (2000, 2400)
    assert part.tasks["views"].all.observed == 2000


def test_differences_that_are_allowed_are_notes(clean, in_process):
    rows = good_rows(day=DAYS[2])
    extra = table(rows, city=pa.int8()).append_column("extra", pa.array(range(400)))
    write_file(clean, extra, DAYS[2], "part-1.parquet")
    report = check_data(config_of(clean))
    assert report.problems == []
    notes = "\n".join(report.notes)
    assert "column `city` is not the same in all files: int32 in 5 files (first" in notes
    assert "int8 in 1 files" in notes
    assert "column `extra`, which the configuration does not use, is not the same in all files" in notes
    assert {d.column: (d.used, d.missing) for d in report.parts["train"].schema} == {
        "city": (True, 0),
        "extra": (False, 5),
    }


def test_integers_and_strings_in_one_column(clean, in_process):
    rows = good_rows(day=DAYS[2])
    rows["user"] = list(range(400))
    write_file(clean, table(rows), DAYS[2], "part-1.parquet")
    problems = check_data(config_of(clean)).problems
    assert any("column `user` (features.user) holds integers in" in p for p in problems)


def test_integers_in_training_and_strings_in_evaluation(clean, in_process):
    rows = good_rows(day=DAYS[2])
    rows["user"] = list(range(400))
    for part in range(2):
        write_file(clean, table(rows), DAYS[2], f"part-{part}.parquet")
    report = check_data(config_of(clean, DAYS[:2], eval={"start": DAYS[2], "end": DAYS[2]}))
    assert [p.split(" holds ")[0] for p in report.problems] == [
        "column `user` (features.user)",
        "column `user` (data.group)",
    ]


def test_columns_of_the_evaluation_alone_may_be_missing_in_training(clean, in_process):
    for day in DAYS[:2]:
        for part in range(2):
            write_file(clean, table(good_rows(day=day)).drop_columns(["p", "ts"]), day, f"part-{part}.parquet")
    report = check_data(config_of(clean, DAYS[:2], eval={"start": DAYS[2], "end": DAYS[2]}))
    assert report.problems == []
    assert sum("is missing" in n for n in report.notes) == 2
    assert list(report.parts) == ["train", "eval"]


# What is allowed, but odd


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
        (put("ts", 0, day=1), "data.timestamp: 2,000 rows of column `ts` lie more than a day outside"),
    ],
)  # fmt: skip
def test_odd_data(tmp_path, in_process, change, words):
    found = warnings_of(tmp_path, change=change)
    assert any(words in w for w in found), found


def test_a_dense_feature_far_from_unit_scale(tmp_path, in_process):
    raw = {**FEATURES, "price": {"kind": "dense", "mean": 0, "std": 0.01}}
    found = warnings_of(tmp_path, features=raw)
    assert any("features.price: the model would see values of mean" in w and "; set mean: 2.7" in w for w in found), (
        found
    )


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
    assert "1 day (2026-01-01) with an odd number of rows: 100 on 2026-01-01, the median day has 2,000" in found


def test_empty_files_and_days(tmp_path, in_process):
    write_file(tmp_path, table(good_rows()), DAYS[0])
    empty = table(good_rows()).slice(0, 0)
    write_file(tmp_path, empty, DAYS[1])
    assert any("1 day (2026-01-02) without any row" in w for w in check_data(config_of(tmp_path, DAYS[:2])).warnings)
    write_file(tmp_path, empty, DAYS[0])
    (problem,) = check_data(config_of(tmp_path, DAYS[:2])).problems
    assert "there are no rows on 2026-01-01..2026-01-02" in problem


def test_layouts_that_cost_time(tmp_path, in_process):
    for n in range(60):
        write_file(tmp_path, table(good_rows(5, seed=n)), DAYS[0], f"part-{n}.parquet")
    found = check_data(config_of(tmp_path, DAYS[:1], unit_rows=1)).warnings
    assert any("60 files have 5 rows each on average" in w for w in found)
    assert any("the largest row group has 5 rows, data.unit_rows is 1" in w for w in found)


def test_features_of_one_table_with_strings_and_integers(tmp_path, in_process):
    features = {**FEATURES, "city": {"kind": "id", "table": "user"}}
    found = warnings_of(tmp_path, features=features)
    assert any("tables.user: some of its features hold strings and some integers" in w for w in found)


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
