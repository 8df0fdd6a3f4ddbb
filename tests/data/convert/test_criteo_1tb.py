"""The converter of Criteo's 1 TB click logs, against plain parsing of files of the same format."""

import gzip

import numpy as np
import pyarrow.compute as pc
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import convert, text_table
from raymtl.data.convert.criteo_1tb import CATEGORIES, COLUMNS, INTEGERS, MOST_ROWS, _table_rows, convert_criteo_1tb
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.converted import read_split
from tests.helpers.criteo_1tb_like import write_criteo_1tb_like


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("criteo")
    write_criteo_1tb_like(folder, rows=301, days=3, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("criteo_1tb", source, folder)
    return folder


def test_all_rows_against_plain_parsing(source, out, tmp_path, monkeypatch):
    expected = []
    for day in range(3):
        with open(f"{source}/day_{day}") as file:
            for line in file:
                fields = line.rstrip("\n").split("\t")
                numbers = [int(f) if f else None for f in fields[:14]] + [
                    int(f, 16) if f else None for f in fields[14:]
                ]
                expected.append(dict(zip(COLUMNS, numbers, strict=True)))
    rows = read_split(out, "logs")
    assert rows.to_pylist() == expected
    assert sum(value is None for row in expected for value in row.values()) > 200
    assert pc.min(rows["int_2"]).as_py() == -1
    packed = tmp_path / "in"
    packed.mkdir()
    for day in range(3):
        with open(f"{source}/day_{day}", "rb") as file:
            (packed / f"day_{day}.gz").write_bytes(gzip.compress(file.read()))
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 3000)  # the same files, packed, in many batches
    convert("criteo_1tb", str(packed), f"{tmp_path}/out")
    assert read_split(f"{tmp_path}/out", "logs").equals(rows)


def test_the_configuration_fits_the_data(out):
    config, rows = load_config(f"{out}/config.yaml"), read_split(out, "logs").slice(0, 602)
    assert [plan_input(config, part).rows for part in ("train", "eval")] == [602, 301]
    assert (str(config.data.train.start), str(config.data.eval.end)) == ("2015-01-01", "2015-01-03")
    for name in CATEGORIES:
        distinct = len(pc.unique(rows[name].drop_null()))
        assert 7 * distinct < config.tables[name].rows < 20 * distinct + 64
    for name in INTEGERS:
        values, feature = rows[name].drop_null().to_numpy().astype(float), config.features[name]
        values = np.sign(values) * np.log1p(np.abs(values))
        assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std()), abs=1e-5)


def test_short_numbers_are_numbers_too(tmp_path):
    write_criteo_1tb_like(tmp_path / "in", rows=9, days=2)
    for day in range(2):
        path = tmp_path / "in" / f"day_{day}"
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        for n, fields in enumerate(lines):
            fields[20] = ["", "ff", "0000001a"][n % 3]
        path.write_text("".join("\t".join(fields) + "\n" for fields in lines))
    convert_criteo_1tb(f"{tmp_path}/in", f"{tmp_path}/out")
    assert read_split(f"{tmp_path}/out", "logs")["cat_7"].to_pylist() == [None, 255, 26] * 6


def test_tables_of_many_values_are_limited():
    assert [_table_rows(n) for n in (0, 3, 1000, 200_000, 30_000_000)] == [64, 64, 8192, 524_288, MOST_ROWS]


def test_the_check_finds_no_problem(out, in_process):
    assert check_data(load_config(f"{out}/config.yaml"), "both").problems == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "2", "line 3: click is '2', not 0 or 1"),
        (1, "1.5", "line 3: int_1 is '1.5', not an integer from -2147483648"),
        (14, "62770d7g", "line 3: cat_1 is '62770d7g', not up to 8 hexadecimal digits"),
        (39, "62770d790", "line 3: cat_26 is '62770d790', not up to 8 hexadecimal digits"),
        (39, "ää", "line 3: cat_26 is 'ää', not up to 8 hexadecimal digits"),
        (39, "1\t2", "line 3: 41 fields instead of 40"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, column, value, message):
    write_criteo_1tb_like(tmp_path, rows=9, days=2)
    lines = (tmp_path / "day_1").read_text().splitlines()
    fields = lines[2].split("\t")
    fields[column] = value
    (tmp_path / "day_1").write_text("\n".join([*lines[:2], "\t".join(fields), *lines[3:]]) + "\n")
    with pytest.raises(DataError, match=f"day_1`, {message}"):
        convert_criteo_1tb(str(tmp_path), f"{tmp_path}/out")


def test_a_missing_day_is_named(tmp_path):
    with pytest.raises(DataError, match=r"source folder .*/nowhere` does not exist; pass the folder that holds day_0"):
        convert_criteo_1tb(f"{tmp_path}/nowhere", f"{tmp_path}/out")
    with pytest.raises(DataError, match="has less than two of day_0 to day_23; download them from https"):
        convert_criteo_1tb(str(tmp_path), f"{tmp_path}/out")
    write_criteo_1tb_like(tmp_path, rows=9, days=4)
    (tmp_path / "day_2").unlink()
    with pytest.raises(DataError, match="has no day_2; download it from https"):
        convert_criteo_1tb(str(tmp_path), f"{tmp_path}/out")
