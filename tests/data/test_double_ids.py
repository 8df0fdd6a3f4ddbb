"""IDs that pandas turned into doubles: the same rows as those of integers, and an error for what is no integer."""

import numpy as np
import pyarrow as pa
import pytest

from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.contract import mixed_problems, plain_types, required_columns
from raymtl.data.count_ids import Tally, count_raw
from raymtl.data.units import Fragment, plan_input
from raymtl.data.user_slice import UserSlice
from raymtl.data.validation.scanner import Scanner
from raymtl.data.validation.statistics import Partial
from raymtl.errors import DataError
from raymtl.serving.plan import plan_scoring
from raymtl.serving.rows import new_users
from tests.helpers.small_data import make_config, write_file

PLACE = Place("logs/ds=2026-01-01/part-0.parquet", 1000)
FEATURES = {
    "user": {"kind": "id"},
    "city": {"kind": "id"},
    "tags": {"kind": "ids", "max_length": 2},
    "history": {"kind": "sequence", "column": "tags", "table": "tags", "max_length": 2},
}
CONFIG = make_config(
    FEATURES,
    tables={"city": {"rows": 10, "id_space": "direct"}, "user": {"rows": 9, "id_space": "map"}},
    scenario={"column": "city", "values": [3, "4"]},
    group="user",
)
IDS = [5, None, 2**24, -7, 0]
CITIES = [3, 4, None, 0, 9]
TAGS = [[1, None, 2, 9], [], None, [3], [None]]


def columns(ids: pa.DataType) -> pa.Table:
    """The same IDs in columns of one type."""
    return pa.table(
        {
            "user": pa.array(IDS, ids),
            "city": pa.array(CITIES, ids),
            "tags": pa.array(TAGS, pa.list_(ids)),
            "click": pa.array([0, 1, 0, 1, 1], pa.int8()),
        }
    )


def of_pandas() -> pa.Table:
    """The same with NaN for null, as `pa.Table.from_arrays` of numpy arrays has it."""
    nan = [[np.nan if v is None else float(v) for v in values] for values in (IDS, CITIES)]
    tags = [None if row is None else [np.nan if v is None else float(v) for v in row] for row in TAGS]
    return (
        columns(pa.float64())
        .drop_columns(["user", "city", "tags"])
        .append_column("user", pa.array(nan[0]))
        .append_column("city", pa.array(nan[1]))
        .append_column("tags", pa.array(tags))
    )


DOUBLES = pytest.mark.parametrize("raw", [columns(pa.float64()), of_pandas()], ids=["null", "NaN"])


@DOUBLES
@pytest.mark.parametrize("selected", [None, True, False])
def test_a_block_of_doubles_is_that_of_integers(raw: pa.Table, selected: bool | None) -> None:
    users = None if selected is None else UserSlice("user", 1, 0.5, selected)
    maker = BlockMaker(CONFIG, True, {"user": None}, users)
    found = maker(raw, PLACE, 0)
    assert found.equals(maker(columns(pa.int64()), PLACE, 0))
    assert selected or len(found) > 1


@DOUBLES
def test_the_lookups_of_doubles_are_counted_as_those_of_integers(raw: pa.Table) -> None:
    def counted(table: pa.Table) -> list[list[int]]:
        tallies = {"user": Tally()}
        count_raw(CONFIG, table, 3, tallies)
        return [values.tolist() for values in vars(tallies["user"].total()).values()]

    assert counted(raw) == counted(columns(pa.int64()))


@DOUBLES
def test_scoring_finds_the_users_of_doubles(raw: pa.Table) -> None:
    twice = raw.take([0, 0, 1, 1, 2, 3, 3])
    assert new_users(twice, CONFIG, ["user", "history"]).tolist() == [True, False, True, False, True, True, False]


