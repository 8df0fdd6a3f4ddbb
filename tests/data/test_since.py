"""`since`: a column that begins on a later day is null before, and an error afterwards."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.serving.plan import plan_scoring
from raymtl.serving.scorer import UnitReader
from tests.helpers.small_data import make_config, write_file

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
FEATURES: dict[str, Any] = {
    "item": {"kind": "id"},
    "dwell": {"kind": "dense", "since": DAYS[2], "fill": -1.0},
    "level": {"kind": "bucket", "column": "dwell", "edges": [3], "since": DAYS[1], "null_id": 2},
    "tags": {"kind": "ids", "since": DAYS[1]},
    "text": {"kind": "vector", "width": 2, "since": DAYS[2]},
}


def rows(*names: str) -> pa.Table:
    columns = {
        "item": pa.array([1, 2, 3]),
        "dwell": pa.array([1.0, None, 5.0]),
        "tags": pa.array([[1], None, [2, 3]]),
        "text": pa.array([[1.0, 2.0]] * 3),
        "click": pa.array([0, 1, 0], pa.int8()),
    }
    return pa.table({name: columns[name] for name in ("item", *names, "click")})


def config_of(root: Path, features: dict[str, Any] = FEATURES) -> Config:
    return make_config(features, path=str(root), train={"start": DAYS[0], "end": DAYS[2]})


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    write_file(tmp_path, rows(), DAYS[0])
    write_file(tmp_path, rows("dwell", "tags"), DAYS[1])
    write_file(tmp_path, rows("dwell", "tags", "text"), DAYS[2])
    return tmp_path


def blocks(config: Config) -> list[pa.Table]:
    plan, maker = plan_input(config, "train"), BlockMaker(config, evaluation=False)
    return [
        maker(raw, Place(fragment.path, row), 0)
        for unit in plan.units
        for fragment in unit.fragments
        for raw, row in read_fragment(plan.root, fragment, maker.raw_columns(), 100)
    ]


def test_an_absent_column_is_null_before_its_day(logs: Path) -> None:
    found = blocks(config_of(logs))
    read = {name: [block.column(name).to_pylist() for block in found] for name in found[0].column_names}
    assert read["dense:dwell"] == [[-1.0] * 3, [1.0, -1.0, 5.0], [1.0, -1.0, 5.0]]
    assert read["id:level"] == [[2, 2, 2], [0, 2, 1], [0, 2, 1]]
    assert [[len(row) for row in rows] for rows in read["ids:tags"]] == [[0, 0, 0], [1, 0, 2], [1, 0, 2]]
    assert read["vector:text"] == [[[0.0, 0.0]] * 3, [[0.0, 0.0]] * 3, [[1.0, 2.0]] * 3]


def test_scoring_reads_it_alike(logs: Path) -> None:
    config = config_of(logs)
    plan = plan_scoring(config, str(logs), None, ["item"])
    read = [part for output in plan.outputs for part in UnitReader(config, plan, {}).read(output)]
    dwell = [value for part in read for value in part.items["dense:dwell"].to_pylist()]
    assert dwell == [-1.0] * 3 + [1.0, -1.0, 5.0] * 2
    assert not any(math.isnan(value) for value in dwell)


def test_check_has_no_complaint(logs: Path, in_process: None) -> None:
    report = check_data(config_of(logs), "train", read_tasks=1)
    assert report.problems == []
    assert report.parts["train"].features["dwell"].nulls == 5


def test_from_its_day_on_it_must_be_there(logs: Path) -> None:
    write_file(logs, rows("dwell", "tags"), DAYS[2], "part-1.parquet")
    with pytest.raises(DataError, match=r"ds=2026-01-03/part-1.parquet: column `text` \(features.text\) is missing"):
        blocks(config_of(logs))


def test_every_use_of_the_column_needs_it(logs: Path) -> None:
    features = {**FEATURES, "other": {"kind": "dense", "column": "dwell"}}
    with pytest.raises(DataError, match=r"ds=2026-01-01/part-0.parquet: column `dwell` \(features.dwell\) is missing"):
        blocks(config_of(logs, features))


def test_a_column_that_no_file_has_is_noted(logs: Path) -> None:
    features = FEATURES | {"price": {"kind": "dense", "column": "prise", "since": "2062-01-01"}}
    [note] = plan_input(config_of(logs, features), "train").notes
    assert "column `prise` is in none of the files" in note
    assert note.endswith("check its name if it should be there")
    features["price"]["column"] = "dwel"
    [note] = plan_input(config_of(logs, features), "train").notes
    assert note.endswith("check its name if it should be there; did you mean `dwell`?")


def test_a_flag_is_no_id_for_null() -> None:
    with pytest.raises(ValueError, match="that is a flag of YAML; write a number"):
        config_of(Path("/nowhere"), {"item": {"kind": "id", "null_id": True}})
