"""The census converter, on a small CSV made here and, where it lies beside the repository, on the real files."""

import gzip
import os
import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import CONVERTERS, convert
from raymtl.data.convert.census import CATEGORICAL, COLUMNS, DENSE, convert_census
from raymtl.data.ids.hashing import hash_rows, to_int64
from raymtl.data.units import plan_input
from raymtl.errors import DataError

REAL = os.environ.get("RAYMTL_CENSUS") or os.path.join(
    os.path.dirname(__file__), "..", "..", "..", "..", "shared", "data", "census-income"
)
real_files = pytest.mark.skipif(
    not os.path.isdir(REAL), reason="the census files are not there; set RAYMTL_CENSUS to their folder"
)
NAMES = ("census_income_1994_1995_train.csv", "census_income_1994_1995_test.csv")


def person(chance: random.Random) -> dict[str, str]:
    """One row, column by column, as the original files write it."""
    row = {c: chance.choice(["Not in universe", "?", "A, b".replace(",", ""), "Ünï"]) for c in COLUMNS}
    row |= {c: str(chance.randrange(50)) for c in DENSE}
    row |= {"instance_weight": "1700.09", "year": chance.choice(["94", "95"])}
    row["marital_stat"] = chance.choice(["Never married", "Divorced"])
    row["income_50k"] = chance.choice(["- 50000.", "50000+."])
    return row


