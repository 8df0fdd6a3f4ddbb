"""The converter of Criteo's attribution data, against plain parsing of a file of the same format."""

import csv
import datetime as dt
import gzip

import numpy as np
import pyarrow.compute as pc
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import convert, text_table
from raymtl.data.convert.criteo_attribution import CATEGORIES, DENSE, IDS, LABELS, convert_criteo_attribution
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.converted import read_split
from tests.helpers.criteo_attribution_like import write_criteo_attribution_like

NAME = "criteo_attribution_dataset.tsv"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("criteo")
    write_criteo_attribution_like(folder, rows=2003, users=300, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("criteo_attribution", source, folder)
    return folder


def test_all_rows_against_plain_parsing(source, out, tmp_path, monkeypatch):
    expected = []
    with gzip.open(f"{source}/{NAME}.gz", "rt") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            time, since = int(row["timestamp"]), int(row["time_since_last_click"])
            last = (
                row["attribution"] == "1" and row["click"] == "1" and int(row["click_pos"]) == int(row["click_nb"]) - 1
            )
            new = {name: int(row[name]) for name in ("uid", "campaign", *CATEGORIES)}
            new |= {"hour": time // 3600 % 24, "time_since_last_click": None if since < 0 else since}
            new |= {"click": int(row["click"]), "sale": int(row["conversion"]), "last_click_sale": int(last)}
            expected.append(new | {"timestamp": dt.datetime(2017, 1, 1) + dt.timedelta(seconds=time)})
    rows = read_split(out, "logs")
    assert rows.column_names == [*IDS, *DENSE, *LABELS, "timestamp"]
    assert rows.to_pylist() == expected
    assert 10 < pc.sum(rows["last_click_sale"]).as_py() < pc.sum(rows["sale"]).as_py() / 2
    plain = tmp_path / "in" / NAME
    plain.parent.mkdir()
    with gzip.open(f"{source}/{NAME}.gz", "rb") as file:
        plain.write_bytes(file.read())
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 3000)  # the same file, unpacked, in many batches
    convert("criteo_attribution", f"{tmp_path}/in", f"{tmp_path}/out")
    assert read_split(f"{tmp_path}/out", "logs").equals(rows)


def test_the_configuration_fits_the_data(out):
    config, rows = load_config(f"{out}/config.yaml"), read_split(out, "logs")
    assert [str(day) for day in (config.data.train.start, config.data.train.end)] == ["2017-01-01", "2017-01-24"]
    assert [str(day) for day in (config.data.eval.start, config.data.eval.end)] == ["2017-01-25", "2017-01-30"]
    train = plan_input(config, "train").rows
    assert train + plan_input(config, "eval").rows == rows.num_rows
    assert {name: task.parent for name, task in config.tasks.items()} == {
        "click": None,
        "last_click_sale": "click",
        "sale": None,
    }
    values = np.log1p(rows.slice(0, train)["time_since_last_click"].drop_null().to_numpy())
    feature = config.features["time_since_last_click"]
    assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std()), abs=1e-5)


def test_the_check_finds_no_problem(out, in_process):
    report = check_data(load_config(f"{out}/config.yaml"), "both")
    assert report.problems == []
    assert report.parts["train"].others["data.timestamp"].off_day == 0


def test_of_few_days_the_last_one_is_evaluated(tmp_path):
    write_criteo_attribution_like(tmp_path / "in", rows=60, users=9, days=3)
    config = load_config(convert_criteo_attribution(f"{tmp_path}/in", f"{tmp_path}/out"))
    assert (str(config.data.train.end), str(config.data.eval.start)) == ("2017-01-02", "2017-01-03")
    write_criteo_attribution_like(tmp_path / "one", rows=9, users=9, days=1)
    with pytest.raises(DataError, match="has less than two days; download it again"):
        convert_criteo_attribution(f"{tmp_path}/one", f"{tmp_path}/out")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("timestamp", "1483228800", "timestamp is '1483228800', not an integer from 0 to 3456000"),
        ("campaign", "x", "campaign is 'x', not an integer"),
        ("conversion", "", "conversion is '', not 0 or 1"),
        ("time_since_last_click", "-2", "time_since_last_click is '-2', not an integer of at least -1"),
        ("cat9", "1\t2", r"23 fields instead of 22"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, column, value, message):
    write_criteo_attribution_like(tmp_path, rows=30, users=9)
    with gzip.open(tmp_path / f"{NAME}.gz", "rt") as file:
        lines = file.read().splitlines()
    fields = lines[6].split("\t")
    fields[lines[0].split("\t").index(column)] = value
    (tmp_path / f"{NAME}.gz").unlink()
    (tmp_path / NAME).write_text("\n".join([*lines[:6], "\t".join(fields), *lines[7:]]) + "\n")
    with pytest.raises(DataError, match=f"{NAME}`, line 7: {message}"):
        convert_criteo_attribution(str(tmp_path), f"{tmp_path}/out")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no criteo_attribution_dataset.tsv.gz or .*; download it from https"):
        convert_criteo_attribution(str(tmp_path), f"{tmp_path}/out")
