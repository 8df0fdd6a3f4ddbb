"""Several roots as one data set: each row once, days of any of them, units that do not depend on the machine."""

import os
import shutil
from pathlib import Path

import pytest

from raymtl.config.data import DayRange
from raymtl.config.load import config_from_dict, dump_config, load_config, relative_paths
from raymtl.data.fragments import read_fragment
from raymtl.data.lakehouse.tables import with_snapshots
from raymtl.data.partitions import Layout
from raymtl.data.roots import Roots
from raymtl.data.units import plan_input, plan_inputs
from raymtl.errors import ConfigError, DataError
from tests.helpers.small_data import click_rows, make_config, write_file

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


def write_root(root, days, start):
    for n, day in enumerate(days):
        write_file(root, click_rows(100, start + 100 * n), day, group_rows=30)
    return str(root)


@pytest.fixture
def countries(tmp_path):
    """Two roots, each with the three days in files of the same names."""
    return [write_root(tmp_path / f"country={name}", DAYS, 300 * n) for n, name in enumerate(("de", "fr"))]


def config_of(roots, start=DAYS[0], end=DAYS[-1], **data):
    return make_config(path=roots, train={"start": start, "end": end}, unit_rows=50, **data)


def rows_of(plan, columns=("row",)):
    """The values of the rows of each unit."""
    read = [[read_fragment(plan.root, f, list(columns), 7) for f in unit.fragments] for unit in plan.units]
    return [[tuple(row.values()) for parts in unit for raw, _ in parts for row in raw.to_pylist()] for unit in read]


def test_every_row_of_all_roots_is_in_one_unit(countries):
    plan = plan_input(config_of(countries), "train")
    rows = [row for unit in rows_of(plan) for (row,) in unit]
    assert sorted(rows) == list(range(600))
    assert plan.days == (DAYS[0], DAYS[-1])
    # by day, and within a day by root
    assert rows[:200] == [*range(100), *range(300, 400)]


def test_the_name_of_a_root_is_a_column(countries):
    plan = plan_input(config_of(countries), "train")
    pairs = [pair for unit in rows_of(plan, ("row", "country")) for pair in unit]
    assert all(country == ("de" if row < 300 else "fr") for row, country in pairs)
    (alone,) = {
        c for unit in rows_of(plan_input(config_of(countries[1]), "train"), ("row", "country")) for _, c in unit
    }
    assert alone == "fr"


def test_units_are_the_same_where_the_roots_moved_together(countries, tmp_path):
    before = plan_input(config_of(countries), "train")
    moved = [shutil.copytree(root, tmp_path / "moved" / root.rpartition("/")[2]) for root in countries]
    after = plan_input(config_of([str(root) for root in moved]), "train")
    assert after.identity == before.identity
    assert rows_of(after) == rows_of(before)


def test_files_of_one_name_in_two_roots_are_two(countries):
    """The identity says in which root a file lies: roots in another order are another plan."""
    one = plan_input(config_of(countries), "train")
    other = plan_input(config_of(countries[::-1]), "train")
    assert one.identity != other.identity
    assert one.rows == other.rows


def test_one_root_in_a_list_is_that_root(countries):
    assert plan_input(config_of(countries[:1]), "train") == plan_input(config_of(countries[0]), "train")


def test_roots_of_months_follow_each_other(tmp_path):
    months = [write_root(tmp_path / "m1", DAYS[:2], 0), write_root(tmp_path / "m2", DAYS[2:], 200)]
    plan = plan_input(config_of(months), "train")
    assert [row for unit in rows_of(plan) for (row,) in unit] == list(range(300))
    assert plan.notes == (
        f"the root `{months[0]}` has 2026-01-01 to 2026-01-02 only; the other days of 2026-01-01..2026-01-03 come from the other "
        "roots",
        f"the root `{months[1]}` has 2026-01-03 to 2026-01-03 only; the other days of 2026-01-01..2026-01-03 come from the other "
        "roots",
    )


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 1, "has 2026-01-03 to 2026-01-03 only, none of 2026-01-01..2026-01-02, which come from the other roots"),
        (1, 2, "has 2026-01-03 to 2026-01-03 only; the other days of 2026-01-02..2026-01-03 come from the other roots"),
        (2, 2, None),
    ],
)
def test_what_a_root_lacks_is_noted(start, end, expected, tmp_path):
    roots = [write_root(tmp_path / "a", DAYS, 0), write_root(tmp_path / "b", DAYS[2:], 300)]
    notes = plan_input(config_of(roots, DAYS[start], DAYS[end]), "train").notes
    assert notes == (() if expected is None else (f"the root `{roots[1]}` {expected}",))