def write(folder, rows: int = 40, packed: bool = False, **fields: str) -> list[dict[str, str]]:
    """Both files of the data set; `fields` overwrite values of the last training row. Returns the training rows."""
    chance = random.Random(0)
    people = [[person(chance) for _ in range(n)] for n in (rows, rows // 2)]
    people[0][-1].update(fields)
    for name, part in zip(NAMES, people, strict=True):
        text = "".join(", ".join(row[c] for c in COLUMNS) + "\n" for row in part)
        data = gzip.compress(text.encode()) if packed else text.encode()
        (folder / (name + (".gz" if packed else ""))).write_bytes(data)
    return people[0]


def read(out, part: str) -> pa.Table:
    folder = f"{out}/{part}/ds=1994-01-01"
    return pa.concat_tables(pq.read_table(f"{folder}/{f}", partitioning=None) for f in sorted(os.listdir(folder)))


@pytest.mark.parametrize("packed", [False, True])
def test_rows_keep_their_order_and_values(tmp_path, packed):
    people = write(tmp_path, packed=packed)
    config = convert_census(str(tmp_path), f"{tmp_path}/out")
    assert config == f"{tmp_path}/out/config.yaml"
    train, test = read(f"{tmp_path}/out", "train"), read(f"{tmp_path}/out", "test")
    assert (train.num_rows, test.num_rows) == (40, 20)
    assert train.column_names == [*CATEGORICAL, *DENSE, "income", "never_married"]
    for name in CATEGORICAL:
        assert train[name].to_pylist() == [p[name] for p in people]  # `?` and `Ünï` included, no blanks around them
    for name in DENSE:
        assert train[name].to_pylist() == [float(p[name]) for p in people]
    assert train["income"].to_pylist() == [int(p["income_50k"] == "50000+.") for p in people]
    assert train["never_married"].to_pylist() == [int(p["marital_stat"] == "Never married") for p in people]
    assert {str(f.type) for f in train.schema} == {"string", "float", "int8"}
    assert len(os.listdir(f"{tmp_path}/out/train/ds=1994-01-01")) == 8
    assert len(os.listdir(f"{tmp_path}/out/test/ds=1994-01-01")) == 4


def test_the_columns_are_counted_right():
    assert len(COLUMNS) == len(set(COLUMNS)) == 42
    assert (len(CATEGORICAL), len(DENSE)) == (32, 7)
    assert not {"income_50k", "marital_stat", "instance_weight"} & {*CATEGORICAL, *DENSE}


def test_the_configuration_fits_and_no_two_values_share_a_row(tmp_path):
    write(tmp_path)
    config = load_config(convert_census(str(tmp_path), f"{tmp_path}/out"))
    assert [plan_input(config, part).rows for part in ("train", "eval")] == [40, 20]
    assert set(config.features) == {*CATEGORICAL, *DENSE}
    assert list(config.tasks) == ["income", "never_married"]
    assert (config.train.batch_size, config.train.epochs, config.model.preset) == (512, 3, "mmoe")
    train, test = read(f"{tmp_path}/out", "train"), read(f"{tmp_path}/out", "test")
    for name in CATEGORICAL:
        values = pc.unique(pa.chunked_array([*train[name].chunks, *test[name].chunks]))
        rows = hash_rows(to_int64(values).to_numpy(), config.tables[name].rows)
        assert len(set(rows.tolist())) == len(values)
    for name, transform in DENSE.items():
        feature, values = config.features[name], train[name].to_numpy().astype(float)
        values = np.log1p(values) if transform == "log1p" else values
        assert (feature.transform, feature.mean) == (transform, pytest.approx(values.mean(), abs=1e-5))
        assert feature.std == pytest.approx(values.std(), abs=1e-5)


def test_converting_again_replaces_what_lay_there(tmp_path):
    write(tmp_path)
    convert("census", str(tmp_path), f"{tmp_path}/out")
    stale = tmp_path / "out" / "train" / "ds=1994-01-01" / "part-00099.parquet"
    stale.write_bytes((stale.parent / "part-00000.parquet").read_bytes())
    notes = stale.parent / "notes.txt"
    notes.write_text("mine")
    convert("census", str(tmp_path), f"{tmp_path}/out")
    assert not stale.exists()
    assert notes.read_text() == "mine"
    notes.unlink()
    assert read(f"{tmp_path}/out", "train").num_rows == 40


def test_the_names_of_uci_are_found_too(tmp_path):
    write(tmp_path)
    for old, new in zip(NAMES, ("census-income.data", "census-income.test"), strict=True):
        os.rename(tmp_path / old, tmp_path / new)
    convert_census(str(tmp_path), f"{tmp_path}/out")
    assert read(f"{tmp_path}/out", "test").num_rows == 20


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DataError, match=r"source folder .*/nowhere` does not exist; pass the folder"):
        convert_census(f"{tmp_path}/nowhere", f"{tmp_path}/out")
    write(tmp_path)
    os.remove(tmp_path / NAMES[1])
    with pytest.raises(DataError, match=r"has no test file \(one of"):
        convert_census(str(tmp_path), f"{tmp_path}/out")
    assert not os.path.exists(f"{tmp_path}/out")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"age": "old"}, "train.csv`: column `age` is not a number"),
        ({"age": ""}, "train.csv`: column `age` is not a number"),
        ({"income_50k": "50000"}, "train.csv`, line 40: income_50k is '50000', not one of"),
        ({"year": "94, 95"}, "is not the census file, a CSV of 42 columns"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, fields, message):
    write(tmp_path, **fields)
    with pytest.raises(DataError, match=message):
        convert_census(str(tmp_path), f"{tmp_path}/out")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x00\x01\x02\xff" * 50])
def test_another_file_under_the_name_is_refused(tmp_path, content):
    write(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(content)
    with pytest.raises(DataError, match="census"):
        convert_census(str(tmp_path), f"{tmp_path}/out")


def test_an_unknown_converter_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"no converter `zensus`; choose one of \['aliccp', .*'census', "):
        convert("zensus", str(tmp_path), f"{tmp_path}/out")
    assert all(c.summary and c.source for c in CONVERTERS.values())


@real_files
def test_the_real_files_convert_completely(tmp_path):
    config = load_config(convert_census(REAL, str(tmp_path)))
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert (train.num_rows, test.num_rows) == (199_523, 99_762)
    assert pc.sum(train["income"]).as_py() == 12_382
    assert pc.sum(train["never_married"]).as_py() == 86_485
    assert "?" in train["mig_chg_msa"].unique().to_pylist()
    assert len(plan_input(config, "train").units) == 8
    for name in CATEGORICAL:
        values = pc.unique(pa.chunked_array([*train[name].chunks, *test[name].chunks]))
        rows = hash_rows(to_int64(values).to_numpy(), config.tables[name].rows)
        assert len(set(rows.tolist())) == len(values), name
