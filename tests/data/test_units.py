"""The plan: every row in exactly one unit, whatever the files; an identity that changes with the files."""

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.data.found import File
from raymtl.data.units import Footer, find_footers, make_units, plan_input, plan_inputs
from raymtl.errors import DataError
from raymtl.storage.filesystem import open_filesystem
from tests.helpers.small_data import click_rows, make_config, write_file

DAY = dt.date(2026, 1, 1)
layouts = st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=8)


def footers_of(layout: list[list[int]]) -> list[Footer]:
    return [Footer(File(f"part-{n}", DAY, 1), pa.schema([]), tuple(groups)) for n, groups in enumerate(layout)]


@given(layouts, st.integers(1, 60))
def test_every_row_group_is_in_exactly_one_unit(layout, unit_rows):
    units = make_units(footers_of(layout), unit_rows)
    read = [(f.path, group) for unit in units for f in unit.fragments for group in f.row_groups]
    filled = [(f"part-{n}", g) for n, groups in enumerate(layout) for g, rows in enumerate(groups) if rows]
    assert read == filled  # each once, and in file order
    assert sum(unit.rows for unit in units) == sum(map(sum, layout))


@given(layouts, st.integers(1, 60))
def test_fragments_know_their_place_in_the_file(layout, unit_rows):
    for unit in make_units(footers_of(layout), unit_rows):
        for fragment in unit.fragments:
            groups = layout[int(fragment.path.removeprefix("part-"))]
            assert fragment.first_row == sum(groups[: fragment.row_groups[0]])
            assert fragment.rows == sum(groups[g] for g in fragment.row_groups)
            assert fragment.row_groups == tuple(range(fragment.row_groups[0], fragment.row_groups[-1] + 1))


@given(layouts, st.integers(1, 60))
def test_units_are_as_long_as_asked_and_no_longer_than_one_row_group_more(layout, unit_rows):
    units = make_units(footers_of(layout), unit_rows)
    assert all(unit.rows >= unit_rows for unit in units[:-1])
    longest = max((rows for groups in layout for rows in groups), default=0)
    assert all(unit.rows < unit_rows + longest or unit.rows <= unit_rows for unit in units)


@pytest.fixture
def files(tmp_path):
    """Two days of 100 rows, in row groups of 30, 30, 30, 10."""
    for n, day in enumerate(("2026-01-01", "2026-01-02")):
        write_file(tmp_path, click_rows(100, 100 * n), day, group_rows=30)
    return tmp_path


def plan(root, **data):
    return plan_input(
        make_config(path=str(root), **{"train": {"start": "2026-01-01", "end": "2026-01-02"}, **data}), "train"
    )


def test_plan_of_a_data_set(files):
    found = plan(files, unit_rows=50)
    assert [u.rows for u in found.units] == [60, 70, 60, 10]
    assert [[f.row_groups for f in u.fragments] for u in found.units] == [[(0, 1)], [(2, 3), (0,)], [(1, 2)], [(3,)]]
    assert (found.rows, found.days) == (200, ("2026-01-01", "2026-01-02"))


def test_order_differs_between_epochs_and_is_repeatable(files):
    found = plan(files, unit_rows=1)
    assert found.order(None, 3) == list(range(8))
    orders = [found.order(7, p) for p in range(4)]
    assert all(sorted(o) == list(range(8)) for o in orders)
    assert len({tuple(o) for o in orders}) > 1
    assert orders == [found.order(7, p) for p in range(4)]
    assert found.order(8, 0) != found.order(7, 0)


