"""The AliExpress converter, against plain parsing of files of the same format."""

import csv

import numpy as np
import pyarrow.compute as pc
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import convert, text_table
from raymtl.data.convert.aliexpress import COUNTRIES, DENSE, IDS, LABELS, convert_aliexpress
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.aliexpress_like import write_aliexpress_like
from tests.helpers.converted import read_split


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("aliexpress")
    write_aliexpress_like(folder, rows=301, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("aliexpress", source, folder)
    return folder


def expected(source: str, split: str) -> list[dict]:
    rows = []
    for place, country in enumerate(COUNTRIES):
        with open(f"{source}/AliExpress_{country}/{split}.csv", newline="") as file:
            for row in csv.DictReader(file):
                new = {name: int(row[name]) for name in (*IDS, *LABELS)}
                new |= {name: float(np.float32(row[name])) for name in DENSE}
                rows.append(new | {"country": country, "page": int(row["search_id"]) * 4 + place})
    return rows


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_rows_against_plain_parsing(source, out, split):
    rows = read_split(out, split)
    assert rows.column_names == [*IDS, *DENSE, "country", "page", *LABELS]
    assert str(rows.schema.field("country").type) == "string"
    assert rows.to_pylist() == expected(source, split)


def test_the_countries_take_turns(source, out, tmp_path, monkeypatch):
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 2000)
    convert("aliexpress", source, str(tmp_path))
    rows, same = read_split(tmp_path, "train"), read_split(out, "train")
    assert set(rows["country"][:150].to_pylist()) == set(COUNTRIES)
    for country in COUNTRIES:
        parts = [table.filter(pc.equal(table["country"], country)) for table in (rows, same)]
        assert parts[0].to_pylist() == parts[1].to_pylist()


def test_one_country_is_its_own_data_set(source, tmp_path):
    config = load_config(convert_aliexpress(f"{source}/AliExpress_ES", str(tmp_path)))
    assert config.data.scenario.values == ["ES"]
    assert plan_input(config, "train").rows == 301


def test_the_configuration_fits_the_data(out):
    config, rows = load_config(f"{out}/config.yaml"), read_split(out, "train")
    assert [plan_input(config, part).rows for part in ("train", "eval")] == [1204, 1204]
    assert config.tasks["conversion"].parent == "click"
    assert config.data.scenario.values == list(COUNTRIES)
    assert [name for name in IDS if config.features[name].side == "user"] == list(IDS[:9])
    assert max(pc.value_counts(rows["page"]).field("counts").to_pylist()) == 8
    for name in DENSE:
        values, feature = rows[name].to_numpy().astype(float), config.features[name]
        assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std() or 1), abs=1e-5)


def test_the_check_finds_no_problem(out, in_process):
    assert check_data(load_config(f"{out}/config.yaml"), "both").problems == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("categorical_3", "x", "line 4: categorical_3 is 'x', not an integer"),
        ("numerical_40", "1,5", r"line 4: 83 fields instead of 82 in"),
        ("numerical_40", "nan", "line 4: numerical_40 is 'nan', not a number"),
        ("conversion", "2", "line 4: conversion is '2', not 0 or 1"),
        ("conversion", "1", "line 4: conversion is '1', not 0, as the product was not clicked"),
        ("search_id", "", "line 4: search_id is '', not an integer"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, column, value, message):
    write_aliexpress_like(tmp_path / "in", rows=9, countries=["FR"])
    path = tmp_path / "in" / "AliExpress_FR" / "train.csv"
    lines = path.read_text().splitlines()
    names, fields = lines[0].split(","), lines[3].split(",")
    fields[-2:] = ["0", "0"]
    fields[names.index(column)] = value
    path.write_text("\n".join([*lines[:3], ",".join(fields), *lines[4:]]) + "\n")
    with pytest.raises(DataError, match=f"train.csv`, {message}"):
        convert_aliexpress(f"{tmp_path}/in", f"{tmp_path}/out")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has none of \['AliExpress_NL', .*; download the processed data from https"):
        convert_aliexpress(str(tmp_path), f"{tmp_path}/out")
    write_aliexpress_like(tmp_path, rows=9, countries=["NL", "US"])
    (tmp_path / "AliExpress_US" / "test.csv").unlink()
    with pytest.raises(DataError, match=r"AliExpress_US` has no test.csv; download it from"):
        convert_aliexpress(str(tmp_path), f"{tmp_path}/out")
    path = tmp_path / "AliExpress_NL" / "train.csv"
    path.write_text(path.read_text().replace("numerical_63", "numerical_64"))
    write_aliexpress_like(tmp_path / "us", rows=9, countries=["US"])
    with pytest.raises(DataError, match=r"train.csv` lacks a column of .*numerical_63"):
        convert_aliexpress(f"{tmp_path}/AliExpress_NL", f"{tmp_path}/out")
