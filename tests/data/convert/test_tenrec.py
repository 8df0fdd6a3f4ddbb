"""The Tenrec converter, against plain parsing of files of the same format."""

import csv

import pyarrow.compute as pc
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import convert, text_table
from raymtl.data.convert.tenrec import IDS, LABELS, SPLITS, convert_tenrec
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.converted import read_split
from tests.helpers.tenrec_like import write_tenrec_like


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tenrec")
    write_tenrec_like(folder, rows=2003, users=50, items=70, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("tenrec", source, folder)
    return folder


def expected(path: str, scenario: str) -> list[dict]:
    rows = []
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            new = {name: int(row[name]) for name in IDS} | {"scenario": scenario}
            if "hist_1" in row:
                steps = [int(row[f"hist_{n}"]) for n in range(1, 11)]
                new["history"] = [step for step in steps if step]
            rows.append(new | {name: int(row[name]) for name in LABELS})
    return rows


def in_order(rows: list[dict]) -> list[str]:
    return sorted(map(str, rows))


def test_every_row_is_in_one_split(source, out, tmp_path, monkeypatch):
    parts = {split: read_split(out, split) for split in SPLITS}
    assert parts["train"].column_names == [*IDS, "scenario", "history", *LABELS]
    found = [row for part in parts.values() for row in part.to_pylist()]
    rows = expected(f"{source}/ctr_data_1M.csv", "QK-video")
    assert in_order(found) == in_order(rows)
    assert {len(row["history"]) for row in rows} > {0, 10}
    assert [part.num_rows for part in parts.values()] == pytest.approx([1602, 200, 200], abs=60)
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 3000)  # the same rows in many batches
    convert("tenrec", source, str(tmp_path))
    assert all(read_split(tmp_path, split).equals(part) for split, part in parts.items())


def test_the_scenarios_are_read_if_the_benchmark_file_is_not_there(tmp_path):
    for scenario, rows in {"QK-video": 301, "QB-video": 99}.items():
        write_tenrec_like(tmp_path / "in", rows=rows, users=9, items=20, name=f"{scenario}.csv", seed=rows)
    config = load_config(convert_tenrec(f"{tmp_path}/in", f"{tmp_path}/out"))
    found = [row for split in SPLITS for row in read_split(f"{tmp_path}/out", split).to_pylist()]
    rows = expected(f"{tmp_path}/in/QK-video.csv", "QK-video") + expected(f"{tmp_path}/in/QB-video.csv", "QB-video")
    assert in_order(found) == in_order(rows)
    assert config.data.scenario.values == ["QK-video", "QB-video"]
    assert config.model.sequence.type == "none"


def test_the_configuration_fits_the_data(out):
    config, rows = load_config(f"{out}/config.yaml"), read_split(out, "train")
    assert plan_input(config, "train").rows == rows.num_rows
    assert plan_input(config, "eval").rows == read_split(out, "test").num_rows
    assert [config.tasks[name].parent for name in LABELS] == [None, "click", "click", "click"]
    assert config.map_tables() == ["user_id", "item_id"]
    assert config.tables["item_id"].rows > len(pc.unique(rows["item_id"]))
    assert config.table_of("history") == "item_id"


def test_the_check_finds_no_problem(out, in_process):
    assert check_data(load_config(f"{out}/config.yaml"), "both").problems == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("4,0,0,0,0,", "4,2,0,0,0,", "line 2: click is '2', not 0 or 1"),
        ("4,0,0,0,0,", "x,0,0,0,0,", "line 2: item_id is 'x', not an integer"),
        ("4,0,0,0,0,", "4,0,0,0,0,0,", "line 2: 21 fields instead of 20"),
        ("1202", "-5", "line 2: hist_10 is '-5', not an integer of at least 0"),
        ("hist_7", "hist_seven", "lacks a column of .*hist_7"),
        ("\n1,4,0,0,0,0,1,0,1,4,2,3,80936,781,111774,1230,26403,991,2362,1202", "", "has no rows; download it again"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, old, new, message):
    header = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age,"
    header += ",".join(f"hist_{n}" for n in range(1, 11))
    text = f"{header}\n1,4,0,0,0,0,1,0,1,4,2,3,80936,781,111774,1230,26403,991,2362,1202\n"
    (tmp_path / "ctr_data_1M.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        convert_tenrec(str(tmp_path), f"{tmp_path}/out")


def test_an_empty_step_is_no_click(tmp_path):
    write_tenrec_like(tmp_path, rows=40, users=2, items=9)
    path = tmp_path / "ctr_data_1M.csv"
    path.write_text(path.read_text().replace(",0\n", ",\n"))
    convert_tenrec(str(tmp_path), f"{tmp_path}/out")
    rows = [row for split in SPLITS for row in read_split(f"{tmp_path}/out", split).to_pylist()]
    assert len(rows) == 40
    assert all(0 not in row["history"] and None not in row["history"] for row in rows)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"source folder .*/nowhere` does not exist; pass the folder that holds ctr_data"
    ):
        convert_tenrec(f"{tmp_path}/nowhere", f"{tmp_path}/out")
    with pytest.raises(DataError, match=r"has none of \['ctr_data_1M.csv', .*; download Tenrec from https://github"):
        convert_tenrec(str(tmp_path), f"{tmp_path}/out")
