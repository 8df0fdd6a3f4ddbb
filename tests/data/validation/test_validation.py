"""`raymtl check`: figures against plain counting, and each broken rule found with its place."""

import io
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from raymtl.data.validation.console import render
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.small_data import write_file
from tests.helpers.validation_logs import DAYS, FEATURES, TASKS, config_of, everything, good_rows, table


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


def shown(report) -> str:
    """What the terminal would show."""
    console = Console(width=120, file=io.StringIO())
    console.print(*render(report), sep="\n")
    return console.file.getvalue()


def test_clean_data_passes_with_the_right_figures(clean, in_process):
    seen = []
    report = check_data(config_of(clean), progress=lambda done, total: seen.append((done, total)))
    check_figures(report, everything(clean))
    assert seen[-1] == (2400, 2400)
    assert seen == sorted(seen)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_on_ray_with_tasks_of_several_files(clean, ray_cluster):
    report = check_data(config_of(clean, block_rows=100), read_tasks=3)
    check_figures(report, everything(clean))


def test_the_report_is_plain_json_and_can_be_shown(clean, in_process):
    report = check_data(config_of(clean))
    loaded = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert loaded["ok"] is True
    assert loaded["parts"]["train"]["tasks"]["click"]["by_day"][DAYS[0]]["rows"] == 800
    assert "squares" not in loaded["parts"]["train"]["tasks"]["click"]["all"]
    text = shown(report)
    assert "The data fulfills its contract, no warnings (2,400 rows" in text
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
    assert "The data violates its contract: 1 problem (2,400 rows" in shown(report)


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
    assert edge.violations == sum(
        b and m and not c for b, m, c in zip(rows["buy"], rows["mature"], rows["click"], strict=True)
    )
    (sentence,) = [s for s in report.warnings if "tasks.buy.parent" in s]
    first = min(n for n in range(400) if rows["buy"][n] and rows["mature"][n] and not rows["click"][n])
    assert f"part-0.parquet, row {first}" in sentence
    assert ("this is not a funnel" in sentence) == everywhere


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
    assert "tasks.buy: no label is observed (column `buy`, observed where `mature`, weighted by `weight`); " in problem
    rated = {**TASKS, "buy": {**TASKS["buy"], "base_rate": 0.1}}
    assert check_data(config_of(clean, tasks=rated)).problems == []
    later = check_data(config_of(clean), not_final={"buy"})
    assert later.problems == []
    assert "train: tasks.buy: no label is observed yet; the labels of these days are not final" in later.notes


@pytest.mark.parametrize(("zeros", "warns"), [(396, True), (100, False)])
def test_log1p_of_amounts_that_are_mostly_zero(clean, in_process, zeros, warns):
    for day in DAYS:
        amounts = np.r_[np.zeros(zeros), np.linspace(5, 50, 400 - zeros)]
        for part in range(2):
            write_file(clean, table({**good_rows(day=day), "spend": amounts}), day, f"part-{part}.parquet")
    tasks = {**TASKS, "spend": {"kind": "real", "transform": "log1p"}}
    found = [w for w in check_data(config_of(clean, tasks=tasks)).warnings if "tasks.spend.transform" in w]
    assert [w[: w.index(";")] for w in found] == [
        "train: tasks.spend.transform: 99.0% of the observed labels are 0, and log1p is for amounts above 0: the model would "
        "learn how often there is an amount, and little about its size"
    ] * warns


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
    assert "column `city` differs between files: int32 in 5 files (first" in notes
    assert "int8 in 1 file (first" in notes
    assert "column `extra` differs between files, unused by the configuration: int64 in 1 file" in notes
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
    assert [p.split(" holds ")[0] for p in report.problems] == ["column `user` (features.user)"]


def test_columns_of_the_evaluation_alone_may_be_missing_in_training(clean, in_process):
    for day in DAYS[:2]:
        for part in range(2):
            write_file(clean, table(good_rows(day=day)).drop_columns(["p", "ts"]), day, f"part-{part}.parquet")
    report = check_data(config_of(clean, DAYS[:2], eval={"start": DAYS[2], "end": DAYS[2]}))
    assert report.problems == []
    assert sum("is missing" in n for n in report.notes) == 2
    assert list(report.parts) == ["train", "eval"]