def test_days_that_no_root_has_come_from_none(tmp_path):
    roots = [write_root(tmp_path / name, DAYS[1:], 0) for name in ("a", "b")]
    found = Roots.open(roots).find_files(DayRange(start=DAYS[0], end=DAYS[0]), Layout())
    assert (found.files, found.notes) == ([], [])
    assert found.absent[0].startswith("none of the roots")


def test_a_gap_within_a_root_names_the_root(countries):
    shutil.rmtree(f"{countries[1]}/ds={DAYS[1]}")
    with pytest.raises(DataError, match=f"`{countries[1]}` has no partition ds=2026-01-02"):
        plan_input(config_of(countries), "train")


def test_a_day_that_no_root_has(countries):
    with pytest.raises(
        DataError, match=r"none of the roots \(`.*country=de` and 1 more root\) has no partition|ds=2026-01-04"
    ):
        plan_input(config_of(countries, end="2026-01-04"), "train")


def test_a_root_that_does_not_exist_is_named(countries, tmp_path):
    with pytest.raises(DataError, match=f"`{tmp_path}/nowhere` does not exist"):
        plan_input(config_of([*countries, f"{tmp_path}/nowhere"]), "train")


def test_one_file_in_two_roots(countries):
    (first, second) = (f"{root}/ds={DAYS[0]}/part-0.parquet" for root in countries)
    os.remove(second)
    os.link(first, second)
    with pytest.raises(DataError, match="two names of one file"):
        plan_input(config_of(countries), "train")


def test_columns_must_be_the_same_in_all_roots(countries):
    write_file(Path(countries[1]), click_rows(3).drop_columns(["item"]), DAYS[1])
    with pytest.raises(DataError, match=f"{countries[1]}/ds=2026-01-02/part-0.parquet: .*item"):
        plan_input(config_of(countries), "train")


def test_evaluation_on_several_roots(countries):
    config = config_of(countries[0], end=DAYS[1], eval={"start": DAYS[2], "end": DAYS[2]}, eval_path=countries)
    plans = plan_inputs(config, ["train", "eval"])
    assert (plans["train"].rows, plans["eval"].rows) == (200, 200)


def test_a_table_among_roots_is_refused(countries, tmp_path):
    deltalake = pytest.importorskip("deltalake")
    table = click_rows(5).append_column("ds", [["2026-01-01"] * 5])
    deltalake.write_deltalake(str(tmp_path / "table"), table, partition_by=["ds"])
    config = with_snapshots(config_of([*countries, str(tmp_path / "table")], end=DAYS[0]))
    with pytest.raises(
        DataError, match=f"the root `{tmp_path}/table` is a table, and a table is a data set of its own"
    ):
        plan_input(config, "train")


def test_roots_on_two_storages_are_refused(countries):
    with pytest.raises(DataError, match=r"`memory://logs` are on different storages"):
        Roots.open([countries[0], "memory://logs"])


@pytest.mark.parametrize("other", ["file://{root}", "file://{root}/../{name}/", "{root}/./"])
def test_one_root_in_two_spellings_is_refused(other, countries):
    spelled = other.format(root=countries[0], name=Path(countries[0]).name)
    with pytest.raises(DataError, match=f"`{countries[0]}` and `.*` are one folder, whose rows would be read twice"):
        Roots.open([countries[0], countries[1], spelled])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": ["/a", "/b", "/a/"]}, "the root `/a` is listed twice"),
        ({"path": []}, "expected a folder or a URL, not empty, or a list of them"),
        ({"path": ["/a", ""]}, "a root is empty"),
        ({"path": ["/a", 3]}, "expected a folder or a URL, not empty, or a list of them"),
        ({"path": ["/a", "/b"], "snapshot": 3}, "snapshot is the snapshot of one table"),
        ({"path": "/a", "eval_path": ["/b", "/c"], "eval_snapshot": 3}, "eval_snapshot is the snapshot of one table"),
    ],
)
def test_lists_that_are_no_roots(data, message):
    raw = make_config().model_dump(mode="json")
    raw["data"] |= data
    with pytest.raises(ConfigError, match=message):
        config_from_dict(raw)


def test_relative_roots_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = make_config().model_dump(mode="json")
    raw["data"]["path"] = ["a", "s3://bucket/b"]
    config = config_from_dict(raw)
    assert config.data.roots_of("eval") == (f"{tmp_path}/a", "s3://bucket/b")
    assert load_config(None, (), text=dump_config(config)) == config
    assert relative_paths(["data.path=[a, s3://b, /c]"]) == ["data.path=a"]


def test_folders_that_hold_days_are_suggested_as_roots(countries, tmp_path):
    with pytest.raises(DataError) as error:
        plan_input(config_of(str(tmp_path)), "train")
    assert f"list them as roots, as in data.path: [{countries[0]}, {countries[1]}]" in str(error.value)