@pytest.mark.parametrize(
    ("kind", "value", "shown", "limit"),
    [
        (pa.float64(), 1.5, "1.5", "2^53, as doubles"),
        (pa.float64(), np.inf, "inf", "2^53, as doubles"),
        (pa.float64(), -np.inf, "-inf", "2^53, as doubles"),
        (pa.float64(), 2.0**53 + 2, "9007199254740994.0", "2^53, as doubles"),
        (pa.float32(), 2.0**24 + 2, "16777218.0", "2^24, as floats"),
    ],
)
@pytest.mark.parametrize("column", ["user", "city", "tags", "group", "scenario"])
def test_what_is_no_integer_is_an_error(column: str, kind: pa.DataType, value: float, shown: str, limit: str) -> None:
    features = {"tags": {"kind": "ids", "max_length": 2}} if column in ("group", "scenario") else FEATURES
    data = {
        "group": {"group": "user"},
        "scenario": {"scenario": {"column": "city", "values": [3]}},
    }.get(column, {})
    config = make_config(features, tables={"city": {"rows": 10}} if "city" in features else None, **data)
    source, used_by = {
        "group": ("user", "data.group"),
        "scenario": ("city", "data.scenario.column"),
    }.get(column, (column, f"features.{column}"))
    odd = pa.array([[1, None], [], [1, 2, 0.5], [7, value], []], pa.list_(kind)) if column == "tags" else None
    raw = columns(kind).drop_columns([source])
    raw = raw.append_column(source, odd if odd is not None else pa.array([3, None, 0, value, 1.25], kind))
    with pytest.raises(DataError) as error:
        BlockMaker(config, evaluation=True)(raw, PLACE, 0)
    assert str(error.value) == (
        f"{PLACE.path}: column `{source}` ({used_by}), row 1003: the value is {shown}, expected a whole number up to {limit} "
        "hold IDs exactly; write the IDs as integers (pandas: dtype Int64, which has nulls)"
    )


def test_check_counts_what_is_no_integer(tmp_path) -> None:
    table = columns(pa.float64()).drop_columns(["user"])
    path = write_file(tmp_path, table.append_column("user", pa.array([0.5, np.nan, 7.0, np.inf, 8.0])))
    fragment = Fragment(path, (0,), 0, 5)
    uses = frozenset(c.used_by for c in required_columns(CONFIG))
    partial: Partial = Scanner(CONFIG).scan(str(tmp_path), fragment, "2026-01-01", uses)
    found = {(c.used_by, rule.noun): files[path] for (c, rule), files in partial.broken.items()}
    assert {use for use, _ in found} == {"features.user", "data.group"}
    violation = found["features.user", "value"]
    assert (violation.count, violation.row, violation.value) == (2, 0, "0.5")
    assert partial.columns["features.user"].nulls == 1
    assert partial.columns["features.user"].ids.estimate() == 2
    assert dict(partial.scenarios) == {"3": 1, "4": 1, "0": 1, "9": 1}


def test_a_day_of_doubles_after_a_day_of_integers(tmp_path) -> None:
    columns_ = required_columns(CONFIG)
    schemas = [columns(kind).schema for kind in (pa.int64(), pa.float64(), pa.float32(), pa.int32())]
    assert mixed_problems([(str(n), s) for n, s in enumerate(schemas)], columns_) == []
    assert [plain_types([s], columns_)["user"] for s in schemas] == ["integer"] * 4
    assert plain_types(schemas, columns_)["tags"] == "list of integer"
    strings = schemas[0].set(0, pa.field("user", pa.string()))
    problems = mixed_problems([("0", strings), ("1", schemas[1])], columns_)
    assert [problem.split(", which")[0] for problem in problems] == [
        f"column `user` ({use}) holds integers in 1 and strings in 0" for use in ("features.user", "data.group")
    ]


@pytest.mark.parametrize("first", ["double", "integer"])
def test_the_keys_of_scores_are_integers_if_a_file_has_them_so(tmp_path, first: str) -> None:
    tables = [of_pandas(), columns(pa.int64())]
    for n, table in enumerate(tables if first == "double" else reversed(tables)):
        write_file(tmp_path, table, name=f"part-{n}.parquet")
    plan = plan_scoring(CONFIG, str(tmp_path), None, ["user", "click"])
    assert plan.keys.field("user").type == pa.int64()
    assert plan_input(make_config(FEATURES, path=str(tmp_path)), "train").rows == 10