def test_the_same_files_give_the_same_identity_wherever_they_lie(files, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "logs"
    before = plan(files, unit_rows=50).identity
    assert plan(f"file://{files}", unit_rows=50).identity == before
    files.rename(moved)
    assert plan(moved, unit_rows=50).identity == before


@pytest.mark.parametrize("change", ["unit_rows", "one row more", "row groups", "another file", "renamed"])
def test_identity_changes_with_the_input(files, change):
    before = plan(files, unit_rows=50).identity
    path = files / "ds=2026-01-02" / "part-0.parquet"
    if change == "one row more":
        pq.write_table(click_rows(101), path, row_group_size=30)
    elif change == "row groups":
        pq.write_table(click_rows(100, 100), path, row_group_size=31)
    elif change == "another file":
        write_file(files, click_rows(5), name="part-1.parquet")
    elif change == "renamed":
        path.rename(path.with_name("part-9.parquet"))
    assert plan(files, unit_rows=90 if change == "unit_rows" else 50).identity != before


def test_days_without_rows_are_said(tmp_path):
    for day in range(1, 6):
        write_file(tmp_path, click_rows(5 if day == 1 else 0), f"2026-01-{day:02}")
    (note,) = plan(tmp_path, train={"start": "2026-01-01", "end": "2026-01-05"}).notes
    assert "4 days (2026-01-02, 2026-01-03, 2026-01-04 …) of data.train have no rows; write them again" in note


def test_empty_files_are_passed_over(files):
    before = plan(files, unit_rows=1)
    write_file(files, click_rows(0), name="part-1.parquet")
    assert [u.rows for u in plan(files, unit_rows=1).units] == [u.rows for u in before.units]


def test_no_rows_at_all(tmp_path):
    write_file(tmp_path, click_rows(0))
    with pytest.raises(DataError, match=r"has no rows on 2026-01-01\.\.2026-01-01"):
        plan(tmp_path, train={"start": "2026-01-01", "end": "2026-01-01"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"part-1.parquet: the file is empty \(0 bytes\)"),
        (b"not parquet at all", "part-1.parquet: not a readable parquet file"),
        (b"PAR1 cut off", "part-1.parquet: not a readable parquet file"),
    ],
)
def test_a_damaged_footer_names_the_file(files, content, words):
    (files / "ds=2026-01-01" / "part-1.parquet").write_bytes(content)
    with pytest.raises(DataError, match=words):
        plan(files)


def test_schema_errors_name_file_and_column_and_are_cut_after_ten(files):
    for n in range(1, 13):
        write_file(files, click_rows(3).drop_columns("click"), name=f"part-{n:02d}.parquet")
    with pytest.raises(DataError) as caught:
        plan(files)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert "part-01.parquet: column `click` (tasks.click.label) is missing" in lines[0]
    assert lines[-1] == "… and 2 more"


def test_strings_in_one_file_and_integers_in_another(files):
    rows = click_rows(3)
    write_file(files, rows.set_column(0, "item", pa.array(["a", "b", "c"])), name="part-1.parquet")
    with pytest.raises(
        DataError, match=r"`item` .features\.item. holds integers in .*part-0.parquet and strings in .*part-1"
    ):
        plan(files)


def test_other_integer_widths_may_differ_between_files(files):
    rows = click_rows(3)
    write_file(files, rows.set_column(0, "item", rows["item"].cast(pa.int16())), name="part-1.parquet")
    assert plan(files).rows == 203


def test_columns_of_the_evaluation_alone_may_be_missing_in_training(files):
    extra = {
        "tasks": {"click": {"kind": "binary", "truth": "p"}},
        "path": str(files),
        "train": {"start": "2026-01-01", "end": "2026-01-01"},
        "eval": {"start": "2026-01-02", "end": "2026-01-02"},
    }
    config = make_config(**extra)
    assert plan_input(config, "train").rows == 100
    with pytest.raises(DataError, match=r"column `p` .tasks\.click\.truth. is missing"):
        plan_input(config, "eval")


def test_strings_in_training_and_integers_in_evaluation(files):
    day = "2026-01-03"
    rows = click_rows(3)
    write_file(files, rows.set_column(0, "item", pa.array(["a", "b", "c"])), day)
    config = make_config(
        path=str(files), train={"start": "2026-01-01", "end": "2026-01-02"}, eval={"start": day, "end": day}
    )
    assert {plan_input(config, part).rows for part in ("train", "eval")} == {200, 3}
    with pytest.raises(
        DataError, match=r"`item` .features\.item. holds integers in .*2026-01-01.* and strings in .*-03"
    ):
        plan_inputs(config, ["train", "eval"])


def test_the_schema_of_a_file_without_rows_does_not_count(files):
    for name, empty in (("doubles", pa.table({"item": pa.array([], pa.float64())})), ("nothing", pa.table({}))):
        write_file(files, empty, name=f"{name}.parquet")
    assert plan(files).rows == 200


def test_evaluation_that_is_not_configured(files):
    with pytest.raises(DataError, match=r"data\.eval is not set"):
        plan_input(make_config(path=str(files)), "eval")


def test_files_of_one_schema_share_it(files):
    filesystem, root = open_filesystem(str(files))
    found, problems = find_footers(
        filesystem, [File(f"{root}/ds={d}/part-0.parquet", DAY, 9) for d in ("2026-01-01", "2026-01-02")]
    )
    assert problems == []
    assert found[0].schema is found[1].schema
